package beside

import (
	"fmt"
	"net"
	netmail "net/mail"
	"net/smtp"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// testAnswers: a recipient answers a request from a mail program that knows
// Postfix only, and who has asked gets through; a stranger who has got hold of
// the address is turned away by Postfix, and another user by us.
func testAnswers(t *testing.T, s *site, beside ...string) {
	titles := append(append([]string{peeringOnly}, beside...), answers)
	s.startOurs(t, s.ip+":24", titles...)
	mx := s.ip + ":25"
	s.startPostfix(t, mx, titles...)
	s.outbound(t, mx, true)
	const juliet, romeo, paris = "juliet@" + ours, "romeo@" + peer, "paris@" + peer
	expectReply(t, "unasked", send(t, s.peer.SMTP, romeo, juliet, "unasked"), "550 5.7.1 ")

	permit, _ := s.asked(t, juliet, romeo)
	expectReply(t, "a stranger's answer", answerFrom(t, mx, "192.0.2.66", juliet, permit), "554 5.7.1 ")
	if reply := send(t, mx, "tybalt@"+ours, permit, "not mine"); strings.HasPrefix(reply, "250 ") {
		s.eventually(t, "it comes back", func() bool { return s.has("Undelivered Mail Returned to Sender") })
	} else {
		expectReply(t, "another user's answer", reply, "550 5.1.1 ") // we were asked before
	}
	if strings.Contains(s.grants(t, "list"), romeo) {
		t.Fatal("romeo is permitted by who was not asked")
	}
	expectReply(t, "juliet's answer", send(t, mx, juliet, permit, "Re: yes"), "250 ")
	s.eventually(t, "romeo is permitted", func() bool { return strings.Contains(s.grants(t, "list"), romeo) })
	s.eventually(t, "romeo gets through", func() bool {
		return strings.HasPrefix(sendContent(t, s.peer.SMTP, romeo, juliet, from(romeo, "permitted")), "250 ")
	})
	s.eventually(t, "it arrives", func() bool { return s.has("permitted") })

	_, refuse := s.asked(t, juliet, paris)
	expectReply(t, "juliet refuses", send(t, mx, juliet, refuse, "Re: no"), "250 ")
	s.eventually(t, "nothing waits any more", func() bool { return !strings.Contains(s.grants(t, "pending"), paris) })
	expectReply(t, "refused", sendContent(t, s.peer.SMTP, paris, juliet, from(paris, "refused")), "550 5.7.1 ")
	for _, mark := range []string{"unasked", "refused", "Re: yes", "Re: no"} {
		never(t, mark, s.mailboxes, s.others)
	}
}

// asked has an author's gateway ask a recipient, and returns the two addresses
// of the mail that arrives.
func (s *site) asked(t *testing.T, recipient, author string) (permit, refuse string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.exe, "grant", "request", recipient, author, "--config", s.peer.Config).CombinedOutput()
	if err != nil {
		t.Fatalf("grant request: %v\n%s", err, out)
	}
	s.eventually(t, author+" has asked", func() bool {
		for _, got := range s.mailboxes.Got() {
			m, err := netmail.ReadMessage(strings.NewReader(got))
			if err != nil || !strings.HasPrefix(m.Header.Get("Subject"), author+" asks") {
				continue
			}
			to, err := m.Header.AddressList("Reply-To")
			must(t, err)
			permit = to[0].Address
			_, rest, ok := strings.Cut(got, "refuse=")
			end := strings.IndexAny(rest, "> \r\n")
			if !ok || end < 0 {
				t.Fatalf("no address to refuse in\n%s", got)
			}
			refuse = "refuse=" + rest[:end]
			return true
		}
		return false
	})
	return permit, refuse
}

// grants runs `mailxmppd grant` at ours.
func (s *site) grants(t *testing.T, verb string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.exe, "grant", verb, "--config", s.ours.Config).CombinedOutput()
	if err != nil {
		t.Fatalf("grant %s: %v\n%s", verb, err, out)
	}
	return string(out)
}

func (s *site) has(mark string) bool {
	for _, got := range s.mailboxes.Got() {
		if strings.Contains(got, "Subject: "+mark+"\r\n") {
			return true
		}
	}
	return false
}

func (s *site) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(45 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func from(author, mark string) []byte {
	return fmt.Appendf(nil, "From: <%s>\r\nMessage-ID: <%s@lab.example>\r\nSubject: %s\r\n\r\nhello\r\n", author, mark, mark)
}

// answerFrom says RCPT to Postfix as a client at another address.
func answerFrom(t *testing.T, mx, client, sender, to string) string {
	t.Helper()
	conn, err := net.Dial("tcp", mx)
	must(t, err)
	conn.SetDeadline(time.Now().Add(time.Minute))
	c, err := smtp.NewClient(conn, "mx")
	must(t, err)
	defer c.Close()
	must(t, c.Hello("lab.example"))
	for _, line := range []struct {
		text string
		code int
	}{{"XCLIENT ADDR=" + client + " NAME=[UNAVAILABLE]", 220}, {"EHLO lab.example", 250}, {"MAIL FROM:<" + sender + ">", 250}} {
		id, err := c.Text.Cmd("%s", line.text)
		must(t, err)
		c.Text.StartResponse(id)
		_, _, err = c.Text.ReadResponse(line.code)
		c.Text.EndResponse(id)
		must(t, err)
	}
	if err := c.Rcpt(to); err != nil {
		return strings.ReplaceAll(err.Error(), `"`, "") // textproto quotes it
	}
	return "250 "
}

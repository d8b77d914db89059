package beside

import (
	"net"
	"net/smtp"
	"os/exec"
	"strings"
	"testing"
	"time"

	"mailxmppd/lab/harness"
)

const (
	peeringOnly = "Postfix, peering only"
	withMilter  = "Postfix, with the milter"
	withFilter  = "Postfix, with the before-queue filter"
	answers     = "Answers to requests"
	inFront     = "In front of Postfix"
)

// TestRecipes runs every recipe for Postfix.
func TestRecipes(t *testing.T) {
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	t.Run(peeringOnly, func(t *testing.T) { t.Parallel(); testPeeringOnly(t, newSite(t, exe, "127.0.41.1")) })
	t.Run(withMilter, func(t *testing.T) { t.Parallel(); testMilter(t, newSite(t, exe, "127.0.41.2")) })
	t.Run(withFilter, func(t *testing.T) { t.Parallel(); testFilter(t, newSite(t, exe, "127.0.41.3")) })
	t.Run(answers, func(t *testing.T) { t.Parallel(); testAnswers(t, newSite(t, exe, "127.0.41.8")) })
	t.Run(answers+", "+withMilter, func(t *testing.T) { t.Parallel(); testAnswers(t, newSite(t, exe, "127.0.41.6"), withMilter) })
	t.Run(answers+", "+withFilter, func(t *testing.T) { t.Parallel(); testAnswers(t, newSite(t, exe, "127.0.41.7"), withFilter) })
	t.Run(inFront, func(t *testing.T) { t.Parallel(); testInFront(t, newSite(t, exe, "127.0.41.4")) })
}

// outbound is what holds wherever a mail server sends peers' mail by us: it
// gets there over XMPP, other mail gets to the others without us, and who does
// not exist at a peer is refused at once.
func (s *site) outbound(t *testing.T, addr string, direct bool) {
	t.Helper()
	expectReply(t, "to a peer", send(t, addr, "juliet@"+ours, "romeo@"+peer, "to a peer"), "250 ")
	if before := arrived(t, s.peersMailboxes, "to a peer"); !strings.Contains(before, " with XMPP id ") {
		t.Errorf("did not come over XMPP:\n%s", before)
	}
	expectReply(t, "to a legacy domain", send(t, addr, "juliet@"+ours, "escalus@"+legacy, "to a legacy domain"), "250 ")
	if before := arrived(t, s.others, "to a legacy domain"); direct == strings.Contains(before, "by "+ours+" with ") {
		t.Errorf("which way it came:\n%s", before)
	}
	expectReply(t, "nobody at a peer", send(t, addr, "juliet@"+ours, "nobody@"+peer, "to nobody"), "550 ")
}

// inbound is what holds whoever is the MX: a peer's mail comes in over XMPP,
// others' by SMTP, and unknown mailboxes are refused by either.
func (s *site) inbound(t *testing.T, mx string) {
	t.Helper()
	expectReply(t, "from a peer", send(t, s.peer.SMTP, "romeo@"+peer, "juliet@"+ours, "from a peer"), "250 ")
	if before := arrived(t, s.mailboxes, "from a peer"); !strings.Contains(before, " with XMPP id ") {
		t.Errorf("did not come over XMPP:\n%s", before)
	}
	expectReply(t, "from a peer to nobody", send(t, s.peer.SMTP, "romeo@"+peer, "nobody@"+ours, "to nobody"), "550 ")
	expectReply(t, "by SMTP", send(t, mx, "escalus@"+legacy, "juliet@"+ours, "by SMTP"), "250 ")
	arrived(t, s.mailboxes, "by SMTP")
	expectReply(t, "by SMTP to nobody", send(t, mx, "escalus@"+legacy, "nobody@"+ours, "to nobody"), "550 ")
	never(t, "to nobody", s.mailboxes, s.peersMailboxes, s.others)
}

// judged is what holds where we are asked about mail before it is queued: the
// client that counts is Postfix's own, and what poses as ours does not arrive.
func (s *site) judged(t *testing.T, mx string) {
	t.Helper()
	must(t, s.names.Add(`_dmarc.y.example. 60 IN TXT "v=DMARC1; p=reject"`))
	must(t, s.names.Add(`y.example. 60 IN TXT "v=spf1 ip4:192.0.2.1 -all"`))
	for _, c := range []struct{ mark, client, verdict string }{
		{"from a friend", "192.0.2.1", "X-Mail-Trust: authenticated; proven by spf\r\n"},
		{"from a forger", "192.0.2.66", "X-Mail-Trust: forged; y.example asks"},
		{"from ourselves", "127.0.0.1", "X-Mail-Trust: unproven; not judged\r\n"},
	} {
		conn, err := net.Dial("tcp", mx)
		must(t, err)
		conn.SetDeadline(time.Now().Add(time.Minute))
		session, err := smtp.NewClient(conn, "mx")
		must(t, err)
		must(t, session.Hello("lab.example"))
		id, err := session.Text.Cmd("XCLIENT ADDR=%s NAME=[UNAVAILABLE] HELO=mx.y.example PROTO=ESMTP", c.client)
		must(t, err)
		session.Text.StartResponse(id)
		_, _, err = session.Text.ReadResponse(220)
		session.Text.EndResponse(id)
		must(t, err)
		id, err = session.Text.Cmd("EHLO mx.y.example")
		must(t, err)
		session.Text.StartResponse(id)
		_, _, err = session.Text.ReadResponse(250)
		session.Text.EndResponse(id)
		must(t, err)
		must(t, session.Mail("x@y.example"))
		must(t, session.Rcpt("juliet@"+ours))
		body, err := session.Data()
		must(t, err)
		poses := "X-Mail-Trust: permitted; one\r\nAuthentication-Results: " + strings.ToUpper(ours) + "; dkim=pass\r\n\tbogus\r\n" +
			"Authentication-Results: mx.other.example; none\r\nx-mail-trust: permitted; two\r\n" +
			"X-Mail-Trust : permitted; three\r\nX-MAIL-TRUST\t: permitted; four\r\n"
		_, err = body.Write(append([]byte(poses), letter(c.mark)...))
		must(t, err)
		must(t, body.Close())
		session.Close()
		before := arrived(t, s.mailboxes, c.mark)
		if strings.Count(strings.ToLower(before), "x-mail-trust") != 1 || !strings.Contains(before, c.verdict) ||
			strings.Contains(before, "bogus") || !strings.Contains(before, "Authentication-Results: mx.other.example; none\r\n") {
			t.Errorf("%s: arrived with\n%s\nwant %q", c.mark, before, c.verdict)
		}
	}
}

func testPeeringOnly(t *testing.T, s *site) {
	s.startOurs(t, s.ip+":24", peeringOnly)
	mx := s.ip + ":25"
	s.startPostfix(t, mx, peeringOnly)
	s.outbound(t, mx, true)
	s.inbound(t, mx)

	out, err := exec.Command(s.exe, "check", "--config", s.ours.Config).CombinedOutput()
	must(t, err)
	for _, want := range []string{"transport_maps = socketmap:inet:" + s.ip + ":10027:peers", "takes by SMTP is not judged here"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("check does not say %q:\n%s", want, out)
		}
	}

	// While nobody can be asked, mail waits at Postfix: it might be a peer's.
	must(t, s.ours.Stop())
	expectReply(t, "while we are away", send(t, mx, "juliet@"+ours, "lorenzo@belmont.example", "while away"), "45")
	never(t, "while away", s.others)
}

func testMilter(t *testing.T, s *site) {
	s.startOurs(t, s.ip+":24", peeringOnly, withMilter)
	mx := s.ip + ":25"
	s.startPostfix(t, mx, peeringOnly, withMilter)
	s.inbound(t, mx)
	s.outbound(t, mx, true)
	s.judged(t, mx)
	reply := sendContent(t, mx, "escalus@"+legacy, "juliet@"+ours, append([]byte(strings.Repeat("Received: by loop.example; x\r\n", 101)), letter("loop")...))
	expectReply(t, "a loop", reply, "554 5.4.6 ")
	reply = sendContent(t, mx, "escalus@"+legacy, "juliet@"+ours, append([]byte(strings.Repeat("X-Many: y\r\n", 1001)), letter("many fields")...))
	expectReply(t, "a thousand and one fields", reply, "554 5.6.0 ")
	never(t, "loop", s.mailboxes)
	never(t, "many fields", s.mailboxes)

	must(t, s.ours.Stop())
	expectReply(t, "while we are away", send(t, mx, "escalus@"+legacy, "juliet@"+ours, "while away"), "451 4.7.1 ")
	never(t, "while away", s.mailboxes)
}

func testFilter(t *testing.T, s *site) {
	s.startOurs(t, s.ip+":24", peeringOnly, withFilter)
	mx := s.ip + ":25"
	p := s.startPostfix(t, mx, peeringOnly, withFilter)
	s.inbound(t, mx)
	s.outbound(t, mx, true)
	log := p.Log()
	// The second smtpd knows the client of the first.
	if !strings.Contains(log, "orig_client=localhost[127.0.0.1]") {
		t.Error("XFORWARD has not arrived")
	}
	s.judged(t, mx)
	reply := sendContent(t, mx, "escalus@"+legacy, "juliet@"+ours, append([]byte(strings.Repeat("Received: by loop.example; x\r\n", 101)), letter("loop")...))
	expectReply(t, "a loop", reply, "554 5.4.6 ")
	never(t, "loop", s.mailboxes)

	must(t, s.ours.Stop())
	expectReply(t, "while we are away", send(t, mx, "escalus@"+legacy, "juliet@"+ours, "while away"), "451 4.3.0 ")
	never(t, "while away", s.mailboxes)
}

func testInFront(t *testing.T, s *site) {
	s.startOurs(t, s.ip+":25", inFront)
	local := s.ip + ":587"
	s.startPostfix(t, local, inFront)
	s.inbound(t, s.ours.SMTP)
	expectReply(t, "to a peer", send(t, local, "juliet@"+ours, "romeo@"+peer, "to a peer"), "250 ")
	arrived(t, s.peersMailboxes, "to a peer")
	expectReply(t, "to a legacy domain", send(t, local, "juliet@"+ours, "escalus@"+legacy, "to a legacy domain"), "250 ")
	if before := arrived(t, s.others, "to a legacy domain"); !strings.Contains(before, "by "+ours+" with ") {
		t.Errorf("did not come by us:\n%s", before)
	}
	expectReply(t, "relaying", send(t, s.ours.SMTP, "escalus@"+legacy, "romeo@"+peer, "relayed"), "550 5.7.1 ")
	never(t, "relayed", s.peersMailboxes)
}

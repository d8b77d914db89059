package dovecot

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func startDovecot(t *testing.T, users ...User) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.32.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	srv, err := Start(addr, users)
	if errors.Is(err, ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// TestFinalDelivery hands mail to a real mailbox server over TCP and over its
// socket: a verdict for each recipient, and in the mailbox the octets sent,
// behind the fields that Dovecot adds.
func TestFinalDelivery(t *testing.T) {
	srv := startDovecot(t, User{Name: "juliet"}, User{Name: "nurse"}, User{Name: "full", Quota: 1})
	client := smtpbridge.NewClient(smtpbridge.ClientConfig{Hostname: "gw.example"})
	t.Cleanup(client.Close)
	trace := "Received: by gw.example\r\nAuthentication-Results: gw.example; xmpp=pass\r\n"
	for via, addr := range map[string]string{"tcp": srv.Addr, "socket": "unix:" + srv.Socket} {
		hop := smtpbridge.Hop{Protocol: smtpbridge.ProtocolLMTP, Addrs: []string{addr}, TLS: smtpbridge.TLSNone}
		for name, body := range map[string]string{
			"plain": "hello\r\n", "dots": ".\r\n..\r\n.a\r\n...\r\nQUIT\r\n", "8-bit": "caf\xc3\xa9 \xff\xfe\r\n", "empty body": "",
			"long line": strings.Repeat("x", 998) + "\r\n", "large": strings.Repeat("a line of ordinary length, as most are\r\n", 50_000) + ".\r\n",
		} {
			mark := via + " " + name
			a := attempt(t, mark, body, "juliet@dest.example", "nobody@dest.example", "full@dest.example", "nurse+detail@dest.example")
			a.Trace = []byte(trace)
			if name != "large" { // the quota is for the large one
				a.Envelope.Recipients = slices.Delete(a.Envelope.Recipients, 2, 3)
			}
			got := client.Deliver(t.Context(), hop, a)
			want := map[string]string{
				"juliet": "delivered", "nobody": "550 5.1.1", "full": "552 5.2.2", "nurse": "delivered",
			}
			for i, o := range got {
				user, _, _ := strings.Cut(a.Envelope.Recipients[i].Address.Local, "+")
				if v := verdict(o); v != want[user] {
					t.Errorf("%s, %s: %s, want %s (%v)", mark, user, v, want[user], o.Failure)
				}
				if o.Failure == nil && (!o.Final || o.Relayed) {
					t.Errorf("%s, %s: %+v", mark, user, o)
				}
			}
			for _, user := range []string{"juliet", "nurse"} {
				if n := count(t, srv, user, "", mark, trace+contentOf(t, a)); n != 1 {
					t.Errorf("%s: %d times unchanged in the mailbox of %s", mark, n, user)
				}
			}
		}
		failures, err := client.Verify(t.Context(), hop, mail.Address{}, false, attempt(t, "", "", "juliet@dest.example", "nobody@dest.example").Envelope.Recipients)
		if err != nil || failures[0] != nil || failures[1] == nil || failures[1].Code != 550 {
			t.Errorf("%s: Verify: %v, %v", via, failures, err)
		}
	}
	if left, err := srv.Mailbox("full", ""); err != nil || len(left) != 0 {
		t.Errorf("%d messages in a mailbox that refused them, %v", len(left), err)
	}
}

// TestSieve: the user's own filter sees the fields that a gateway puts before
// the message.
func TestSieve(t *testing.T) {
	srv := startDovecot(t, User{Name: "juliet", Sieve: `require ["fileinto", "mailbox"];
if header :contains "Authentication-Results" "xmpp=pass" {
	fileinto :create "Proven";
}
`})
	client := smtpbridge.NewClient(smtpbridge.ClientConfig{Hostname: "gw.example"})
	t.Cleanup(client.Close)
	for mark, c := range map[string]struct{ trace, folder, other string }{
		"proven": {"Authentication-Results: gw.example;\r\n\txmpp=pass\r\n", "Proven", ""},
		"not":    {"Authentication-Results: gw.example;\r\n\txmpp=none\r\n", "", "Proven"},
	} {
		a := attempt(t, mark, "x\r\n", "juliet@dest.example")
		a.Trace = []byte(c.trace)
		hop := smtpbridge.Hop{Protocol: smtpbridge.ProtocolLMTP, Addrs: []string{srv.Addr}, TLS: smtpbridge.TLSNone}
		if o := client.Deliver(t.Context(), hop, a)[0]; o.Failure != nil {
			t.Errorf("%s: %v", mark, o.Failure)
		}
		content := c.trace + contentOf(t, a)
		if count(t, srv, "juliet", c.folder, mark, content) != 1 || count(t, srv, "juliet", c.other, mark, content) != 0 {
			t.Errorf("%s: not in its folder\n%s", mark, srv.Log())
		}
	}
}

// count is how often a folder has the content, and complains of a message that
// has its mark and is not the content.
func count(t *testing.T, srv *Server, user, folder, mark, content string) int {
	t.Helper()
	messages, err := srv.Mailbox(user, folder)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range messages {
		switch {
		case strings.HasSuffix(m, "\r\n"+content):
			n++
		case strings.Contains(m, "Subject: "+mark+"\r\n"):
			t.Errorf("%s: arrived changed:\n%.600q", mark, m)
		}
	}
	return n
}

func attempt(t *testing.T, mark, body string, rcpts ...string) mail.Attempt {
	t.Helper()
	b := mail.NewBuffer(t.TempDir())
	fmt.Fprintf(b, "From: romeo@montague.example\r\nSubject: %s\r\n\r\n%s", mark, body)
	t.Cleanup(func() { b.Close() })
	a := mail.Attempt{Content: b, Facts: b.Facts(), Domain: "dest.example"}
	a.Envelope.Sender = mail.Address{Local: "romeo", Domain: "montague.example"}
	for _, r := range rcpts {
		address, err := mail.ParseAddress(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{Address: address})
	}
	return a
}

func contentOf(t *testing.T, a mail.Attempt) string {
	t.Helper()
	in, err := a.Content.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func verdict(o mail.Outcome) string {
	if o.Failure == nil {
		return "delivered"
	}
	return fmt.Sprint(o.Failure.Code, " ", o.Failure.Status())
}

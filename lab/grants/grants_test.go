// Package grants has two gateways agree on who may write to whom: a stranger is
// refused, asks, is permitted by a mail that the recipient answers, gets
// through, and is refused again once that is taken back.
package grants

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	netmail "net/mail"
	"net/smtp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// town is a.example, where juliet writes, and b.example, where romeo takes mail
// only from who is permitted.
type town struct {
	t          *testing.T
	exe        string
	ca         *harness.CA
	a, b       *harness.Gateway
	boxes      *harness.Sink // of both
	submission string        // of b
}

const onlyPermitted = `
[[listener]]
kind = "submission"
address = %q
tls = "implicit"
[domain.trust]
default = "deny"
auto_grant = "on"
`

const password = "wherefore art thou"

func newTown(t *testing.T) *town {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &town{t: t}
	w.exe, err = harness.Build(dir)
	must(t, err)
	w.ca, err = harness.NewCA(dir)
	must(t, err)
	names, err := harness.NewNames()
	must(t, err)
	t.Cleanup(func() { names.Close() })
	w.boxes, err = harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(w.boxes.Close)
	addrs, err := harness.FreeAddrs(5)
	must(t, err)
	gateway := func(domain, smtp, xmpp, peer, peerXMPP, extra string) *harness.Gateway {
		g, err := harness.NewGateway(harness.Spec{
			Exe: w.exe, Dir: filepath.Join(dir, domain), CA: w.ca, Domain: domain, SMTP: smtp, XMPP: xmpp, DNS: names.Addr,
			Store: "sqlite://" + filepath.Join(dir, domain+".db"), Deliver: "lmtp://" + w.boxes.Addr,
			Peers: map[string]string{peer: peerXMPP}, Route: "smtp://127.0.0.1:9", Extra: extra,
		})
		must(t, err)
		t.Cleanup(func() {
			if err := g.Stop(); err != nil {
				t.Error(err)
			}
			if log := g.Log(); t.Failed() {
				t.Logf("the end of the log of %s:\n%s", domain, log[max(0, len(log)-4000):])
			}
		})
		if domain == "b.example" {
			w.user(dir, g, "romeo@b.example")
		}
		must(t, g.Start(t.Context()))
		return g
	}
	w.submission = addrs[4]
	w.b = gateway("b.example", addrs[2], addrs[3], "a.example", addrs[1], fmt.Sprintf(onlyPermitted, w.submission))
	w.a = gateway("a.example", addrs[0], addrs[1], "b.example", addrs[3], "")
	return w
}

// send hands a message to a gateway, as a neighbour does; it returns the reply
// that refuses it, or "".
func (w *town) send(g *harness.Gateway, from, to, subject string) string {
	w.t.Helper()
	c, err := harness.Dial(g.SMTP)
	must(w.t, err)
	defer c.Close()
	content := fmt.Sprintf("From: %s\r\nSubject: %s\r\nMessage-ID: <%s@lab.example>\r\n\r\nhello\r\n", from, subject, subject)
	said, err := c.Send(from, []string{to}, harness.Stuff([]byte(content)))
	if err != nil {
		return said
	}
	return ""
}

// user adds one to a gateway that does not run yet.
func (w *town) user(dir string, g *harness.Gateway, name string) {
	w.t.Helper()
	file := filepath.Join(dir, "password")
	must(w.t, os.WriteFile(file, []byte(password), 0o600))
	out, err := exec.Command(w.exe, "user", "add", name, "--password-file", file, "--config", g.Config).CombinedOutput()
	if err != nil {
		w.t.Fatalf("user add: %v\n%s", err, out)
	}
}

// submit sends as romeo's mail program does, with his password.
func (w *town) submit(to, header string) {
	w.t.Helper()
	pem, err := os.ReadFile(w.ca.File)
	must(w.t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", w.submission, &tls.Config{RootCAs: roots, ServerName: "b.example"})
	must(w.t, err)
	c, err := smtp.NewClient(conn, "b.example")
	must(w.t, err)
	defer c.Close()
	must(w.t, c.Auth(smtp.PlainAuth("", "romeo@b.example", password, "b.example")))
	must(w.t, c.Mail("romeo@b.example"))
	must(w.t, c.Rcpt(to))
	data, err := c.Data()
	must(w.t, err)
	fmt.Fprintf(data, "From: romeo@b.example\r\nTo: %s\r\n%sSubject: written\r\nMessage-ID: <%s@b.example>\r\n\r\nhello\r\n", to, header, to)
	must(w.t, data.Close())
	must(w.t, c.Quit())
}

// arrived waits for the message with a subject at b.
func (w *town) arrived(subject string) string {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, m := range w.boxes.Got() {
			if strings.Contains(m, "Subject: "+subject) {
				return m
			}
		}
	}
	w.t.Fatalf("%q has not arrived", subject)
	return ""
}

// grant runs `mailxmppd grant` on a gateway.
func (w *town) grant(g *harness.Gateway, args ...string) string {
	w.t.Helper()
	out, err := exec.Command(w.exe, append(append([]string{"grant"}, args...), "--config", g.Config)...).CombinedOutput()
	if err != nil {
		w.t.Fatalf("grant %v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (w *town) eventually(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(45 * time.Second); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatal("never: " + what)
		}
	}
}

// TestAskedByMail follows one permission over the wire.
func TestAskedByMail(t *testing.T) {
	w := newTown(t)
	const romeo, juliet, denied = "romeo@b.example", "juliet@a.example", "550 5.7.1 "
	if said := w.send(w.a, juliet, romeo, "unasked"); !strings.HasPrefix(said, denied) {
		t.Fatalf("a stranger was told %q", said)
	}

	w.grant(w.a, "request", romeo, juliet, "--text", "We met at the ball.")
	asked := w.arrived(juliet + " asks to write to you")
	m, err := netmail.ReadMessage(strings.NewReader(asked))
	must(t, err)
	to, err := m.Header.AddressList("Reply-To")
	must(t, err)
	if m.Header.Get("Auto-Submitted") != "auto-generated" || !strings.Contains(asked, "    | We met at the ball.\r\n") {
		t.Errorf("asked by\n%s", asked)
	}
	if pending := w.grant(w.b, "pending"); !strings.Contains(pending, juliet) {
		t.Errorf("pending:\n%s", pending)
	}
	// Whoever else answers is not heard: not another mailbox, and not the author
	// over XMPP, whose gateway says that its peer knows no such mailbox.
	if said := w.send(w.b, "tybalt@b.example", to[0].Address, "not mine"); !strings.HasPrefix(said, "550 5.1.1 ") {
		t.Errorf("another's answer: %q", said)
	}
	if said := w.send(w.a, juliet, to[0].Address, "let me"); !strings.HasPrefix(said, denied) {
		t.Errorf("the author's answer: %q", said)
	}
	if said := w.send(w.b, romeo, to[0].Address, "Re: yes"); said != "" {
		t.Fatalf("romeo's answer: %q", said)
	}
	if said := w.send(w.b, romeo, to[0].Address, "Re: yes"); !strings.HasPrefix(said, "550 5.1.1 ") {
		t.Errorf("answered again: %q", said)
	}
	w.eventually("juliet's gateway has the grant", func() bool { return strings.Contains(w.grant(w.a, "list", "--held"), romeo) })
	if given := w.grant(w.b, "list"); !strings.Contains(given, "recipient") || !strings.Contains(given, juliet) {
		t.Errorf("given:\n%s", given)
	}

	w.eventually("juliet gets through", func() bool { return w.send(w.a, juliet, romeo, "permitted") == "" })
	if m := w.arrived("permitted"); !strings.Contains(m, "X-Mail-Trust: permitted; "+juliet+" is permitted by the recipient") {
		t.Errorf("delivered as\n%s", m)
	}
	if said := w.send(w.a, "tybalt@a.example", romeo, "of her domain"); !strings.HasPrefix(said, denied) {
		t.Errorf("somebody else of her domain was told %q", said)
	}

	w.grant(w.b, "revoke", romeo, juliet)
	if said := w.send(w.a, juliet, romeo, "revoked"); !strings.HasPrefix(said, denied) {
		t.Errorf("after it was taken back she was told %q", said)
	}
	w.eventually("juliet's gateway has heard of it", func() bool { return !strings.Contains(w.grant(w.a, "list", "--held"), romeo) })
	for _, m := range w.boxes.Got() {
		if strings.Contains(m, "Subject: unasked") || strings.Contains(m, "Subject: revoked") || strings.Contains(m, "Subject: Re: yes") {
			t.Errorf("delivered all the same:\n%s", m)
		}
	}
}

// TestAnsweredBySubmission: the recipient answers from a mail program, with a
// password; whom he writes to may write back, but not whom a program of his
// has answered.
func TestAnsweredBySubmission(t *testing.T) {
	w := newTown(t)
	const romeo, juliet, paris, nurse = "romeo@b.example", "juliet@a.example", "paris@a.example", "nurse@a.example"
	w.grant(w.a, "request", romeo, juliet)
	m, err := netmail.ReadMessage(strings.NewReader(w.arrived(juliet + " asks to write to you")))
	must(t, err)
	to, err := m.Header.AddressList("Reply-To")
	must(t, err)
	w.submit(to[0].Address, "")
	w.submit(paris, "")
	w.submit(nurse, "Auto-Submitted: auto-replied\r\n")
	w.eventually("both permitted", func() bool {
		held := w.grant(w.a, "list", "--held")
		return strings.Contains(held, juliet) && strings.Contains(held, paris)
	})
	if given := w.grant(w.b, "list"); !strings.Contains(given, "automatic") || strings.Contains(given, nurse) {
		t.Errorf("given:\n%s", given)
	}
	for _, from := range []string{juliet, paris} {
		w.eventually(from+" gets through", func() bool { return w.send(w.a, from, romeo, "back from "+from) == "" })
		if m := w.arrived("back from " + from); !strings.Contains(m, "X-Mail-Trust: permitted; ") {
			t.Errorf("delivered as\n%s", m)
		}
	}
	if said := w.send(w.a, nurse, romeo, "from who was answered by a program"); !strings.HasPrefix(said, "550 5.7.1 ") {
		t.Errorf("nurse was told %q", said)
	}
}

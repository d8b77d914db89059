// Package bounces has mail refused after it was accepted, at the far end of a
// stream between two gateways, and follows the DSN back over that stream.
package bounces

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is two gateways, each with mailboxes of its own, and the SMTP host of
// all other domains.
type lab struct {
	pair   *harness.Pair
	a, b   *harness.Sink
	legacy *harness.Sink // of a alone: b has no way out but the stream
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newSink(t *testing.T) *harness.Sink {
	t.Helper()
	s, err := harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(s.Close)
	return s
}

// newLab starts both gateways. Each verifies no recipients, so that what b's
// mailboxes refuse was accepted before.
func newLab(t *testing.T, cut bool) *lab {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := harness.Build(dir)
	must(t, err)
	ca, err := harness.NewCA(dir)
	must(t, err)
	l := &lab{a: newSink(t), b: newSink(t), legacy: newSink(t)}
	l.b.Refuse(func(rcpt string) bool { return strings.HasPrefix(rcpt, "nobody@") })
	addrs, err := harness.FreeAddrs(4)
	must(t, err)
	gateway := func(domain, smtp, xmpp, peer, peerXMPP string, box *harness.Sink, route string) *harness.Gateway {
		g, err := harness.NewGateway(harness.Spec{
			Exe: exe, Dir: filepath.Join(dir, domain), CA: ca, Domain: domain, SMTP: smtp, XMPP: xmpp,
			Store: "sqlite://" + filepath.Join(dir, domain+".db"), Deliver: "lmtp://" + box.Addr,
			Peers: map[string]string{peer: peerXMPP}, Route: route,
			Extra: fmt.Sprintf("cut_through = %v\n[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\n", cut),
		})
		must(t, err)
		t.Cleanup(func() {
			g.Kill()
			if log := g.Log(); t.Failed() {
				t.Logf("the end of the log of %s:\n%s", domain, log[max(0, len(log)-4000):])
			}
		})
		must(t, g.Start(t.Context()))
		return g
	}
	l.pair = &harness.Pair{
		B: gateway("b.example", addrs[2], addrs[3], "a.example", addrs[1], l.b, "smtp://127.0.0.1:9"),
		A: gateway("a.example", addrs[0], addrs[1], "b.example", addrs[3], l.a, "smtp://"+l.legacy.Addr),
	}
	return l
}

func (l *lab) send(t *testing.T, from, subject string, to ...string) {
	t.Helper()
	c, err := harness.Dial(l.pair.A.SMTP)
	must(t, err)
	defer c.Close()
	content := fmt.Sprintf("From: %s\r\nSubject: %s\r\nMessage-ID: <%s@lab.example>\r\n\r\nhello\r\n", from, subject, subject)
	if said, err := c.Send(from, to, harness.Stuff([]byte(content))); err != nil {
		t.Fatalf("%v %s", err, said)
	}
}

// arrived waits for the only message of a mailbox.
func arrived(t *testing.T, what string, s *harness.Sink) string {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); s.Count() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
	return s.Got()[0]
}

// holds checks that a message has all of some lines or words, once their
// folding is undone.
func holds(t *testing.T, message string, words ...string) {
	t.Helper()
	plain := strings.ReplaceAll(message, "\r\n\t", " ")
	for _, w := range words {
		if !strings.Contains(plain, w) {
			t.Errorf("%q is not in\n%s", w, message)
		}
	}
}

// header is what a message begins with, up to the empty line.
func header(message string) string {
	h, _, _ := strings.Cut(message, "\r\n\r\n")
	return h + "\r\n"
}

// once checks what is in each mailbox in the end, when a while has passed in
// which a twin, or a DSN for the DSN, would have come.
func (l *lab) once(t *testing.T, a, b, legacy int) {
	t.Helper()
	for still, last := 0, -1; still < 30; time.Sleep(50 * time.Millisecond) {
		if n := l.a.Count() + l.b.Count() + l.legacy.Count(); n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
	if x, y, z := l.a.Count(), l.b.Count(), l.legacy.Count(); x != a || y != b || z != legacy {
		t.Errorf("%d messages at a, %d at b, %d at the legacy host; want %d, %d, %d", x, y, z, a, b, legacy)
	}
}

// TestBounceOverTheStream: b's mailbox refuses what b has accepted; a's sender
// learns it by a DSN that comes over XMPP.
func TestBounceOverTheStream(t *testing.T) {
	t.Parallel()
	for _, cut := range []bool{true, false} {
		t.Run(fmt.Sprint("cut-through ", cut), func(t *testing.T) {
			t.Parallel()
			l := newLab(t, cut)
			l.send(t, "juliet@a.example", "adieu", "nobody@b.example", "romeo@b.example")
			dsn := arrived(t, "a DSN at a", l.a)
			holds(t, header(dsn), "Received: from b.example ([127.0.0.1]) by ", " with XMPP id ", "for <juliet@a.example>",
				"From: Mail Delivery System <MAILER-DAEMON@b.example>", "To: juliet@a.example",
				"Content-Type: multipart/report; report-type=delivery-status;")
			holds(t, dsn, "Final-Recipient: rfc822; nobody@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n", "\r\nSubject: adieu\r\n")
			if strings.Contains(dsn, "Final-Recipient: rfc822; romeo@") {
				t.Error("whose mail arrived is reported too")
			}
			holds(t, header(arrived(t, "the message at b", l.b)), " with XMPP id ", "Subject: adieu\r\n")
			l.once(t, 1, 1, 0)
		})
	}
}

// TestBounceThroughSRS: mail of a foreign domain goes through a to b, which
// refuses it after it was accepted. The DSN goes to a over XMPP, to the
// address that a has made, and from there to the domain it came from.
func TestBounceThroughSRS(t *testing.T) {
	t.Parallel()
	l := newLab(t, false)
	l.send(t, "rosaline@verona.example", "forwarded", "nobody@b.example")
	dsn := arrived(t, "a DSN at the legacy host", l.legacy)
	holds(t, header(dsn), "Received: from b.example ([127.0.0.1]) by ", " with XMPP id ", "for <rosaline@verona.example>",
		"From: Mail Delivery System <MAILER-DAEMON@b.example>", "=verona.example=rosaline@a.example",
		"Content-Type: multipart/report; report-type=delivery-status;")
	holds(t, dsn, "Final-Recipient: rfc822; nobody@b.example\r\nAction: failed\r\nStatus: 5.1.1\r\n", "\r\nSubject: forwarded\r\n")
	l.once(t, 0, 0, 1)
}

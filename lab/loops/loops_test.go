// Package loops lets a real Postfix bring back to a gateway what the gateway
// hands to it, in every way in which two neighbours can be set up wrongly, and
// counts the rounds.
package loops

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/postfix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// This package's Postfix is at 127.0.41.1.
const postfixIP = "127.0.41.1"

// lab is a gateway for home.example, whose mailboxes are the sink's, and for
// second.example, whose mail goes to the Postfix; which has "*" to the gateway in
// its transport map, and an alias.
type lab struct {
	gateway *harness.Gateway
	sink    *harness.Sink
	postfix *postfix.Server
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newLab starts all of it. smtp is what the gateway's [smtp] says, with the
// Postfix's port for %d.
func newLab(t *testing.T, exe, smtp string) *lab {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := harness.NewCA(dir)
	must(t, err)
	addrs, err := harness.FreeAddrs(3)
	must(t, err)
	l := &lab{}
	l.sink, err = harness.NewSink("127.0.0.1:0", func(b []byte) string { return string(b) })
	must(t, err)
	t.Cleanup(l.sink.Close)

	_, port, _ := strings.Cut(addrs[2], ":")
	at := postfixIP + ":" + port
	_, back, _ := strings.Cut(addrs[0], ":")
	l.postfix, err = postfix.Start(postfix.Spec{
		Listen: at, Host: "mta.home.example", Sink: "127.0.0.1:9",
		Extra: "relayhost =\nmynetworks = 127.0.0.0/8\nsmtpd_relay_restrictions = permit_mynetworks, reject\n" +
			"transport_maps = inline:{ { * = smtp:[127.0.0.1]:" + back + " } }\n" +
			"virtual_alias_maps = inline:{ { alias@far.example = romeo@home.example } }\n",
	})
	if errors.Is(err, postfix.ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if err := l.postfix.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", l.gateway.Log())
		}
	})
	names, err := harness.NewNames(
		"far.example. 60 IN MX 10 mta.home.example.", "mta.home.example. 60 IN A "+postfixIP,
		"ours.example. 60 IN MX 10 gw.home.example.", "gw.home.example. 60 IN A 127.0.0.1",
		"nat.example. 60 IN MX 10 outside.example.", "outside.example. 60 IN A 127.0.41.9",
	)
	must(t, err)
	t.Cleanup(func() { names.Close() })
	cert, key, err := ca.Issue("second.example")
	must(t, err)
	l.gateway, err = harness.NewGateway(harness.Spec{
		Exe: exe, Dir: filepath.Join(dir, "gw"), CA: ca, Domain: "home.example", SMTP: addrs[0], XMPP: addrs[1], DNS: names.Addr,
		Store: "sqlite://" + filepath.Join(dir, "mail.db"), Deliver: "lmtp://" + l.sink.Addr,
		Extra: fmt.Sprintf("[[domain]]\nname = \"second.example\"\ncertificate = %q\nkey = %q\ndeliver = \"smtp://%s\"\nverify = \"none\"\n", cert, key, at) +
			"[smtp]\nhostname = \"gw.home.example\"\nmx_port = " + port + "\n" + strings.ReplaceAll(smtp, "POSTFIX", at),
	})
	must(t, err)
	t.Cleanup(func() { l.gateway.Kill() })
	must(t, l.gateway.Start(t.Context()))
	return l
}

// send gives a message to the gateway.
func (l *lab) send(t *testing.T, subject string, to ...string) {
	t.Helper()
	c, err := harness.Dial(l.gateway.SMTP)
	must(t, err)
	defer c.Close()
	content := fmt.Sprintf("From: juliet@home.example\r\nSubject: %s\r\nMessage-ID: <%s@home.example>\r\n\r\nhello\r\n", subject, subject)
	if said, err := c.Send("juliet@home.example", to, harness.Stuff([]byte(content))); err != nil {
		t.Fatalf("%v %s", err, said)
	}
}

// arrivals waits until so many messages are in the mailboxes and no more come.
func (l *lab) arrivals(t *testing.T, n int) []string {
	t.Helper()
	for end := time.Now().Add(time.Minute); l.sink.Count() < n; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d messages in the mailboxes, want %d\n%s", l.sink.Count(), n, l.postfix.Log())
		}
	}
	for still, last := 0, -1; still < 20; time.Sleep(50 * time.Millisecond) {
		if now := l.sink.Count(); now == last {
			still++
		} else {
			last, still = now, 0
		}
	}
	if got := l.sink.Got(); len(got) != n {
		t.Fatalf("%d messages in the mailboxes, want %d:\n%s", len(got), n, strings.Join(got, "\n----\n"))
	}
	return l.sink.Got()
}

// rounds is how many times the gateway took a message for a recipient.
func (l *lab) rounds(rcpt string) int {
	n := 0
	for line := range strings.Lines(l.gateway.Log()) {
		if strings.Contains(line, "msg=accepted ") && strings.Contains(line, "rcpt="+rcpt) {
			n++
		}
	}
	return n
}

// oneDSN checks that the only thing that came of it is one clear DSN, and that
// the message went round no further than once.
func (l *lab) oneDSN(t *testing.T, rcpts ...string) {
	t.Helper()
	dsn := l.arrivals(t, 1)[0]
	if !strings.Contains(dsn, "report-type=delivery-status") {
		t.Errorf("no DSN:\n%s", dsn)
	}
	for _, r := range rcpts {
		if !strings.Contains(strings.ReplaceAll(dsn, "rfc822;", "rfc822; "), r) || !strings.Contains(dsn, "Status: 5.4.6") {
			t.Errorf("%s is not reported as looping:\n%s", r, dsn)
		}
	}
	if n := l.rounds(rcpts[0]); n != 1 {
		t.Errorf("taken %d times", n)
	}
}

// TestLoops: a Postfix with "*" to us in its transport map, and MX records that
// lead back here.
func TestLoops(t *testing.T) {
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	t.Run("neighbour", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, exe, "legacy = \"neighbour\"\nneighbour = \"smtp://POSTFIX\"\n")
		l.send(t, "round", "romeo@far.example", "nurse@far.example")
		l.oneDSN(t, "romeo@far.example", "nurse@far.example")
	})
	t.Run("forwarded by the neighbour", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, exe, "legacy = \"neighbour\"\nneighbour = \"smtp://POSTFIX\"\n")
		l.send(t, "forwarded", "alias@far.example")
		if m := l.arrivals(t, 1)[0]; !strings.Contains(m, "Subject: forwarded\r\n") || strings.Count(m, "by gw.home.example with ") != 2 {
			t.Errorf("not the message after its second passage:\n%s", m)
		}
	})
	t.Run("MTA of a domain of ours", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, exe, "")
		l.send(t, "home", "romeo@second.example")
		l.oneDSN(t, "romeo@second.example")
	})
	t.Run("MX that is the neighbour", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, exe, "")
		l.send(t, "mx", "romeo@far.example")
		l.oneDSN(t, "romeo@far.example")
	})
	t.Run("MX that is us", func(t *testing.T) {
		t.Parallel()
		l := newLab(t, exe, "own_addresses = [\"127.0.41.9\"]\n")
		l.send(t, "us", "romeo@ours.example")
		l.oneDSN(t, "romeo@ours.example")
		l.send(t, "nat", "romeo@nat.example")
		if dsn := l.arrivals(t, 2)[1]; !strings.Contains(dsn, "Status: 5.4.6") {
			t.Errorf("NAT:\n%s", dsn)
		}
	})
}

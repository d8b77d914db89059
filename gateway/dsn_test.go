package gateway

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestBounce: a permanent failure after the 250 comes back as a DSN that says
// who, what and why; a null reverse-path and NOTIFY=NEVER get none.
func TestBounce(t *testing.T) {
	w := newWorld(t, nil)
	w.legacy.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome {
			f := mail.FromReply("mx.far.example", 550, "5.1.1", "no such user\r\nInjected: x")
			return []mail.Outcome{{Failure: f, Remote: "mx.far.example"}}
		}
	})
	m := w.message(sample, "romeo@home.example", "x@far.example")
	m.Envelope.Recipients[0].Original = "rfc822;x@far.example"
	m.Envelope.EnvelopeID = "E1"
	w.send(m, false)
	w.waitState("romeo@home.example", store.Delivered)
	dsn := w.local.deliveries()[0]
	for _, want := range []string{
		"Content-Type: multipart/report; report-type=delivery-status;", "Reporting-MTA: dns; gw.home.example\r\n",
		"Original-Envelope-Id: E1\r\n", "Original-Recipient: rfc822;x@far.example\r\n", "Final-Recipient: rfc822; x@far.example\r\n",
		"Action: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; mx.far.example\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user Injected: x\r\n",
		"Content-Type: text/rfc822-headers\r\n", "Subject: s\r\n", "From: Mail Delivery System <MAILER-DAEMON@home.example>\r\n",
	} {
		if !strings.Contains(dsn.content, want) {
			t.Errorf("dsn lacks %q:\n%s", want, dsn.content)
		}
	}
	if strings.Contains(dsn.content, "body\r\n") || !dsn.attempt.Envelope.Sender.IsNull() {
		t.Errorf("dsn returns the body or has a reverse-path:\n%s", dsn.content)
	}

	w.send(w.message(sample, "", "y@far.example"), false)
	never := w.message(sample, "romeo@home.example", "z@far.example")
	never.Envelope.Recipients[0].Notify = mail.NotifyNever
	w.send(never, false)
	w.waitState("y@far.example", store.Bounced)
	w.waitState("z@far.example", store.Bounced)
	if n := len(w.local.deliveries()); n != 1 {
		t.Errorf("%d DSNs, want 1", n)
	}
}

// TestReturnFull: RET=FULL returns the message as it was.
func TestReturnFull(t *testing.T) {
	w := newWorld(t, nil)
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	m := w.message(sample, "romeo@home.example", "x@far.example")
	m.Envelope.Return = "FULL"
	w.send(m, false)
	w.waitState("romeo@home.example", store.Delivered)
	if got := w.local.deliveries()[0].content; !strings.Contains(got, "Content-Type: message/rfc822\r\n") || !strings.Contains(got, sample) {
		t.Errorf("the message is not returned whole:\n%s", got)
	}
}

// TestExpiry: out of time, one DSN that repeats the last answer.
func TestExpiry(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst = 100 * time.Millisecond })
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome {
			return []mail.Outcome{{Failure: mail.FromReply("mx.far.example", 451, "4.7.1", "greylisted")}}
		}
	})
	m := w.message(sample, "romeo@home.example", "x@far.example")
	m.ID = mail.NewID()
	if _, err := w.store.PutMessage(t.Context(), store.NewMessage{Message: *m, Lifetime: time.Second}); err != nil {
		t.Fatal(err)
	}
	w.waitState("x@far.example", store.ExpiredSt)
	w.waitState("romeo@home.example", store.Delivered)
	dsn := w.local.deliveries()
	if len(dsn) != 1 || !strings.Contains(dsn[0].content, "Status: 5.4.7") || !strings.Contains(dsn[0].content, "greylisted") {
		t.Errorf("dsns %+v", dsn)
	}
}

// TestDelayNotice: one notice, then the delivery goes on.
func TestDelayNotice(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.DelayNotice = 50 * time.Millisecond
		c.RetryFirst = 60 * time.Millisecond
		c.RetryMax = 60 * time.Millisecond
	})
	busy := func(mail.Attempt) []mail.Outcome {
		return []mail.Outcome{{Failure: mail.FromReply("mx.far.example", 450, "4.2.0", "busy")}}
	}
	w.legacy.set(func(n *next) { n.answer = busy })
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	w.waitState("romeo@home.example", store.Delivered)
	before := w.legacy.tried()
	until(t, "two more attempts", func() bool { return w.legacy.tried() >= before+2 })
	w.legacy.set(func(n *next) { n.answer = nil })
	w.waitState("x@far.example", store.Delivered)
	dsn := w.local.deliveries()
	if len(dsn) != 1 || !strings.Contains(dsn[0].content, "Action: delayed\r\nStatus: 4.2.0\r\n") || !strings.Contains(dsn[0].content, "Will-Retry-Until: ") {
		t.Errorf("notices %+v", dsn)
	}
}

// TestDSNWithoutContent: where the message cannot be read back, its sender
// still hears.
func TestDSNWithoutContent(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.TempDir = "/nonexistent" })
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	m := w.message(sample+strings.Repeat("0123456789abcde\r\n", 30_000), "romeo@home.example", "x@far.example")
	m.Envelope.Return = "FULL"
	w.send(m, false)
	w.waitState("x@far.example", store.Bounced)
	w.waitState("romeo@home.example", store.Delivered)
	if got := w.local.deliveries()[0].content; strings.Contains(got, "Subject: s") || !strings.Contains(got, "Status: 5.1.1") {
		t.Errorf("dsn:\n%s", got)
	}
}

// TestDSNNotMade: a report that cannot be made does not keep those from being
// settled who have the message.
func TestDSNNotMade(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.TempDir = "/nonexistent" })
	rcpts := []string{"taken@far.example"}
	outcomes := []mail.Outcome{{}}
	for i := range 300 {
		rcpts = append(rcpts, fmt.Sprintf("x%d@far.example", i))
		outcomes = append(outcomes, mail.Outcome{Failure: mail.FromReply("mx.far.example", 550, "5.1.1", strings.Repeat("no ", 130))})
	}
	w.legacy.set(func(n *next) { n.answer = func(mail.Attempt) []mail.Outcome { return outcomes } })
	w.send(w.message(sample, "romeo@home.example", rcpts...), false)
	until(t, "a settlement", func() (settled bool) {
		w.faulty.order(func(f *faulty) { settled = f.settled > 0 })
		return settled
	})
	w.waitState("taken@far.example", store.Delivered)
	if got := w.states()["x0@far.example"]; got != store.Leased {
		t.Errorf("an unreported failure is %s", got)
	}
}

// TestNoDSNForNullSender: RFC 5321 section 6.1.
func TestNoDSNForNullSender(t *testing.T) {
	g, err := New(Config{Hostname: "gw.home.example", Domains: []Domain{{Name: "home.example"}}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	n := failedNotice(sample, mail.Fail(mail.Expired, "", nil), toLegacy)
	n.lease.Envelope.Sender = mail.Address{}
	if m, err := g.dsn(n); m != nil || err != nil {
		t.Errorf("%+v, %v", m, err)
	}
}

// TestDSNAfterCut: an attempt whose context has ended still gets its DSN with
// the message's header, read from the store.
func TestDSNAfterCut(t *testing.T) {
	w := newWorld(t, nil)
	running := make(chan struct{})
	w.legacy.set(func(n *next) {
		n.during = func(ctx context.Context) { close(running); <-ctx.Done() }
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	w.send(w.message(sample+strings.Repeat("0123456789abcde\r\n", 30_000), "romeo@home.example", "x@far.example"), false)
	<-running
	w.stop(time.Minute)
	list, err := w.store.List(t.Context(), store.Filter{Domain: "home.example"})
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v; want the dsn", list, err)
	}
	rc, err := w.store.OpenContent(t.Context(), list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if dsn, err := io.ReadAll(rc); err != nil || !strings.Contains(string(dsn), "Subject: s\r\n") {
		t.Errorf("%v:\n%s", err, dsn)
	}
}

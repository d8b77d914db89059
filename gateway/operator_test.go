package gateway

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestFail: an operator ends deliveries, whatever they wait for; each sender hears
// once, with the words given, and a running attempt is settled by nobody else.
func TestFail(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst, c.RetryMax = time.Hour, time.Hour })
	w.legacy.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome {
			return mail.AllFailed(len(a.Envelope.Recipients), mail.FromReply("mx.far.example", 451, "4.7.1", "later"))
		}
	})
	idOf := func(rcpt string) mail.ID {
		list, err := w.store.List(t.Context(), store.Filter{Closed: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if e.Rcpt == rcpt {
				return e.ID
			}
		}
		t.Fatalf("no delivery to %s", rcpt)
		return ""
	}
	w.send(w.message(sample, "romeo@home.example", "a@far.example", "b@far.example", "c@other.example", "d@far.example"), false)
	for _, rcpt := range []string{"a@far.example", "b@far.example", "c@other.example", "d@far.example"} {
		w.waitState(rcpt, store.Deferred)
	}
	id := idOf("a@far.example")
	if n, err := w.Fail(t.Context(), id, 1, "op", "the mailbox has moved\r\nfor good"); n != 1 || err != nil {
		t.Errorf("one: %d, %v", n, err)
	}
	if n, err := w.store.Hold(t.Context(), store.One(id, 2, "op")); n != 1 || err != nil {
		t.Fatalf("hold: %d, %v", n, err)
	}
	if n, err := w.Fail(t.Context(), id, -1, "op", ""); n != 3 || err != nil {
		t.Errorf("the rest, one of it held: %d, %v", n, err)
	}
	if n, err := w.Fail(t.Context(), id, -1, "op", ""); n != 0 || err != nil {
		t.Errorf("nothing left: %d, %v", n, err)
	}
	if _, err := w.Fail(t.Context(), mail.NewID(), -1, "op", ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("unknown: %v", err)
	}
	until(t, "three reports: of one, and of the others by destination", func() bool { return len(w.local.deliveries()) == 3 })
	var reported []string
	for _, d := range w.local.deliveries() {
		for _, rcpt := range []string{"a@far.example", "b@far.example", "c@other.example", "d@far.example"} {
			if strings.Contains(d.content, "Final-Recipient: rfc822; "+rcpt+"\r\n") {
				reported = append(reported, rcpt)
			}
		}
		if !strings.Contains(d.content, "Action: failed\r\nStatus: 5.0.0\r\n") || !strings.Contains(d.content, "Subject: s\r\n") {
			t.Errorf("report:\n%s", d.content)
		}
	}
	if len(reported) != 4 || !strings.Contains(w.local.deliveries()[0].content, "the mailbox has moved for good") {
		t.Errorf("reported %v", reported)
	}

	running, gate := make(chan struct{}), make(chan struct{})
	w.legacy.set(func(n *next) {
		n.during = func(context.Context) { close(running); <-gate }
		n.answer = nil
	})
	w.send(w.message(sample, "", "e@far.example"), false)
	<-running
	n, err := w.Fail(t.Context(), idOf("e@far.example"), -1, "op", "")
	close(gate)
	if n != 1 || err != nil || w.states()["e@far.example"] != store.Bounced {
		t.Errorf("a running one: %d, %v, %s", n, err, w.states()["e@far.example"])
	}
}

// TestRedirect: what an operator redirects goes to that next hop, however dead its
// domain's own is, and the other way round.
func TestRedirect(t *testing.T) {
	other := &next{site: "smtp:other.example:25"}
	w := newWorld(t, func(c *Config) {
		c.RetryFirst, c.RetryMax = time.Hour, time.Hour
		c.Hop = func(next string) (Transport, error) {
			if next != "smtp://other.example" {
				return nil, errors.New("no such hop")
			}
			return other, nil
		}
	})
	w.peer.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Unreachable)} }
	})
	redirect := func(domain, next string) {
		t.Helper()
		n, err := w.store.Redirect(t.Context(), store.Selection{Filter: store.Filter{Domain: domain}, By: "op"}, next)
		if n == 0 || err != nil {
			t.Fatalf("redirect: %d, %v", n, err)
		}
		if _, err := w.store.Retry(t.Context(), store.Selection{Filter: store.Filter{Domain: domain}, By: "op"}); err != nil {
			t.Fatal(err)
		}
	}
	w.sched.mu.Lock()
	w.sched.dest("peer.example").deadUntil = time.Now().Add(time.Hour)
	w.sched.mu.Unlock()
	w.send(w.message(sample, "romeo@home.example", "x@peer.example"), false)
	redirect("peer.example", "smtp://nowhere.example")
	until(t, "a failed redirection", func() bool {
		list, err := w.store.List(t.Context(), store.Filter{Domain: "peer.example"})
		return err == nil && strings.Contains(list[0].Last, "redirected")
	})
	redirect("peer.example", "smtp://other.example")
	w.waitState("x@peer.example", store.Delivered)
	if n := len(other.deliveries()); n != 1 || w.peer.tried() != 0 {
		t.Errorf("%d deliveries there, %d attempts at the peer", n, w.peer.tried())
	}

	w.peer.set(func(n *next) { n.answer = nil })
	w.QueueChanged() // forgets what is dead
	w.sched.mu.Lock()
	w.sched.dest("smtp:other.example:25").deadUntil = time.Now().Add(time.Hour)
	w.sched.mu.Unlock()
	w.send(w.message(sample, "romeo@home.example", "y@peer.example"), false)
	w.waitState("y@peer.example", store.Delivered)
}

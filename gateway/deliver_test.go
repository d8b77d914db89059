package gateway

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestPeerAway: mail waits, the peer is expected, and its return delivers at
// once although the retry is a minute away.
func TestPeerAway(t *testing.T) {
	w := newWorld(t, nil)
	w.peer.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome {
			return mail.AllFailed(len(a.Envelope.Recipients), mail.Fail(mail.Unreachable, "", nil))
		}
	})
	for range 3 {
		w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
	}
	until(t, "an expected peer", func() bool { w.peer.mu.Lock(); defer w.peer.mu.Unlock(); return len(w.peer.expected) > 0 })
	w.peer.set(func(n *next) { n.answer = nil })
	w.PeerUp("home.example", "peer.example")
	until(t, "three deliveries", func() bool { return len(w.peer.deliveries()) == 3 })
}

// TestNoOutcomeIsNoDelivery: what a transport says nothing about waits.
func TestNoOutcomeIsNoDelivery(t *testing.T) {
	w := newWorld(t, nil)
	for _, n := range []*next{w.legacy, w.peer} {
		n.set(func(n *next) {
			n.live = true
			n.answer = func(mail.Attempt) []mail.Outcome { return nil }
		})
	}
	for _, rcpt := range []string{"a@far.example", "a@peer.example"} {
		if v := w.send(w.message(sample, "romeo@home.example", rcpt), false); v[0].Failure != nil {
			t.Error(v[0].Failure)
		}
		w.waitState(rcpt, store.Deferred)
	}
}

// TestManyAtOnce: more messages than places; each is delivered once.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	const n = 200
	var wg sync.WaitGroup
	for range n {
		m := w.message(sample, "romeo@home.example", "x@far.example", "juliet@home.example")
		wg.Go(func() {
			if v := w.send(m, false); v[0].Failure != nil {
				t.Error(v[0].Failure)
			}
		})
	}
	wg.Wait()
	until(t, "all delivered", func() bool { return len(w.legacy.deliveries()) == n && len(w.local.deliveries()) == n })
	seen := map[mail.ID]bool{}
	for _, d := range w.legacy.deliveries() {
		if seen[d.attempt.ID] {
			t.Errorf("%s delivered twice", d.attempt.ID)
		}
		seen[d.attempt.ID] = true
	}
}

// TestLargeContentFromStore: what does not fit in memory is read back from the
// store, unchanged.
func TestLargeContentFromStore(t *testing.T) {
	w := newWorld(t, nil)
	large := "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20_000)
	w.send(w.message(large, "romeo@home.example", "x@far.example"), false)
	until(t, "delivery", func() bool { return len(w.legacy.deliveries()) == 1 })
	if got := w.legacy.deliveries()[0].content; !bytes.HasSuffix([]byte(got), []byte(large)) {
		t.Errorf("content of %d octets changed", len(large))
	}
}

// TestPeerUpDuringAttempt: the stream comes up while an attempt without one is
// on its way to failure; what it defers does not wait for the retry timer.
func TestPeerUpDuringAttempt(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst = time.Hour; c.RetryMax = time.Hour })
	w.peer.set(func(n *next) {
		n.during = func(context.Context) { w.PeerUp("home.example", "peer.example") }
		n.answer = func(a mail.Attempt) []mail.Outcome {
			n.during, n.answer = nil, nil
			return []mail.Outcome{refuse(mail.Unreachable)}
		}
	})
	w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
	w.waitState("a@peer.example", store.Delivered)
}

// TestDestinationBack: one delivery releases what waited for the destination,
// although it is no peer.
func TestDestinationBack(t *testing.T) {
	w := newWorld(t, nil)
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Unreachable)} }
	})
	w.send(w.message(sample, "romeo@home.example", "a@far.example"), false)
	w.waitState("a@far.example", store.Deferred)
	w.legacy.set(func(n *next) { n.answer = nil })
	w.sched.mu.Lock()
	w.sched.dest("far.example").outages = 1 // it was dead, and may be tried again
	w.sched.mu.Unlock()
	w.send(w.message(sample, "romeo@home.example", "b@far.example"), false)
	w.waitState("b@far.example", store.Delivered)
	w.waitState("a@far.example", store.Delivered)
}

// TestForeignSenderAsksAsUs: the way to a domain is asked for in the name of a
// domain of ours, whoever the sender is.
func TestForeignSenderAsksAsUs(t *testing.T) {
	w := newWorld(t, nil)
	client := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	w.entrance.Recipient(t.Context(), client, mail.Envelope{Sender: address(t, "a@far.example")}, mail.Recipient{Address: address(t, "x@other.example")})
	w.send(w.message(sample, "a@far.example", "x@other.example"), false)
	w.waitState("x@other.example", store.Delivered)
	w.peer.mu.Lock()
	defer w.peer.mu.Unlock()
	for _, local := range w.peer.asked {
		if local != "home.example" {
			t.Errorf("asked in the name of %s", local)
		}
	}
	if local := w.legacy.attempts[0].Local; local != "home.example" {
		t.Errorf("attempt in the name of %s", local)
	}
}

// TestConcurrency: never more attempts at once than allowed.
func TestConcurrency(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Concurrency = 3 })
	var now, most atomic.Int64
	w.legacy.set(func(n *next) {
		n.during = func(context.Context) {
			for at := now.Add(1); ; {
				if m := most.Load(); at <= m || most.CompareAndSwap(m, at) {
					break
				}
			}
			time.Sleep(time.Millisecond)
			now.Add(-1)
		}
	})
	for i := range 30 {
		w.send(w.message(sample, "romeo@home.example", fmt.Sprintf("x@far%d.example", i%5)), false)
	}
	until(t, "all deliveries", func() bool { return len(w.legacy.deliveries()) == 30 })
	if n := most.Load(); n > 3 {
		t.Errorf("%d attempts at once, want 3 at most", n)
	}
}

// TestStop: an attempt that the end of the program cuts short is due at the
// next start, and the slot of a message that is being stored is waited for.
func TestStop(t *testing.T) {
	w := newWorld(t, nil)
	running := make(chan struct{})
	w.legacy.set(func(n *next) {
		n.during = func(ctx context.Context) { close(running); <-ctx.Done() }
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Unreachable)} }
	})
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	<-running
	res := w.sched.reserve(t.Context(), "", map[string]bool{"other.example": true})
	w.stop(50 * time.Millisecond)
	select {
	case <-w.done:
		t.Error("stopped while a place is reserved")
	default:
	}
	w.sched.giveBack(res)
	<-w.done
	list, err := w.store.List(t.Context(), store.Filter{})
	if err != nil || len(list) != 1 || list[0].State != store.Deferred || list[0].DueSecs > 0 {
		t.Errorf("%+v, %v; want one delivery, due", list, err)
	}
}

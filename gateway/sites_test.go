package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestSharedDestination: domains behind one smarthost share its places, and mail
// that finds none gets its turn.
func TestSharedDestination(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.PerDomain = 2 })
	var now, most atomic.Int64
	w.legacy.set(func(n *next) {
		n.site = "smtp:relay.example:25"
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
	const n = 30
	var wg sync.WaitGroup
	for i := range n {
		m := w.message(sample, "romeo@home.example", fmt.Sprintf("x@far%d.example", i))
		wg.Go(func() { w.send(m, false) })
	}
	wg.Wait()
	until(t, "all deliveries", func() bool { return len(w.legacy.deliveries()) == n })
	if got := most.Load(); got > 2 {
		t.Errorf("%d attempts at once at one smarthost, want 2 at most", got)
	}
}

// TestDeadTogether: when a smarthost is dead, mail to other domains behind it is
// put off without an attempt, mail to others is not; its return releases both
// domains.
func TestDeadTogether(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst, c.RetryMax = time.Hour, time.Hour })
	w.legacy.set(func(n *next) {
		n.site = "smtp:relay.example:25"
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Unreachable)} }
	})
	for i := range initialRuns - 1 { // PerDomain is 4
		w.send(w.message(sample, "romeo@home.example", fmt.Sprintf("x@far%d.example", i)), false)
		w.waitState(fmt.Sprintf("x@far%d.example", i), store.Deferred)
	}
	until(t, "a dead destination", func() bool {
		w.sched.mu.Lock()
		defer w.sched.mu.Unlock()
		d := w.sched.dest("smtp:relay.example:25")
		if d.outages == 0 {
			return false
		}
		d.deadUntil = time.Now().Add(time.Hour) // however long the test takes
		return true
	})
	tried := w.legacy.tried()
	for _, rcpt := range []string{"y@far0.example", "y@new.example"} {
		w.send(w.message(sample, "romeo@home.example", rcpt), false)
	}
	w.waitState("y@new.example", store.Deferred) // found out after an attempt was begun
	if n := w.legacy.tried(); n != tried {
		t.Errorf("%d attempts at a dead destination", n-tried)
	}
	list, err := w.store.List(t.Context(), store.Filter{Domain: "new.example"})
	if err != nil || len(list) != 1 || !strings.Contains(list[0].Last, "did not answer") || list[0].DueSecs < 1 {
		t.Errorf("%+v, %v; want a delivery that was put off", list, err)
	}
	w.send(w.message(sample, "romeo@home.example", "juliet@home.example"), false)
	w.waitState("juliet@home.example", store.Delivered)

	w.legacy.set(func(n *next) { n.answer = nil })
	w.sched.mu.Lock()
	w.sched.dest("smtp:relay.example:25").deadUntil = time.Time{} // its time is over
	w.sched.mu.Unlock()
	w.send(w.message(sample, "romeo@home.example", "z@far1.example"), false)
	for _, rcpt := range []string{"z@far1.example", "x@far0.example", "y@far0.example", "y@new.example"} {
		w.waitState(rcpt, store.Delivered)
	}
}

// TestPutOffInTurn: of a lease that finds its destination full nothing is
// attempted, and it comes back when its turn has come.
func TestPutOffInTurn(t *testing.T) {
	now := time.Now()
	d := &dest{window: 4, pace: 4 * time.Second}
	var last time.Duration
	for i := range 100 {
		wait := d.turn(now)
		want := min(time.Duration(i+1)*time.Second, maxTurn)
		if wait < want*9/10 || wait > want*11/10 {
			t.Fatalf("turn %d in %s, want about %s", i, wait, want)
		}
		last = wait
	}
	if wait := d.turn(now.Add(time.Hour)); wait > 2*time.Second || last < maxTurn*9/10 {
		t.Errorf("an hour later the turn is in %s", wait)
	}
	if wait := (&dest{window: 1}).turn(now); wait < minTurn*9/10 {
		t.Errorf("a turn in %s", wait)
	}
}

// TestSitesBounded: what is remembered of domains and destinations has its bounds.
func TestSitesBounded(t *testing.T) {
	s := newScheduler(&Gateway{Config: Config{Concurrency: 8, PerDomain: 4, RetryFirst: time.Minute}})
	for i := range 2 * maxSites {
		s.settleDown(fmt.Sprintf("d%d.example", i), "smarthost")
		d := s.dest(fmt.Sprintf("d%d.example", i))
		d.failing = 0.5
	}
	if len(s.sites) > maxSites || len(s.dests) > maxDests {
		t.Errorf("%d domains and %d destinations", len(s.sites), len(s.dests))
	}
	s.dest("smarthost").runs = 4
	if _, _, busy := s.room(); len(busy) != maxBusy {
		t.Errorf("%d domains left out, want %d", len(busy), maxBusy)
	}
}

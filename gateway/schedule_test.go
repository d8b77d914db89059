package gateway

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestRetryDelay: within a tenth of doubling from first to longest, at any
// number of attempts.
func TestRetryDelay(t *testing.T) {
	g := &Gateway{Config: Config{RetryFirst: 5 * time.Minute, RetryMax: 4 * time.Hour}}
	want := g.RetryFirst
	for attempt := range 200 {
		if got := g.retryDelay(attempt); got < want*9/10 || got > want*11/10 {
			t.Fatalf("attempt %d: %s, want about %s", attempt, got, want)
		}
		if attempt > 0 {
			want = min(2*want, g.RetryMax)
		}
	}
}

// TestReserve: within the limits, and with places left to older mail where
// there is some.
func TestReserve(t *testing.T) {
	g := &Gateway{Config: Config{Concurrency: 8, PerDomain: 4}}
	s := newScheduler(g)
	held := map[string][]reservation{}
	take := func(domain string) bool {
		res := s.reserve(t.Context(), "home.example", map[string]bool{domain: true})
		if len(res.own.Domains) == 0 {
			return false
		}
		held[domain] = append(held[domain], res)
		return true
	}
	giveBack := func(domain string) {
		s.giveBack(held[domain][0])
		held[domain] = held[domain][1:]
	}
	if take("a.example") {
		t.Error("a place before the scheduler runs")
	}
	s.base = t.Context()
	for i := range 5 {
		if got := take("a.example"); got != (i < 4) {
			t.Errorf("place %d of 4: %v", i+1, got)
		}
	}
	giveBack("a.example")
	if take("a.example") {
		t.Error("new mail got the place that older mail waits for")
	}
	s.caughtUp([]string{"a.example"})
	if take("a.example") {
		t.Error("caught up although the destination was left out")
	}
	s.caughtUp(nil)
	if !take("a.example") {
		t.Error("no place although no mail waits")
	}
	for i := range 4 {
		if got := take("b.example"); got != (i < 3) { // twice what is free for all
			t.Errorf("slot %d of 8: %v", i+5, got)
		}
	}
	if !take("c.example") || take("d.example") || s.slots != 8 {
		t.Errorf("%d slots of 8", s.slots)
	}
	giveBack("b.example")
	s.caughtUp(nil)
	s.dest("dead.example").deadUntil = time.Now().Add(time.Minute)
	if take("dead.example") {
		t.Error("a place at a destination that does not answer")
	}
	s.stopping = true
	giveBack("a.example")
	giveBack("b.example")
	if take("c.example") {
		t.Error("a place while stopping")
	}
}

// TestForgetsDestinations: what says nothing is not kept.
func TestForgetsDestinations(t *testing.T) {
	w := newWorld(t, nil)
	for range 3 {
		w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	}
	until(t, "no destination", func() bool {
		w.sched.mu.Lock()
		defer w.sched.mu.Unlock()
		return len(w.legacy.deliveries()) == 3 && len(w.sched.dests) == 0
	})
}

// TestClaimWithinConcurrency: slots taken for a claim are not given away while
// the store is asked.
func TestClaimWithinConcurrency(t *testing.T) {
	g := &Gateway{Config: Config{Concurrency: 3, PerDomain: 4}}
	s := newScheduler(g)
	s.base = t.Context()
	if n, _, _ := s.room(); n != 3 {
		t.Errorf("room for %d, want 3", n)
	}
	if res := s.reserve(t.Context(), "", map[string]bool{"a.example": true}); len(res.own.Domains) != 0 {
		t.Error("a claimed slot was given away")
	}
	s.vacate(3)
	s.caughtUp(nil)
	if res := s.reserve(t.Context(), "", map[string]bool{"a.example": true}); len(res.own.Domains) != 1 || s.slots != 1 {
		t.Errorf("reserved %v, %d slots", res.own.Domains, s.slots)
	}
}

// TestRoomForNewMail: however much is due, new mail finds slots, and where new
// mail fills what it may, older mail does.
func TestRoomForNewMail(t *testing.T) {
	g := &Gateway{Config: Config{Concurrency: 8, PerDomain: 8}}
	s := newScheduler(g)
	s.base = t.Context()
	claimed, _, _ := s.room()
	if more, _, _ := s.room(); claimed != 6 || more != 0 {
		t.Fatalf("claims may fill %d and %d slots of 8, want 6", claimed, more)
	}
	take := func() reservation {
		return s.reserve(t.Context(), "", map[string]bool{string(mail.NewID()) + ".example": true})
	}
	var held []reservation
	for i := range 3 {
		res := take()
		if got := len(res.own.Domains) == 1; got != (i < 2) {
			t.Fatalf("slot %d for new mail: %v", i+1, got)
		}
		held = append(held, res)
	}
	s.vacate(claimed)
	for range 6 {
		held = append(held, take())
	}
	if s.fresh != 6 || s.slots != 6 {
		t.Errorf("%d slots for new mail of %d taken, want 6: older mail waits", s.fresh, s.slots)
	}
	if n, _, _ := s.room(); n != 2 {
		t.Errorf("%d slots left to older mail, want 2", n)
	}
	s.vacate(2)
	for _, res := range held {
		s.giveBack(res)
	}
	if s.fresh != 0 || s.slots != 0 {
		t.Errorf("%d and %d slots left over", s.fresh, s.slots)
	}
}

// TestYield: while new mail comes, a retry that found nobody leaves its slot to it
// for a moment; new mail itself, what was answered, and a quiet hour cost nothing.
func TestYield(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(&Gateway{Config: Config{Concurrency: 8, PerDomain: 8, RetryFirst: time.Minute}})
		s.base = t.Context()
		room := func(want int) {
			t.Helper()
			n, _, _ := s.room()
			s.vacate(n)
			if n != want {
				t.Errorf("room for %d, want %d", n, want)
			}
		}
		ends := func(trials ...trial) {
			for _, tr := range trials {
				s.slots++
				s.end(&held{}, tr)
			}
		}
		nobody, off := trial{reach: unreachable}, putOffTrial(store.Lease{}, &putOff{why: mail.Fail(mail.Unreachable, "", nil)})
		ends(nobody, off)
		room(6)
		s.giveBack(s.reserve(t.Context(), "", map[string]bool{"new.example": true}))
		ends(nobody, off, nobody, trial{reach: delivered}, trial{reach: answered}, trial{reach: throttled}, trial{})
		room(3)
		for range 9 {
			ends(nobody)
		}
		room(0)
		if res := s.reserve(t.Context(), "", map[string]bool{"new.example": true}); len(res.own.Domains) != 1 {
			t.Error("new mail found no slot")
		} else {
			s.giveBack(res)
		}
		time.Sleep(yieldFor)
		synctest.Wait()
		room(6)
		time.Sleep(mailFlows)
		ends(nobody)
		room(6)
	})
}

// TestRoomLeavesOut: domains whose destination is full are not claimed for.
func TestRoomLeavesOut(t *testing.T) {
	g := &Gateway{Config: Config{Concurrency: 12, PerDomain: 4}}
	s := newScheduler(g)
	s.dest("full.example").runs = 4
	s.dest("smarthost").runs = 4
	s.settleDown("behind.example", "smarthost")
	s.dest("free.example").runs = 1
	n, perDest, busy := s.room()
	slices.Sort(busy)
	if want := []string{"behind.example", "full.example", "smarthost"}; !slices.Equal(busy, want) {
		t.Errorf("left out %v, want %v", busy, want)
	}
	if n != 8 || perDest != 3 { // free.example has one of four
		t.Errorf("room for %d, %d of one destination", n, perDest)
	}
	s.vacate(n)
	s.dest("shared").runs = 2
	s.settleDown("x.example", "shared")
	if n, perDest, _ := s.room(); n != 2 || perDest != 2 {
		t.Errorf("room for %d, %d of one destination, where a shared one has two places", n, perDest)
	}
}

// TestResult: what an outcome makes of a delivery.
func TestResult(t *testing.T) {
	g := &Gateway{Config: Config{RetryFirst: time.Minute, RetryMax: time.Hour, DelayNotice: time.Hour}}
	later := refuse(mail.ResourceShort)
	later.Failure.RetryAfter = 10 * time.Minute
	for _, c := range []struct {
		name     string
		d        store.Delivery
		age      time.Duration
		o        mail.Outcome
		state    store.State
		min, max time.Duration
		doubt    bool
		delayed  bool
	}{
		{"told when", store.Delivery{Left: time.Hour}, 0, later, store.Deferred, 10 * time.Minute, 10 * time.Minute, false, false},
		{"no later than expiry", store.Delivery{Left: 2 * time.Minute}, 0, later, store.Deferred, 2 * time.Minute, 2 * time.Minute, false, false},
		{"earlier doubt is the store's to keep", store.Delivery{Left: time.Hour, InDoubt: true}, 0, refuse(mail.Unreachable), store.Deferred, 54 * time.Second, 66 * time.Second, false, false},
		{"new doubt", store.Delivery{Left: time.Hour}, 0, refuse(mail.Doubtful), store.Deferred, 54 * time.Second, 66 * time.Second, true, false},
		{"delay told", store.Delivery{Left: time.Hour}, 61 * time.Minute, refuse(mail.Refused), store.Deferred, 54 * time.Second, 66 * time.Second, false, true},
		{"delay told before", store.Delivery{Left: time.Hour, Delayed: true}, 61 * time.Minute, refuse(mail.Refused), store.Deferred, 54 * time.Second, 66 * time.Second, false, false},
		{"refused", store.Delivery{}, 0, refuse(mail.NotPermitted), store.Bounced, 0, 0, false, false},
		{"expired", store.Delivery{Expired: true}, 0, refuse(mail.Expired), store.ExpiredSt, 0, 0, false, false},
		{"the next hop's word for it", store.Delivery{}, 0, refuse(mail.Expired), store.Bounced, 0, 0, false, false},
		{"taken", store.Delivery{}, 0, mail.Outcome{}, store.Delivered, 0, 0, false, false},
	} {
		l := store.Lease{Age: c.age, Envelope: mail.Envelope{Recipients: []mail.Recipient{{}}}}
		r := g.result(l, c.d, c.o)
		if r.State != c.state || r.Delay < c.min || r.Delay > c.max || r.InDoubt != c.doubt || r.Delayed != c.delayed {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

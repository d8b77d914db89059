package gateway

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestHeadStart: how much earlier than now a message is due, by what its sender
// has put there lately, by priority and by who asks for it.
func TestHeadStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScheduler(&Gateway{Config: Config{Concurrency: 8, PerDomain: 4, RetryFirst: time.Minute}})
		message := func(sender, to string, priority int, o mail.Origin) *mail.Message {
			m := &mail.Message{Origin: o}
			m.Envelope.Sender = address(t, sender)
			m.Envelope.Recipients = []mail.Recipient{{Address: address(t, to)}}
			if priority != 0 {
				m.Envelope.Priority = &priority
			}
			return m
		}
		ahead := func(m *mail.Message) time.Duration { return -s.firstTurns(m, nil)[0].Delay }
		check := func(what string, got, want time.Duration) {
			t.Helper()
			if got != want {
				t.Errorf("%s: %s ahead, want %s", what, got, want)
			}
		}
		user := mail.Origin{User: "romeo"}
		for i := range 5 {
			check(fmt.Sprintf("message %d of a flood", i), ahead(message("a@flood.example", "x@far.example", 0, mail.Origin{})), headStart-time.Duration(i)*turnStep)
		}
		check("another sender", ahead(message("a@fresh.example", "x@far.example", 0, mail.Origin{})), headStart)
		check("another destination", ahead(message("a@flood.example", "x@other.example", 0, mail.Origin{})), headStart)
		check("a user", ahead(message("a@flood.example", "x@far.example", 0, user)), headStart)
		check("the user again, as another", ahead(message("b@fresh.example", "x@far.example", 0, user)), headStart-turnStep)
		check("urgent", ahead(message("a@one.example", "x@far.example", 9, mail.Origin{Peer: "one.example"})), headStart+9*priorityStep)
		check("urgent, as anybody says", ahead(message("a@two.example", "x@far.example", 9, mail.Origin{})), headStart)
		check("not urgent", ahead(message("a@three.example", "x@far.example", -9, mail.Origin{})), headStart-9*priorityStep)
		check("a bounce", ahead(message("", "x@far.example", 0, mail.Origin{Peer: "p.example"})), headStart)
		check("a bounce of the same peer", ahead(message("", "x@far.example", 0, mail.Origin{Peer: "p.example"})), headStart-turnStep)
		for range 1000 {
			ahead(message("a@flood.example", "x@far.example", 0, mail.Origin{}))
		}
		check("the end of a flood", ahead(message("a@flood.example", "x@far.example", 0, mail.Origin{})), 0)
		time.Sleep(1006*turnStep - 2*time.Second)
		check("most forgotten", ahead(message("a@flood.example", "x@far.example", 0, mail.Origin{})), headStart-2*time.Second)

		s.settleDown("one.example", "relay")
		s.settleDown("two.example", "relay")
		ahead(message("a@shared.example", "x@one.example", 0, mail.Origin{}))
		check("another domain at the same smarthost", ahead(message("a@shared.example", "x@two.example", 0, mail.Origin{})), headStart-turnStep)

		first := s.firstTurns(message("a@b.example", "x@c.example", 0, mail.Origin{}), []store.First{{Delay: time.Hour}})
		if first[0].Delay != time.Hour {
			t.Errorf("a delivery that was tried before starts in %s", first[0].Delay)
		}
		s.dest("dead.example").deadUntil = time.Now().Add(time.Minute)
		if wait := -ahead(message("a@b.example", "x@dead.example", 0, mail.Origin{})); wait < time.Minute || wait > 2*time.Minute {
			t.Errorf("mail to a dead destination starts in %s", wait)
		}

		for i := range 2 * maxTurns {
			s.count(fmt.Sprintf("s%d.example", i), "far.example", time.Now())
		}
		if len(s.turns) > maxTurns {
			t.Errorf("%d senders remembered", len(s.turns))
		}
	})
}

// TestFairness: a fresh sender's message, and one of a second flood, do not wait
// behind the backlog of a first.
func TestFairness(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.PerDomain = 1 })
	gate := make(chan struct{})
	w.legacy.set(func(n *next) { n.during = func(context.Context) { <-gate } })
	start := time.Now()
	flood := func(domain string, n int) {
		var wg sync.WaitGroup
		for range n {
			m := w.message(sample, "a@"+domain, "x@far.example")
			wg.Go(func() { w.send(m, false) })
		}
		wg.Wait()
	}
	const n = 25
	flood("one.example", n)
	flood("two.example", n)
	w.send(w.message(sample, "a@fresh.example", "x@far.example"), false)
	ahead := int(time.Since(start)/turnStep) + 1 // of a flood, what has earned its turn meanwhile
	close(gate)
	until(t, "all deliveries", func() bool { return len(w.legacy.deliveries()) == 2*n+1 })
	fresh, last, second := 0, 0, 0
	for i, d := range w.legacy.deliveries() {
		switch sender := d.attempt.Envelope.Sender.Domain; {
		case sender == "fresh.example":
			fresh = i
		case sender == "one.example":
			last = i
		case second == 0:
			second = i
		}
	}
	if most := 2*ahead + w.Concurrency; fresh > most { // and what was on its way
		t.Errorf("the fresh sender's message is number %d, want it among the first %d", fresh, most)
	}
	if second > 2*ahead+w.Concurrency || last < 2*n-2*ahead-w.Concurrency {
		t.Errorf("the second flood begins at %d, the first ends at %d of %d: they do not take turns", second, last, 2*n)
	}
}

// TestFairnessBeyondDestinations: who puts mail to many destinations, each of which
// takes its time, does not keep others waiting until all of it has been tried.
func TestFairnessBeyondDestinations(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Concurrency = 8 })
	gate := make(chan struct{})
	w.legacy.set(func(n *next) { n.during = func(context.Context) { <-gate } })
	start := time.Now()
	const n = 80
	var wg sync.WaitGroup
	for i := range n {
		m := w.message(sample, "a@flood.example", fmt.Sprintf("x@far%d.example", i))
		wg.Go(func() { w.send(m, false) })
	}
	wg.Wait()
	w.send(w.message(sample, "a@fresh.example", "x@near.example"), false)
	ahead := int(time.Since(start)/turnStep) + 1
	close(gate)
	until(t, "all deliveries", func() bool { return len(w.legacy.deliveries()) == n+1 })
	for i, d := range w.legacy.deliveries() {
		if most := int(floodFrom/turnStep) + 2*ahead + 2*w.Concurrency; d.attempt.Envelope.Sender.Domain == "fresh.example" && i > most {
			t.Errorf("the fresh sender's message is number %d of %d, want it among the first %d", i, n, most)
		}
	}
	s := newScheduler(&Gateway{Config: Config{Concurrency: 8, PerDomain: 4, RetryFirst: time.Minute}})
	m := w.message(sample, "a@flood.example", "x@far.example")
	for i := range 2000 {
		m.Envelope.Recipients[0].Address.Domain = fmt.Sprintf("far%d.example", i)
		if first := -s.firstTurns(m, nil)[0].Delay; first < headStart/2 {
			t.Fatalf("message %d to destinations of their own is %s ahead of what is due now", i, first)
		}
	}
}

// TestFloodGetsNoReservation: while mail waits for a destination that several send
// to, a sender that has put much there gets no place at once.
func TestFloodGetsNoReservation(t *testing.T) {
	s := newScheduler(&Gateway{Config: Config{Concurrency: 64, PerDomain: 4}})
	s.base = t.Context()
	take := func(sender string) bool {
		res := s.reserve(t.Context(), sender, map[string]bool{"far.example": true})
		defer s.giveBack(res)
		return len(res.own.Domains) == 1
	}
	for range 20 {
		s.count("flood.example", "far.example", time.Now())
	}
	if !take("flood.example") {
		t.Error("no place although no mail waits")
	}
	s.dest("far.example").window = 8 // worth remembering
	s.dest("far.example").behind = true
	if take("flood.example") || !take("fresh.example") {
		t.Error("the flood has a place, or the fresh sender none")
	}
	d := s.dest("far.example")
	d.sender, d.mixed = "flood.example", time.Now().Add(-mixedFor)
	if !take("flood.example") {
		t.Error("no place although nobody else sends there")
	}
}

// TestPriorityOrder: what waits is claimed by priority.
func TestPriorityOrder(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.PerDomain = 1 })
	running, gate := make(chan struct{}, 4), make(chan struct{})
	w.legacy.set(func(n *next) { n.during = func(context.Context) { running <- struct{}{}; <-gate } })
	w.send(w.message(sample, "a@home.example", "x@far.example"), false)
	<-running // has the place
	for _, p := range []int{-5, 0, 5} {
		m := w.message(sample, fmt.Sprintf("p%d@home.example", p), "x@far.example")
		m.Origin.User = fmt.Sprint("user", p)
		m.Envelope.Priority = &p
		w.send(m, false)
	}
	close(gate)
	until(t, "all deliveries", func() bool { return len(w.legacy.deliveries()) == 4 })
	var order []string
	for _, d := range w.legacy.deliveries()[1:] {
		order = append(order, d.attempt.Envelope.Sender.Local)
		if d.attempt.Envelope.Priority == nil {
			t.Error("the priority is not passed on")
		}
	}
	if got := strings.Join(order, " "); got != "p5 p0 p-5" {
		t.Errorf("order %s", got)
	}
}

package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func verbTests() []test {
	return []test{
		{"a held delivery is not tried until it is let go", testHold},
		{"hold takes a running attempt's lease", testHoldRunning},
		{"a held delivery does not expire", testHeldExpiry},
		{"the time held counts for nothing after a drop or a seizure", testHeldThenTaken},
		{"a redirected delivery goes to its next hop", testRedirect},
		{"a redirected delivery is not kept by its domain being busy", testRedirectBusy},
		{"a redirected delivery is claimed past those to a busy next hop", testRedirectPast},
		{"seize leases what is open whatever it waits for", testSeize},
		{"a busy next hop's backlog hides no other's mail", testRedirectBehindBacklog},
		{"the attempts of what an operator ends keep their words", testSeizeKeepsTheWords},
		{"seized deliveries come back when nobody settles them", testSeizeLeft},
		{"a dropped delivery can be brought back", testRestore},
		{"what is brought back is in doubt if it was cut short", testRestoreDoubt},
		{"the content of what was dropped goes in the end", testDroppedGoes},
		{"content that others need outlives a drop", testDroppedShared},
		{"a filter selects deliveries for a verb", testSelections},
		{"many deliveries are selected in batches", testManySelected},
		{"what an operator did is told", testEvents},
	}
}

// did checks a verb's count.
func (b *fixture) did(want int) func(int, error) {
	return func(n int, err error) {
		b.Helper()
		b.ok(err)
		equal(b, "deliveries changed", n, want)
	}
}

func all(m store.NewMessage) store.Selection { return store.One(m.ID, -1, "me") }

func testHold(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	b.put(m)
	b.did(1)(b.s.Hold(b.ctx, store.One(m.ID, 0, "me")))
	b.did(0)(b.s.Hold(b.ctx, store.One(m.ID, 0, "me")))
	equal(b, "state", b.state(m.ID, 0), store.Held)
	l := b.claimOne()
	equal(b, "claimed domain", l.Domain, "capulet.example")
	b.settle(b.begin(l), delivered())
	b.released("", 0)
	b.did(0)(b.s.Retry(b.ctx, all(m)))
	_, waits, err := b.s.NextDue(b.ctx, nil)
	b.ok(err)
	equal(b, "something to wait for", waits, false)
	e := b.list(store.Filter{})
	equal(b, "open deliveries", len(e), 1)
	equal(b, "due in", e[0].DueSecs, 0)
	b.reopen()
	equal(b, "due", len(b.claim(10)), 0)
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	b.did(1)(b.s.Unhold(b.ctx, all(m)))
	b.did(0)(b.s.Unhold(b.ctx, all(m)))
	equal(b, "state", b.state(m.ID, 0), store.Due)
	b.settle(b.begin(b.claimOne()), delivered())
	_, err = b.s.Hold(b.ctx, store.One(m.ID, 5, "me"))
	b.is(err, store.ErrNotFound)
	_, err = b.s.Unhold(b.ctx, store.One(mail.NewID(), -1, "me"))
	b.is(err, store.ErrNotFound)
	b.did(0)(b.s.Hold(b.ctx, all(m))) // delivered
}

func testHoldRunning(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	l := b.beginBy(b.claimOne(), store.WayXMPP)
	b.did(1)(b.s.Hold(b.ctx, all(m)))
	b.is(b.s.Settle(b.ctx, settlement(l, delivered())), store.ErrLeaseLost)
	_, err := b.s.BeginAttempt(b.ctx, l, store.WayXMPP)
	b.is(err, store.ErrLeaseLost)
	lost, err := b.s.Renew(b.ctx, []store.Lease{l}, long)
	b.ok(err)
	equal(b, "leases lost", len(lost), 1)
	equal(b, "in doubt", b.list(store.Filter{})[0].InDoubt, true)
	b.did(1)(b.s.Unhold(b.ctx, all(m)))
	equal(b, "state", b.state(m.ID, 0), store.Deferred)
	again := b.claimOne()
	b.doubts(again, true, store.WayXMPP)
	b.is(b.s.Settle(b.ctx, settlement(l, delivered())), store.ErrLeaseLost)
	b.settle(b.begin(again), delivered())
	tries := b.show(m.ID).Attempts
	equal(b, "attempts", len(tries), 2)
	equal(b, "end of the one cut short", tries[0].Ended, time.Time{})
}

func testHeldExpiry(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	m.Lifetime = 300 * time.Millisecond
	b.put(m)
	b.did(1)(b.s.Hold(b.ctx, store.One(m.ID, 0, "me")))
	b.eventually("the other expires", func() bool {
		leases, err := b.s.Claim(b.ctx, 10, time.Millisecond, nil, 0)
		b.ok(err)
		for _, l := range leases {
			equal(b, "claimed domain", l.Domain, "capulet.example")
		}
		return len(leases) > 0 && leases[0].Deliveries[0].Expired
	})
	b.did(1)(b.s.Unhold(b.ctx, store.One(m.ID, 0, "me")))
	for _, l := range b.claim(10) {
		if l.Domain == "montague.example" {
			d := l.Deliveries[0]
			equal(b, "expired although it was held", d.Expired, false)
			if d.Left <= 0 || d.Left > m.Lifetime {
				b.Errorf("%v left of %v", d.Left, m.Lifetime)
			}
			return
		}
	}
	b.Error("not claimed")
}

// testHeldThenTaken: what was held for longer than its lifetime has that lifetime
// left when it comes back from a drop, or from a seizure that nobody settled.
func testHeldThenTaken(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example", "c@verona.example")
	m.Lifetime = 2 * time.Second
	b.put(m)
	b.did(1)(b.s.Hold(b.ctx, store.One(m.ID, 0, "me")))
	b.did(1)(b.s.Hold(b.ctx, store.One(m.ID, 2, "me")))
	b.eventually("the other expires", func() bool {
		leases, err := b.s.Claim(b.ctx, 10, time.Millisecond, nil, 0)
		b.ok(err)
		return len(leases) > 0 && leases[0].Deliveries[0].Expired
	})
	b.did(1)(b.s.Drop(b.ctx, store.One(m.ID, 0, "me")))
	b.did(1)(b.s.Restore(b.ctx, store.One(m.ID, 0, "me")))
	_, err := b.s.Seize(b.ctx, m.ID, 2, "me", 0)
	b.ok(err)
	expired := map[string]bool{}
	b.eventually("both come back", func() bool {
		for _, l := range b.claim(10) {
			expired[l.Domain] = l.Deliveries[0].Expired
		}
		return len(expired) == 3
	})
	equal(b, "what was held and dropped expired", expired["montague.example"], false)
	equal(b, "what was held and seized expired", expired["verona.example"], false)
}

func testRedirect(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example")
	b.put(m)
	const next = "smtp://relay.example:2525"
	b.did(1)(b.s.Redirect(b.ctx, store.One(m.ID, 1, "me"), next))
	b.did(0)(b.s.Redirect(b.ctx, store.One(m.ID, 1, "me"), next))
	leases := b.claim(10)
	equal(b, "leases", len(leases), 2)
	for _, l := range leases {
		equal(b, "deliveries of a lease", len(l.Deliveries), 1)
		want := []string{"", next}[l.Deliveries[0].N]
		equal(b, "next hop", l.Next, want)
		equal(b, "destination", l.Destination(), store.Destination("montague.example", want))
		b.settle(b.begin(l), deferred(0, "later"))
	}
	equal(b, "next hop shown", b.show(m.ID).Deliveries[1].Next, next)
	b.did(1)(b.s.Redirect(b.ctx, all(m), ""))
	l := b.claimOne()
	equal(b, "deliveries", len(l.Deliveries), 2)
	equal(b, "next hop", l.Next, "")
	b.did(2)(b.s.Redirect(b.ctx, all(m), next)) // the attempt goes on
	b.settle(b.begin(l), delivered())
}

func testRedirectBusy(b *fixture) {
	const next = "smtp://relay.example:2525"
	var ids []mail.ID
	for range 3 {
		m := b.message("a@montague.example")
		m.First = []store.First{{Delay: long}}
		b.put(m)
		ids = append(ids, m.ID)
	}
	b.did(1)(b.s.Redirect(b.ctx, store.One(ids[1], -1, "me"), next))
	hop := store.Destination("montague.example", next)
	b.released("montague.example", 2)
	b.released(hop, 1)
	equal(b, "claimed of two busy destinations", len(b.claim(10, "montague.example", hop)), 0)
	wait, ok, err := b.s.NextDue(b.ctx, []string{"montague.example"})
	b.ok(err)
	if !ok || wait != 0 {
		b.Errorf("next due in %v, %v: the redirected one is due", wait, ok)
	}
	leases := b.claim(10, "montague.example")
	equal(b, "leases", len(leases), 1)
	equal(b, "claimed", leases[0].ID, ids[1])
	equal(b, "leases", len(b.claim(10, hop)), 2)
}

func testRedirectPast(b *fixture) {
	const busy, free = "smtp://a.example:25", "smtp://b.example:25"
	for range 100 {
		b.put(b.message("x@montague.example"))
	}
	b.did(100)(b.s.Redirect(b.ctx, store.Selection{By: "me"}, busy))
	m := b.message("y@montague.example")
	b.put(m)
	b.did(1)(b.s.Redirect(b.ctx, all(m), free))
	leases, err := b.s.Claim(b.ctx, 4, long, []string{store.Destination("", busy)}, 0)
	b.ok(err)
	if len(leases) != 1 || leases[0].ID != m.ID || leases[0].Next != free {
		b.Fatalf("claimed %d leases, want the one to the free next hop", len(leases))
	}
}

// testRedirectBehindBacklog: the backlog of a next hop that is busy does not hide
// what waits for another, by whatever order they are looked for.
func testRedirectBehindBacklog(b *fixture) {
	const busy = "smtp://m.example:25"
	b.backlog("montague.example", 1500)
	b.did(1500)(b.s.Redirect(b.ctx, store.Selection{Filter: store.Filter{Domain: "montague.example"}, N: -1, By: "me"}, busy))
	m := b.message("a@capulet.example", "b@capulet.example")
	b.put(m)
	b.did(1)(b.s.Redirect(b.ctx, store.One(m.ID, 0, "me"), "smtp://z.example:25"))
	b.did(1)(b.s.Redirect(b.ctx, store.One(m.ID, 1, "me"), "smtp://a.example:25"))
	routed := b.message("c@montague.example") // as ever
	b.put(routed)
	leases := b.claim(10, store.Destination("", busy))
	equal(b, "leases of what goes elsewhere", len(leases), 3)
	for _, l := range leases {
		if l.ID != m.ID && l.ID != routed.ID {
			b.Errorf("claimed %s by %q", l.ID, l.Next)
		}
	}
}

// testSeizeKeepsTheWords: the reason for which an operator ends a delivery is the
// delivery's last, and no attempt's.
func testSeizeKeepsTheWords(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	b.settle(b.begin(b.claimOne()), deferred(long, "mailbox full"))
	leases, err := b.s.Seize(b.ctx, m.ID, -1, "me", long)
	b.ok(err)
	r := bounced()
	r.Outcome.Failure = mail.Fail(mail.Rejected, "given up", nil)
	b.settle(leases[0], r)
	shown := b.show(m.ID)
	equal(b, "last words", shown.Deliveries[0].Last, "given up")
	equal(b, "attempts", len(shown.Attempts), 1)
	equal(b, "the attempt's number", shown.Attempts[0].Number, 1)
	equal(b, "the attempt's result", shown.Attempts[0].Result, store.Deferred)
	equal(b, "the attempt's words", shown.Attempts[0].Text, "mailbox full")
}

func testSeize(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example", "c@verona.example", "d@montague.example", "e@mantua.example")
	m.First = []store.First{{}, {Delay: long}, {}, {}, {Done: true}}
	b.put(m)
	running := b.begin(b.claim(1)[0])
	b.did(1)(b.s.Hold(b.ctx, store.One(m.ID, 2, "me")))
	leases, err := b.s.Seize(b.ctx, m.ID, -1, "me", long)
	b.ok(err)
	equal(b, "leases", len(leases), 3)
	b.is(b.s.Settle(b.ctx, settlement(running, delivered())), store.ErrLeaseLost)
	seen := 0
	for _, l := range leases {
		seen += len(l.Deliveries)
		dsn := b.message("juliet@capulet.example")
		b.settle(l, bounced(), dsn)
		b.show(dsn.ID)
	}
	equal(b, "deliveries", seen, 4)
	for n := range 4 {
		equal(b, "state", b.state(m.ID, n), store.Bounced)
	}
	leases, err = b.s.Seize(b.ctx, m.ID, -1, "me", long)
	b.ok(err)
	equal(b, "leases of what is settled", len(leases), 0)
	_, err = b.s.Seize(b.ctx, m.ID, 9, "me", long)
	b.is(err, store.ErrNotFound)
	_, err = b.s.Seize(b.ctx, mail.NewID(), -1, "me", long)
	b.is(err, store.ErrNotFound)
}

func testSeizeLeft(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example")
	b.put(m)
	b.did(2)(b.s.Hold(b.ctx, all(m)))
	leases, err := b.s.Seize(b.ctx, m.ID, 1, "me", time.Millisecond)
	b.ok(err)
	equal(b, "leases", len(leases), 1)
	l := b.takenOver()
	equal(b, "delivery", l.Deliveries[0].N, 1)
	equal(b, "deliveries", len(l.Deliveries), 1)
	equal(b, "state of the other", b.state(m.ID, 0), store.Held)
}

func testRestore(b *fixture) {
	for _, size := range []int{100, 2*store.PieceSize + 5} {
		m := b.messageOf(octets(size), "a@montague.example", "b@capulet.example")
		b.put(m)
		b.did(1)(b.s.Drop(b.ctx, store.One(m.ID, 0, "me")))
		b.did(1)(b.s.Drop(b.ctx, all(m)))
		_, err := b.s.OpenContent(b.ctx, m.ID)
		b.is(err, store.ErrNotFound)
		b.maintain(keepAll())
		b.did(1)(b.s.Restore(b.ctx, store.One(m.ID, 1, "me")))
		b.did(0)(b.s.Restore(b.ctx, store.One(m.ID, 1, "me")))
		b.sameContent(b.content(m.ID), octets(size))
		l := b.claimOne()
		equal(b, "claimed", l.Domain, "capulet.example")
		b.settle(b.begin(l), delivered())
		b.did(1)(b.s.Restore(b.ctx, all(m))) // the other's content outlived that
		l = b.claimOne()
		equal(b, "claimed", l.Domain, "montague.example")
		b.sameContent(b.content(m.ID), octets(size))
		b.settle(b.begin(l), delivered())
		_, err = b.s.OpenContent(b.ctx, m.ID)
		b.is(err, store.ErrNotFound)
		b.did(0)(b.s.Restore(b.ctx, all(m))) // delivered
	}
	_, err := b.s.Restore(b.ctx, store.One(mail.NewID(), -1, "me"))
	b.is(err, store.ErrNotFound)
}

func testRestoreDoubt(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	l := b.beginBy(b.claimOne(), store.WaySMTP)
	b.did(1)(b.s.Drop(b.ctx, all(m)))
	b.did(1)(b.s.Restore(b.ctx, all(m)))
	b.is(b.s.Settle(b.ctx, settlement(l, delivered())), store.ErrLeaseLost)
	b.doubts(b.claimOne(), true, store.WaySMTP)
	b.is(b.s.Settle(b.ctx, settlement(l, delivered())), store.ErrLeaseLost)
}

func testDroppedGoes(b *fixture) {
	for _, size := range []int{100, 2*store.PieceSize + 5} {
		m := b.messageOf(octets(size), "a@montague.example")
		b.put(m)
		b.did(1)(b.s.Drop(b.ctx, all(m)))
		r := keepAll()
		r.Dropped, r.Traces = time.Millisecond, long
		var err error
		b.eventually("the content goes", func() bool {
			b.maintain(r)
			_, err = b.s.Restore(b.ctx, all(m))
			if err == nil { // too early: once more
				b.did(1)(b.s.Drop(b.ctx, all(m)))
			}
			return err != nil
		})
		b.is(err, store.ErrNotFound)
		if !strings.Contains(err.Error(), "content") {
			b.Errorf("error %q does not say that the content is gone", err)
		}
		equal(b, "state", b.state(m.ID, 0), store.Dropped)
		r.Traces = time.Millisecond
		b.eventually("the trace goes", func() bool {
			b.maintain(r)
			_, err := b.s.Show(b.ctx, m.ID)
			return err != nil
		})
	}
}

func testDroppedShared(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	b.put(m)
	b.did(1)(b.s.Drop(b.ctx, store.One(m.ID, 0, "me")))
	r := keepAll()
	r.Dropped = time.Nanosecond
	b.eventually("time passes", func() bool { return b.list(store.Filter{Closed: true})[0].Age > 10*time.Millisecond })
	b.maintain(r)
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	b.did(1)(b.s.Restore(b.ctx, store.One(m.ID, 0, "me"))) // as long as it is there
	for _, l := range b.claim(10) {
		b.settle(b.begin(l), delivered())
	}
	_, err := b.s.OpenContent(b.ctx, m.ID)
	b.is(err, store.ErrNotFound)
}

func testSelections(b *fixture) {
	one, two := b.message("a@montague.example", "b@capulet.example"), b.message("c@montague.example")
	two.Envelope.Sender = address(b, "nurse@verona.example")
	null := b.message("d@montague.example")
	null.Envelope.Sender = mail.Address{}
	for _, m := range []store.NewMessage{one, two, null} {
		b.put(m)
	}
	for _, l := range b.claim(10, "capulet.example") {
		text := "452 Mailbox FULL"
		if l.ID == two.ID {
			text = "no route"
		}
		b.settle(b.begin(l), deferred(long, text))
	}
	for _, tc := range []struct {
		name string
		f    store.Filter
		want string
	}{
		{"all", store.Filter{}, "abcd"},
		{"domain", store.Filter{Domain: "montague.example"}, "acd"},
		{"sender", store.Filter{Sender: "nurse@verona.example"}, "c"},
		{"sender's domain", store.Filter{Sender: "@capulet.example"}, "ab"},
		{"null sender", store.Filter{Sender: "<>"}, "d"},
		{"part of a sender", store.Filter{Sender: "urse@verona.example"}, ""},
		{"words", store.Filter{Text: "mailbox full"}, "ad"},
		{"state", store.Filter{States: []store.State{store.Due}}, "b"},
		{"states", store.Filter{States: []store.State{store.Deferred, store.Bounced}}, "acd"},
		{"state and domain", store.Filter{States: []store.State{store.Deferred}, Domain: "montague.example"}, "acd"},
		{"closed", store.Filter{States: []store.State{store.Delivered}}, ""},
		{"older", store.Filter{Older: long}, ""},
		{"younger", store.Filter{Younger: long, Domain: "capulet.example"}, "b"},
		{"words and sender", store.Filter{Text: "Full", Sender: "<>"}, "d"},
	} {
		var got []string
		for _, e := range b.list(tc.f) {
			got = append(got, e.Rcpt[:1])
		}
		slices.Sort(got)
		equal(b, tc.name+": listed", strings.Join(got, ""), tc.want)
		t, err := b.s.Totals(b.ctx, tc.f, 10)
		b.ok(err)
		equal(b, tc.name+": counted", t.All.Deliveries, len(tc.want))
		// On and off again, so that each case finds the same.
		b.did(len(tc.want))(b.s.Redirect(b.ctx, store.Selection{Filter: tc.f, By: "me"}, "smtp://relay.example"))
		b.did(len(tc.want))(b.s.Redirect(b.ctx, store.Selection{Filter: tc.f, By: "me"}, ""))
	}
	b.did(1)(b.s.Hold(b.ctx, store.Selection{Filter: store.Filter{Sender: "<>"}}))
	b.did(1)(b.s.Drop(b.ctx, store.Selection{Filter: store.Filter{Text: "no route"}}))
	b.did(2)(b.s.Retry(b.ctx, store.Selection{}))
	b.did(1)(b.s.Unhold(b.ctx, store.Selection{}))
	b.did(1)(b.s.Restore(b.ctx, store.Selection{}))
	equal(b, "claimed", len(b.claim(10)), 4)
	_, err := b.s.List(b.ctx, store.Filter{States: []store.State{"gone'"}})
	if err == nil {
		b.Error("a state that is none was taken")
	}
}

func testManySelected(b *fixture) {
	const n = 1100
	m := b.message("a@montague.example")
	m.Envelope.Recipients = nil
	for i := range n {
		m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: address(b, fmt.Sprintf("r%d@montague.example", i))})
	}
	b.put(m)
	other := b.message("a@capulet.example")
	b.put(other)
	b.did(n)(b.s.Hold(b.ctx, store.Selection{Filter: store.Filter{Domain: "montague.example"}}))
	equal(b, "claimed", b.claimOne().ID, other.ID)
	b.did(n)(b.s.Drop(b.ctx, store.Selection{Filter: store.Filter{States: []store.State{store.Held}}}))
	b.did(n)(b.s.Restore(b.ctx, store.Selection{}))
	l := b.claimOne()
	equal(b, "deliveries", len(l.Deliveries), n)
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
}

func testEvents(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	b.put(m)
	for _, do := range []func() (int, error){
		func() (int, error) { return b.s.Retry(b.ctx, store.One(m.ID, 1, "ann")) },
		func() (int, error) { return b.s.Hold(b.ctx, store.One(m.ID, -1, "bob")) },
		func() (int, error) { return b.s.Unhold(b.ctx, store.One(m.ID, 0, "ann")) },
		func() (int, error) { return b.s.Redirect(b.ctx, store.One(m.ID, -1, "ann"), "smtp://relay.example") },
		func() (int, error) {
			return b.s.Drop(b.ctx, store.Selection{Filter: store.Filter{Domain: "capulet.example"}, By: "bob"})
		},
		func() (int, error) { return b.s.Restore(b.ctx, store.One(m.ID, 1, "bob")) },
	} {
		_, err := do()
		b.ok(err)
	}
	b.did(0)(b.s.Unhold(b.ctx, all(m))) // nothing done, nothing noted
	_, err := b.s.Seize(b.ctx, m.ID, -1, "ann", long)
	b.ok(err)
	r := b.show(m.ID)
	var got []string
	last := r.Stored
	for _, e := range r.Events {
		got = append(got, fmt.Sprintf("%s %d %s %s", e.Verb, e.N, e.By, e.Detail))
		if e.At.Before(last) {
			b.Errorf("event at %v after one at %v", e.At, last)
		}
		last = e.At
	}
	want := []string{"retry 1 ann ", "hold -1 bob ", "unhold 0 ann ", "redirect -1 ann smtp://relay.example", "drop 1 bob ", "restore 1 bob ", "fail -1 ann "}
	if !slices.Equal(got, want) {
		b.Errorf("events %q, want %q", got, want)
	}
	if age := time.Since(r.Stored); age < -time.Minute || age > time.Minute {
		b.Errorf("stored at %v", r.Stored)
	}
	b.killed()
	equal(b, "events after a kill", len(b.show(m.ID).Events), len(want))
}

package storetest

import (
	"fmt"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func leaseTests() []test {
	return []test{
		{"a lost lease changes nothing", testLeaseLost},
		{"a lease that ran out still counts until another claims", testLeaseRanOut},
		{"an attempt that ran out of its lease counts as in doubt", testCutByLease},
		{"settling without an attempt leaves earlier ones as they were", testSettleUntried},
		{"a lease settles once", testSettleTwice},
		{"a settlement needs a fitting result for each delivery", testBadSettlement},
		{"a settlement of a lease lost in part changes nothing", testLostInPart},
		{"renew prolongs leases and tells which are lost", testRenew},
		{"attempts are counted before they are made", testBeginCounts},
	}
}

// brief claims what is due for so short that it is due again at once.
func (b *fixture) brief() store.Lease {
	b.Helper()
	leases, err := b.s.Claim(b.ctx, 1, time.Millisecond, nil, 0)
	b.ok(err)
	if len(leases) != 1 {
		b.Fatalf("claimed %d leases, want 1", len(leases))
	}
	return leases[0]
}

// takenOver claims anew what another lease holds, once that has run out.
func (b *fixture) takenOver() (l store.Lease) {
	b.Helper()
	b.eventually("the lease runs out", func() bool {
		leases := b.claim(1)
		if len(leases) == 1 {
			l = leases[0]
		}
		return len(leases) == 1
	})
	return l
}

func testLeaseLost(b *fixture) {
	m := b.message("romeo@montague.example")
	b.put(m)
	old := b.brief()
	l := b.takenOver()
	if l.Deliveries[0].Token <= old.Deliveries[0].Token {
		b.Errorf("token %d after %d", l.Deliveries[0].Token, old.Deliveries[0].Token)
	}
	dsn := b.message("juliet@capulet.example")
	b.is(b.s.Settle(b.ctx, settlement(old, delivered(), dsn)), store.ErrLeaseLost)
	_, err := b.s.BeginAttempt(b.ctx, old, store.WayXMPP)
	b.is(err, store.ErrLeaseLost)
	_, err = b.s.Show(b.ctx, dsn.ID)
	b.is(err, store.ErrNotFound)
	equal(b, "state", b.state(m.ID, 0), store.Leased)
	equal(b, "attempts", len(b.show(m.ID).Attempts), 0)
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	b.settle(b.begin(l), delivered())
	b.is(b.s.Settle(b.ctx, settlement(store.Lease{ID: mail.NewID(), Deliveries: l.Deliveries}, delivered())), store.ErrLeaseLost)
}

func testLeaseRanOut(b *fixture) {
	m := b.message("romeo@montague.example")
	b.put(m)
	l := b.brief()
	b.eventually("the lease runs out", func() bool {
		wait, ok, err := b.s.NextDue(b.ctx, nil)
		b.ok(err)
		return ok && wait == 0
	})
	b.settle(b.begin(l), delivered())
	equal(b, "state", b.state(m.ID, 0), store.Delivered)
}

func testCutByLease(b *fixture) {
	m := b.message("romeo@montague.example")
	b.put(m)
	old := b.begin(b.brief())
	l := b.takenOver()
	equal(b, "attempts", l.Deliveries[0].Attempt, 1)
	equal(b, "in doubt", l.Deliveries[0].InDoubt, true)
	l = b.begin(l)
	equal(b, "attempts", l.Deliveries[0].Attempt, 2)
	b.is(b.s.Settle(b.ctx, settlement(old, delivered())), store.ErrLeaseLost)
	b.settle(l, deferred(0, "busy"))
	tries := b.show(m.ID).Attempts
	equal(b, "attempts", len(tries), 2)
	equal(b, "end of the one cut short", tries[0].Ended, time.Time{})
	equal(b, "its words", tries[0].Text, "")
	equal(b, "words of the other", tries[1].Text, "busy")
}

func testSettleUntried(b *fixture) {
	m := b.message("romeo@montague.example")
	b.put(m)
	b.begin(b.brief())
	b.settle(b.takenOver(), store.Result{State: store.ExpiredSt, Outcome: mail.Outcome{Failure: mail.Fail(mail.Expired, "", nil)}})
	r := b.show(m.ID)
	equal(b, "state", r.Deliveries[0].State, store.ExpiredSt)
	equal(b, "attempts", len(r.Attempts), 1)
	equal(b, "end of the one cut short", r.Attempts[0].Ended, time.Time{})
	equal(b, "its result", r.Attempts[0].Result, "")
}

func testSettleTwice(b *fixture) {
	m := b.message("romeo@montague.example")
	b.put(m)
	l := b.begin(b.claimOne())
	b.settle(l, deferred(0, "one"))
	b.is(b.s.Settle(b.ctx, settlement(l, delivered())), store.ErrLeaseLost)
	equal(b, "state", b.state(m.ID, 0), store.Deferred)
	l = b.begin(b.claimOne())
	b.settle(l, delivered())
	b.is(b.s.Settle(b.ctx, settlement(l, bounced())), store.ErrLeaseLost)
	equal(b, "state", b.state(m.ID, 0), store.Delivered)
}

func testBadSettlement(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example")
	b.put(m)
	l := b.begin(b.claimOne())
	if err := b.s.Settle(b.ctx, store.Settlement{Lease: l, Results: []store.Result{delivered()}}); err == nil {
		b.Error("one result for two deliveries was taken")
	}
	for _, st := range []store.State{store.Due, store.Leased, store.Dropped, "", "gone"} {
		if err := b.s.Settle(b.ctx, settlement(l, store.Result{State: st})); err == nil {
			b.Errorf("settlement as %q was taken", st)
		}
	}
	equal(b, "state", b.state(m.ID, 0), store.Leased)
	b.settle(l, delivered())
}

func testLostInPart(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example")
	b.put(m)
	l := b.begin(b.claimOne())
	if n, err := b.s.Drop(b.ctx, store.One(m.ID, 1, "me")); n != 1 || err != nil {
		b.Fatalf("drop: %d, %v", n, err)
	}
	dsn := b.message("juliet@capulet.example")
	b.is(b.s.Settle(b.ctx, settlement(l, delivered(), dsn)), store.ErrLeaseLost)
	equal(b, "state", b.state(m.ID, 0), store.Leased)
	_, err := b.s.Show(b.ctx, dsn.ID)
	b.is(err, store.ErrNotFound)
	l.Deliveries = l.Deliveries[:1]
	b.settle(l, delivered())
}

func testRenew(b *fixture) {
	for i := range 3 {
		b.put(b.message(fmt.Sprintf("romeo@d%d.example", i)))
	}
	leases, err := b.s.Claim(b.ctx, 3, time.Millisecond, nil, 0)
	b.ok(err)
	equal(b, "leases", len(leases), 3)
	var taken store.Lease
	b.eventually("a lease runs out", func() bool {
		l := b.claim(1)
		if len(l) == 1 {
			taken = l[0]
		}
		return len(l) == 1
	})
	lost, err := b.s.Renew(b.ctx, leases, 2*long)
	b.ok(err)
	if len(lost) != 1 || lost[0].ID != taken.ID {
		b.Fatalf("lost %d leases, want the one that was taken over", len(lost))
	}
	wait, _, err := b.s.NextDue(b.ctx, nil)
	b.ok(err)
	if wait < long-time.Minute {
		b.Errorf("next due in %v: a lease was not renewed", wait)
	}
	equal(b, "claimable", len(b.claim(10)), 0)
	lost, err = b.s.Renew(b.ctx, nil, long)
	b.ok(err)
	equal(b, "lost of none", len(lost), 0)
	for _, l := range leases {
		if l.ID != taken.ID {
			b.settle(b.begin(l), delivered())
		}
	}
}

func testBeginCounts(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example")
	b.put(m)
	before := b.claimOne()
	l := b.begin(before)
	equal(b, "attempt of the lease handed in", before.Deliveries[0].Attempt, 0)
	for _, d := range l.Deliveries {
		equal(b, "attempt", d.Attempt, 1)
	}
	for _, e := range b.list(store.Filter{}) {
		equal(b, "attempts", e.Attempts, 1)
		equal(b, "state", e.State, store.Leased)
	}
	tries := b.show(m.ID).Attempts
	equal(b, "attempts", len(tries), 2)
	for i, try := range tries {
		equal(b, "delivery", try.N, i)
		if try.Number != 1 || try.Began.IsZero() || !try.Ended.IsZero() || try.Result != "" {
			b.Errorf("running attempt %+v", try)
		}
	}
}

package storetest

import (
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func doubtTests() []test {
	return []test{
		{"the way of an attempt is recorded with it", testWayRecorded},
		{"an attempt cut short leaves its way in doubt", testDoubtCut},
		{"a settlement in doubt leaves its way", testDoubtSettled},
		{"doubt about a peer outlives doubt about other ways", testDoubtKept},
		{"doubt from before the spooling is kept", testDoubtFirst},
		{"a born lease records its way", testDoubtBorn},
		{"a lost lease sets no way", testWayLost},
	}
}

func inDoubt() store.Result {
	r := deferred(0, "no answer")
	r.InDoubt = true
	return r
}

// beginBy begins an attempt that goes by a way.
func (b *fixture) beginBy(l store.Lease, way store.Way) store.Lease {
	b.Helper()
	l, err := b.s.BeginAttempt(b.ctx, l, way)
	b.ok(err)
	return l
}

// doubts checks what a lease's only delivery says of doubt.
func (b *fixture) doubts(l store.Lease, in bool, way store.Way) {
	b.Helper()
	equal(b, "in doubt", l.Deliveries[0].InDoubt, in)
	equal(b, "way of the doubt", l.Deliveries[0].DoubtWay, way)
}

func testWayRecorded(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	l := b.claimOne()
	equal(b, "way before the attempt", l.Way, store.WayUnknown)
	l = b.beginBy(l, store.WayXMPP)
	equal(b, "way", l.Way, store.WayXMPP)
	b.settle(l, deferred(0, "one"))
	l = b.claimOne()
	b.doubts(l, false, "")
	l = b.beginBy(l, store.WayUnknown)
	b.ok(b.s.SetWay(b.ctx, l, store.WaySMTP))
	b.settle(l, delivered())
	tries := b.show(m.ID).Attempts
	equal(b, "attempts", len(tries), 2)
	equal(b, "first way", tries[0].Way, store.WayXMPP)
	equal(b, "second way", tries[1].Way, store.WaySMTP)
}

func testDoubtCut(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	b.beginBy(b.brief(), store.WaySMTP)
	l := b.takenOver()
	b.doubts(l, true, store.WaySMTP)
	b.beginBy(l, store.WayXMPP)
	b.killed()
	equal(b, "way shown", b.list(store.Filter{})[0].DoubtWay, store.WayXMPP)
	_, err := b.s.Retry(b.ctx, store.One(m.ID, -1, "me")) // the second cut in a row waits
	b.ok(err)
	b.doubts(b.claimOne(), true, store.WayXMPP)
}

func testDoubtSettled(b *fixture) {
	b.put(b.message("a@montague.example"))
	b.settle(b.beginBy(b.claimOne(), store.WaySMTP), inDoubt())
	l := b.claimOne()
	b.doubts(l, true, store.WaySMTP)
	b.settle(b.beginBy(l, store.WayLocal), deferred(0, "busy"))
	b.doubts(b.claimOne(), true, store.WaySMTP)
}

func testDoubtKept(b *fixture) {
	b.put(b.message("a@montague.example"))
	b.settle(b.beginBy(b.claimOne(), store.WayXMPP), inDoubt())
	b.settle(b.beginBy(b.claimOne(), store.WaySMTP), inDoubt())
	l := b.claimOne()
	b.doubts(l, true, store.WayXMPP)
	b.beginBy(l, store.WayUnknown)
	b.killed()
	b.doubts(b.claimOne(), true, store.WayXMPP)
}

func testDoubtFirst(b *fixture) {
	m := b.message("a@montague.example")
	m.First = []store.First{{InDoubt: true, Way: store.WayXMPP, Outcome: mail.Outcome{Failure: mail.Fail(mail.Doubtful, "", nil)}}}
	b.put(m)
	equal(b, "way of the attempt", b.show(m.ID).Attempts[0].Way, store.WayXMPP)
	b.doubts(b.claimOne(), true, store.WayXMPP)
}

func testDoubtBorn(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	m.Lease = store.Own{Domains: []string{"montague.example", "capulet.example"}, For: time.Millisecond,
		Ways: map[string]store.Way{"montague.example": store.WayXMPP}}
	leases := b.put(m)
	equal(b, "leases", len(leases), 2)
	for _, l := range leases {
		equal(b, "way to "+l.Domain, l.Way, m.Lease.Ways[l.Domain])
	}
	for range leases {
		l := b.takenOver()
		b.doubts(l, true, m.Lease.Ways[l.Domain])
	}
}

func testWayLost(b *fixture) {
	b.put(b.message("a@montague.example"))
	old := b.beginBy(b.brief(), store.WaySMTP)
	b.takenOver()
	b.is(b.s.SetWay(b.ctx, old, store.WayXMPP), store.ErrLeaseLost)
}

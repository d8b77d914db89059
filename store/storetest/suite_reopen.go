package storetest

import (
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func reopenTests() []test {
	return []test{
		{"everything is there after closing", testClose},
		{"what was answered survives a kill", testKill},
		{"leases of a killed process are released", testKillLeases},
		{"attempts cut short again and again are made less and less often", testCrashLoop},
		{"a settlement ends a row of attempts cut short", testCrashLoopEnds},
		{"a transfer goes on after a kill", testKillTransfer},
		{"an acceptance outlives the trace of its message", testAcceptanceOutlives},
		{"a transfer just begun keeps apart from what comes later", testBegunApart},
	}
}

func testClose(b *fixture) {
	large := b.messageOf(octets(2*store.PieceSize+3), "a@montague.example")
	b.put(large)
	b.reopen()
	l := b.claimOne()
	b.sameContent(b.content(large.ID), large.Content.(mail.Bytes))
	b.settle(b.begin(l), deferred(long, "later"))
	b.reopen()
	e := b.list(store.Filter{})[0]
	equal(b, "attempts", e.Attempts, 1)
	equal(b, "state", e.State, store.Deferred)
	equal(b, "due", len(b.claim(10)), 0)
}

func testKill(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	b.killed()
	l := b.begin(b.claimOne())
	dsn := b.message("juliet@capulet.example")
	b.settle(l, bounced(), dsn)
	b.killed()
	equal(b, "state", b.state(m.ID, 0), store.Bounced)
	_, err := b.s.OpenContent(b.ctx, m.ID)
	b.is(err, store.ErrNotFound)
	equal(b, "due", b.claimOne().ID, dsn.ID)

	in := b.message("a@montague.example")
	b.accept(key("t"), in)
	b.killed()
	b.acceptedIs(key("t"), map[string]mail.ID{"a@montague.example": in.ID})
	equal(b, "accepted again under", b.accept(key("t"), b.message("a@montague.example"))[0], in.ID)

	_, err = b.s.Drop(b.ctx, store.One(in.ID, -1, "me"))
	b.ok(err)
	b.ok(b.s.PutPeer(b.ctx, store.Peer{Domain: "montague.example", Facts: []byte("{}")}))
	b.killed()
	equal(b, "state", b.state(in.ID, 0), store.Dropped)
	_, err = b.s.Peer(b.ctx, "montague.example")
	b.ok(err)
}

func testKillLeases(b *fixture) {
	claimed, begun, born := b.message("a@montague.example"), b.message("b@montague.example"), b.message("c@montague.example")
	b.put(claimed)
	b.claimOne()
	b.put(begun)
	b.begin(b.claimOne())
	born.Lease = store.Own{Domains: []string{"montague.example"}, For: long}
	b.put(born)
	b.killed()
	leases := b.claim(10)
	equal(b, "leases", len(leases), 3)
	for _, l := range leases {
		d := l.Deliveries[0]
		equal(b, "attempts of "+l.Envelope.Recipients[0].Address.Local, d.Attempt > 0, l.ID != claimed.ID)
		equal(b, "doubt about "+l.Envelope.Recipients[0].Address.Local, d.InDoubt, l.ID != claimed.ID)
		b.settle(b.begin(l), delivered())
	}
	tries := b.show(begun.ID).Attempts
	equal(b, "attempts", len(tries), 2)
	equal(b, "end of the first", tries[0].Ended, time.Time{})
	equal(b, "result of the second", tries[1].Result, store.Delivered)
}

func testCrashLoop(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	l := b.claimOne()
	for n := 1; n <= 4; n++ {
		l = b.begin(l)
		equal(b, "attempts", l.Deliveries[0].Attempt, n)
		b.killed()
		leases := b.claim(10)
		if n == 1 {
			equal(b, "due after the first", len(leases), 1)
			l = leases[0]
			continue
		}
		equal(b, "due after more", len(leases), 0)
		wait, ok, err := b.s.NextDue(b.ctx, nil)
		b.ok(err)
		// 4 s after the second, doubled each time: bounds far enough from
		// the next step for a slow machine.
		if limit := time.Second << n; !ok || wait <= limit/8 || wait > limit {
			b.Errorf("after attempt %d: due in %v, want about %v", n, wait, limit)
		}
		_, err = b.s.Retry(b.ctx, store.One(m.ID, -1, "me"))
		b.ok(err)
		l = b.claimOne()
	}
}

func testCrashLoopEnds(b *fixture) {
	b.put(b.message("a@montague.example"))
	b.begin(b.claimOne())
	b.killed()
	b.settle(b.begin(b.claimOne()), deferred(0, "later"))
	b.begin(b.claimOne())
	b.killed()
	l := b.claimOne()
	equal(b, "attempts", l.Deliveries[0].Attempt, 3)
}

func testKillTransfer(b *fixture) {
	p := octets(3*store.PieceSize + 99)
	_, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.send(key("t"), p[:2*store.PieceSize], 200_000)
	b.killed()
	// The chunks need not have survived, but what did is where it says.
	t, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	r, err := b.s.OpenTransfer(b.ctx, key("t"))
	b.ok(err)
	b.sameContent(b.readAll(r), p[:t.Next])
	b.send(key("t"), p, 200_000)
	m := b.messageOf(p, "romeo@montague.example")
	m.Content = nil
	_, _, err = b.s.Accept(b.ctx, key("t"), hashOf(p), m)
	b.ok(err)
	b.killed()
	b.sameContent(b.content(m.ID), p)
	equal(b, "due", b.claimOne().ID, m.ID)
}

func testAcceptanceOutlives(b *fixture) {
	m := b.message("a@montague.example")
	b.accept(key("t"), m)
	b.settle(b.begin(b.claimOne()), delivered())
	r := keepAll()
	r.Traces = time.Millisecond
	b.eventually("the trace is forgotten", func() bool {
		b.maintain(r)
		_, err := b.s.Show(b.ctx, m.ID)
		return err != nil
	})
	b.reopen()
	b.acceptedIs(key("t"), map[string]mail.ID{"a@montague.example": m.ID})
	next := b.message("a@montague.example")
	equal(b, "accepted under", b.accept(key("u"), next)[0], next.ID)
	b.acceptedIs(key("t"), map[string]mail.ID{"a@montague.example": m.ID})
}

func testBegunApart(b *fixture) {
	p := octets(1000)
	_, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.reopen()
	other := b.message("a@montague.example")
	b.put(other)
	_, err = b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.send(key("t"), p, 300)
	m := b.messageOf(p, "b@montague.example")
	m.Content = nil
	_, _, err = b.s.Accept(b.ctx, key("t"), hashOf(p), m)
	b.ok(err)
	b.sameContent(b.content(m.ID), p)
	b.sameContent(b.content(other.ID), other.Content.(mail.Bytes))
}

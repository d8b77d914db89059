package storetest

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func operatorTests() []test {
	return []test{
		{"list shows deliveries and filters them", testList},
		{"show tells all of a message", testShow},
		{"retry makes waiting deliveries due", testRetry},
		{"release makes a domain's deliveries due", testRelease},
		{"drop ends deliveries without a dsn", testDrop},
		{"peers are remembered", testPeers},
		{"a key is made once", testSecrets},
		{"users are kept", testUsers},
		{"policies are kept until they expire", testPolicies},
		{"results of tls add up and are bounded", testTLSCounts},
		{"a tls report is one node's at a time", testTLSClaims},
		{"maintain forgets days of tls reports", testMaintainTLS},
		{"signing keys are kept", testSigningKeys},
		{"one node makes the first signing keys", testFirstSigningKeys},
		{"return paths are kept until they expire", testReturnPaths},
		{"maintain forgets finished messages", testMaintainTraces},
		{"maintain forgets acceptances", testMaintainAcceptances},
		{"maintain forgets stale transfers", testMaintainTransfers},
		{"a cancelled context does nothing", testCancelled},
		{"a closed store answers with errors", testClosed},
	}
}

func testList(b *fixture) {
	one := b.message("a@montague.example", "b@capulet.example")
	two := b.message("c@montague.example")
	done := b.message("d@montague.example")
	done.First = []store.First{{Done: true, Outcome: delivered().Outcome}}
	for _, m := range []store.NewMessage{one, two, done} {
		b.put(m)
	}
	rcpts := func(f store.Filter) (out []string) {
		b.Helper()
		for _, e := range b.list(f) {
			out = append(out, e.Rcpt)
		}
		return out
	}
	for _, tc := range []struct {
		filter store.Filter
		want   []string
	}{
		{store.Filter{}, []string{"c@montague.example", "a@montague.example", "b@capulet.example"}},
		{store.Filter{Closed: true}, []string{"d@montague.example", "c@montague.example", "a@montague.example", "b@capulet.example"}},
		{store.Filter{Domain: "montague.example"}, []string{"c@montague.example", "a@montague.example"}},
		{store.Filter{Domain: "montague.example", Closed: true}, []string{"d@montague.example", "c@montague.example", "a@montague.example"}},
		{store.Filter{Domain: "verona.example"}, nil},
		{store.Filter{Limit: 1}, []string{"c@montague.example"}},
	} {
		if got := rcpts(tc.filter); !slices.Equal(got, tc.want) {
			b.Errorf("%+v: got %v, want %v", tc.filter, got, tc.want)
		}
	}
	e := b.list(store.Filter{})[2]
	want := store.Entry{ID: one.ID, N: 1, State: store.Due, Sender: "juliet@capulet.example", Rcpt: "b@capulet.example",
		Domain: "capulet.example", Size: one.Facts.Size, Age: e.Age, AgeSecs: e.AgeSecs, DueSecs: e.DueSecs}
	if e != want || e.Age < 0 || e.Age > time.Minute || e.DueSecs > 0 || e.DueSecs < -60 {
		b.Errorf("entry %+v", e)
	}
	equal(b, "due in, of a finished one", b.list(store.Filter{Closed: true})[0].DueSecs, 0)
}

func testShow(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	m.Envelope.Recipients[0].Notify = mail.NotifyFailure | mail.NotifyDelay
	m.Envelope.SMTPUTF8 = true
	m.Envelope.EnvelopeID = "QQ314159"
	b.put(m)
	r := b.show(m.ID)
	if r.ID != m.ID || r.Transfer != m.Transfer || !reflect.DeepEqual(r.Envelope, m.Envelope) || r.Trace != string(m.Trace) ||
		!reflect.DeepEqual(r.Origin, m.Origin) || r.Size != m.Facts.Size {
		b.Errorf("record %+v of %+v", r, m)
	}
	equal(b, "deliveries", len(r.Deliveries), 2)
	equal(b, "first", r.Deliveries[0].Rcpt, "a@montague.example")
	equal(b, "second", r.Deliveries[1].Rcpt, "b@capulet.example")
	equal(b, "attempts", len(r.Attempts), 0)
	_, err := b.s.Show(b.ctx, mail.NewID())
	b.is(err, store.ErrNotFound)
}

func testRetry(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example", "c@verona.example")
	m.First = slices.Repeat([]store.First{{Delay: long}}, 3)
	b.put(m)
	retry := func(n, want int) {
		b.Helper()
		got, err := b.s.Retry(b.ctx, store.One(m.ID, n, "me"))
		b.ok(err)
		equal(b, "deliveries made due", got, want)
	}
	equal(b, "due", len(b.claim(10)), 0)
	retry(1, 1)
	l := b.claimOne()
	equal(b, "claimed domain", l.Domain, "capulet.example")
	retry(1, 0) // leased
	retry(-1, 2)
	equal(b, "due", len(b.claim(10)), 2)
	b.settle(b.begin(l), delivered())
	retry(1, 0)
	for _, n := range []int{3, 1 << 20} {
		_, err := b.s.Retry(b.ctx, store.One(m.ID, n, "me"))
		b.is(err, store.ErrNotFound)
	}
	_, err := b.s.Retry(b.ctx, store.One(mail.NewID(), -1, "me"))
	b.is(err, store.ErrNotFound)
}

func testRelease(b *fixture) {
	for range 3 {
		m := b.message("a@montague.example", "b@capulet.example")
		m.First = slices.Repeat([]store.First{{Delay: long}}, 2)
		b.put(m)
	}
	b.put(b.message("c@montague.example"))
	b.claimOne() // stays leased
	b.released("verona.example", 0)
	b.released("montague.example", 3)
	leases := b.claim(10)
	equal(b, "leases", len(leases), 3)
	for _, l := range leases {
		equal(b, "claimed domain", l.Domain, "montague.example")
	}
	b.released("", 3)
	equal(b, "leases", len(b.claim(10)), 3)
	b.released("", 0)
}

func testDrop(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example", "c@verona.example")
	b.put(m)
	drop := func(n, want int) {
		b.Helper()
		got, err := b.s.Drop(b.ctx, store.One(m.ID, n, "me"))
		b.ok(err)
		equal(b, "deliveries dropped", got, want)
	}
	var running store.Lease
	for _, l := range b.claim(10, "verona.example") {
		l = b.begin(l)
		if l.Domain == "capulet.example" {
			running = l
			continue
		}
		b.settle(l, delivered())
	}
	drop(0, 0) // delivered
	drop(1, 1)
	drop(1, 0)
	equal(b, "state", b.state(m.ID, 1), store.Dropped)
	b.is(b.s.Settle(b.ctx, settlement(running, delivered(), b.message("juliet@capulet.example"))), store.ErrLeaseLost)
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	drop(-1, 1)
	_, err := b.s.OpenContent(b.ctx, m.ID)
	b.is(err, store.ErrNotFound)
	equal(b, "due", len(b.claim(10)), 0)
	_, err = b.s.Drop(b.ctx, store.One(m.ID, 3, "me"))
	b.is(err, store.ErrNotFound)
	_, err = b.s.Drop(b.ctx, store.One(mail.NewID(), -1, "me"))
	b.is(err, store.ErrNotFound)
}

func testSecrets(b *fixture) {
	var all sync.WaitGroup
	got := make([]string, 8)
	for i := range got {
		all.Go(func() {
			key, err := b.s.Key(b.ctx, "one", []byte{byte(i), 1, 2})
			if err != nil {
				b.Error(err)
			}
			got[i] = string(key)
		})
	}
	all.Wait()
	for _, key := range got {
		if len(key) != 3 || key != got[0] {
			b.Errorf("keys %q, want the same for all", got)
		}
	}
	key, err := b.s.Key(b.ctx, "two", []byte("other"))
	b.ok(err)
	equal(b, "another key", string(key), "other")
}

func testPeers(b *fixture) {
	_, err := b.s.Peer(b.ctx, "montague.example")
	b.is(err, store.ErrNotFound)
	for _, facts := range []string{`{"feature":true}`, `{}`} {
		b.ok(b.s.PutPeer(b.ctx, store.Peer{Domain: "montague.example", Facts: []byte(facts)}))
		p, err := b.s.Peer(b.ctx, "montague.example")
		b.ok(err)
		equal(b, "facts", string(p.Facts), facts)
		equal(b, "domain", p.Domain, "montague.example")
		if p.Seen.IsZero() || p.Age < 0 || p.Age > time.Minute {
			b.Errorf("seen %v, age %v", p.Seen, p.Age)
		}
	}
	_, err = b.s.Peer(b.ctx, "capulet.example")
	b.is(err, store.ErrNotFound)
}

// maintain calls Maintain until nothing is left to do.
func (b *fixture) maintain(r store.Retention) {
	b.Helper()
	for more, calls := true, 0; more; calls++ {
		if calls == 1000 {
			b.Fatal("maintain finds more and more")
		}
		var err error
		more, err = b.s.Maintain(b.ctx, r)
		b.ok(err)
	}
}

func keepAll() store.Retention {
	return store.Retention{Acceptances: long, Transfers: long, Traces: long, Dropped: long, TLSReports: long}
}

func testMaintainTraces(b *fixture) {
	done := b.message("a@montague.example", "b@capulet.example")
	b.put(done)
	for _, l := range b.claim(10) {
		b.settle(b.begin(l), deferred(0, "later"))
	}
	for _, l := range b.claim(10) {
		b.settle(b.begin(l), delivered())
	}
	half := b.message("a@montague.example", "b@capulet.example")
	half.First = []store.First{{Done: true, Outcome: delivered().Outcome}, {}}
	b.put(half)
	b.maintain(keepAll())
	b.show(done.ID)
	r := keepAll()
	r.Traces = time.Millisecond
	b.eventually("the trace is forgotten", func() bool {
		b.maintain(r)
		_, err := b.s.Show(b.ctx, done.ID)
		return err != nil
	})
	_, err := b.s.Show(b.ctx, done.ID)
	b.is(err, store.ErrNotFound)
	equal(b, "deliveries of an open message", len(b.show(half.ID).Deliveries), 2)
	b.sameContent(b.content(half.ID), half.Content.(mail.Bytes))
}

func testMaintainAcceptances(b *fixture) {
	m := b.message("a@montague.example")
	b.accept(key("t"), m)
	b.maintain(keepAll())
	equal(b, "known", b.lookup(key("t")).Known, true)
	r := keepAll()
	r.Acceptances = time.Millisecond
	b.eventually("the acceptance is forgotten", func() bool { b.maintain(r); return !b.lookup(key("t")).Known })
	equal(b, "deliveries", len(b.list(store.Filter{})), 1)
}

func testMaintainTransfers(b *fixture) {
	p := octets(2*store.PieceSize + 1)
	_, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.send(key("t"), p[:store.PieceSize+10], 100_000)
	b.maintain(keepAll())
	equal(b, "where it stands", b.lookup(key("t")).Next, store.PieceSize+10)
	r := keepAll()
	r.Transfers = time.Millisecond
	b.eventually("the transfer is forgotten", func() bool { b.maintain(r); return !b.lookup(key("t")).Known })
	_, err = b.s.Append(b.ctx, key("t"), store.PieceSize+10, p[:10])
	b.is(err, store.ErrNotFound)
}

func testCancelled(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	l := b.begin(b.claimOne())
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	other := b.message("b@montague.example")
	h := hashOf(other.Content.(mail.Bytes))
	for name, call := range map[string]func() error{
		"PutMessage":    func() error { _, err := b.s.PutMessage(ctx, other); return err },
		"OpenContent":   func() error { _, err := b.s.OpenContent(ctx, m.ID); return err },
		"Claim":         func() error { _, err := b.s.Claim(ctx, 1, long, nil, 0); return err },
		"NextDue":       func() error { _, _, err := b.s.NextDue(ctx, nil); return err },
		"BeginAttempt":  func() error { _, err := b.s.BeginAttempt(ctx, l, store.WayXMPP); return err },
		"SetWay":        func() error { return b.s.SetWay(ctx, l, store.WaySMTP) },
		"Renew":         func() error { _, err := b.s.Renew(ctx, []store.Lease{l}, long); return err },
		"Settle":        func() error { return b.s.Settle(ctx, settlement(l, delivered(), other)) },
		"Release":       func() error { _, err := b.s.Release(ctx, ""); return err },
		"Lookup":        func() error { _, err := b.s.Lookup(ctx, key("t")); return err },
		"TransferBegin": func() error { _, err := b.s.TransferBegin(ctx, key("t"), h); return err },
		"Accept":        func() error { _, _, err := b.s.Accept(ctx, key("t"), h, other); return err },
		"TransferAbort": func() error { return b.s.TransferAbort(ctx, key("t")) },
		"Peer":          func() error { _, err := b.s.Peer(ctx, "montague.example"); return err },
		"Key":           func() error { _, err := b.s.Key(ctx, "one", []byte("x")); return err },
		"PutPeer":       func() error { return b.s.PutPeer(ctx, store.Peer{Domain: "montague.example"}) },
		"User":          func() error { _, err := b.s.User(ctx, "juliet"); return orFound(err) },
		"PutUser":       func() error { return b.s.PutUser(ctx, store.User{Name: "juliet"}) },
		"DeleteUser":    func() error { return orFound(b.s.DeleteUser(ctx, "juliet")) },
		"Users":         func() error { _, err := b.s.Users(ctx); return err },
		"GetPolicy":     func() error { _, err := b.s.GetPolicy(ctx, "montague.example"); return err },
		"PutPolicy":     func() error { return b.s.PutPolicy(ctx, "montague.example", nil, time.Now()) },
		"AddTLS":        func() error { return b.s.AddTLS(ctx, []store.TLSDay{{Day: "2026-03-04", Domain: "a.example"}}) },
		"TLSDays":       func() error { _, err := b.s.TLSDays(ctx, "2026-03-04", ""); return err },
		"ClaimTLS":      func() error { _, _, err := b.s.ClaimTLSReport(ctx, "x", long); return err },
		"SettleTLS":     func() error { return leaseLost(b.s.SettleTLSReport(ctx, store.TLSDay{}, store.TLSSent, "", 0)) },
		"List":          func() error { _, err := b.s.List(ctx, store.Filter{}); return err },
		"Show":          func() error { _, err := b.s.Show(ctx, m.ID); return err },
		"Retry":         func() error { _, err := b.s.Retry(ctx, store.One(m.ID, -1, "me")); return err },
		"Drop":          func() error { _, err := b.s.Drop(ctx, store.One(m.ID, -1, "me")); return err },
		"Totals":        func() error { _, err := b.s.Totals(ctx, store.Filter{}, 1); return err },
		"Hold":          func() error { _, err := b.s.Hold(ctx, all(m)); return err },
		"Unhold":        func() error { _, err := b.s.Unhold(ctx, all(m)); return err },
		"Redirect":      func() error { _, err := b.s.Redirect(ctx, all(m), "smtp://relay.example"); return err },
		"Restore":       func() error { _, err := b.s.Restore(ctx, all(m)); return err },
		"Seize":         func() error { _, err := b.s.Seize(ctx, m.ID, -1, "me", long); return err },
		"Maintain":      func() error { _, err := b.s.Maintain(ctx, store.Retention{}); return err },
	} {
		if err := call(); err == nil {
			b.Errorf("%s does not honour its context", name)
		}
	}
	equal(b, "deliveries", len(b.list(store.Filter{Closed: true})), 1)
	equal(b, "known", b.lookup(key("t")).Known, false)
	b.settle(l, delivered())
}

func testClosed(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	s := b.s
	b.ok(s.Close())
	b.ok(s.Close())
	b.s = nil
	for name, call := range map[string]func() error{
		"PutMessage":  func() error { _, err := s.PutMessage(b.ctx, m); return err },
		"OpenContent": func() error { _, err := s.OpenContent(b.ctx, m.ID); return err },
		"Claim":       func() error { _, err := s.Claim(b.ctx, 1, long, nil, 0); return err },
		"List":        func() error { _, err := s.List(b.ctx, store.Filter{}); return err },
	} {
		if call() == nil {
			b.Errorf("%s works on a closed store", name)
		}
	}
}

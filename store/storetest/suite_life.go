package storetest

import (
	"reflect"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func lifeTests() []test {
	return []test{
		{"a message is claimed whole and settled", testLife},
		{"a group is one message to one domain", testGroups},
		{"the longest due comes first", testOldestFirst},
		{"busy domains are left out and n bounds the groups", testBusy},
		{"putting a message again does nothing", testPutAgain},
		{"a message that makes no sense is refused", testBadMessages},
		{"deliveries to leased domains are born leased", testBornLeased},
		{"a delivery may start delayed or in doubt", testFirst},
		{"a delivery may start settled", testFirstDone},
		{"a deferred delivery comes back with its history", testDeferred},
		{"doubt and a sent delay notice are kept in mind", testFlags},
		{"a settlement queues its dsns", testDSN},
		{"an expired delivery comes back to be settled", testExpired},
		{"next due tells when something becomes claimable", testNextDue},
		{"wake receives when deliveries become due", testWake},
	}
}

func testLife(b *fixture) {
	m := b.message("romeo@montague.example")
	if leases := b.put(m); len(leases) != 0 {
		b.Fatalf("a lease that nobody asked for: %v", leases)
	}
	equal(b, "state", b.state(m.ID, 0), store.Due)
	l := b.claimOne()
	if !reflect.DeepEqual(l.Envelope, m.Envelope) || !reflect.DeepEqual(l.Origin, m.Origin) {
		b.Errorf("lease has envelope %+v and origin %+v, want %+v and %+v", l.Envelope, l.Origin, m.Envelope, m.Origin)
	}
	equal(b, "facts", l.Facts, m.Facts)
	equal(b, "trace", string(l.Trace), string(m.Trace))
	equal(b, "id", l.ID, m.ID)
	equal(b, "transfer", l.Transfer, m.Transfer)
	equal(b, "domain", l.Domain, "montague.example")
	equal(b, "deliveries", len(l.Deliveries), 1)
	equal(b, "attempt before it begins", l.Deliveries[0].Attempt, 0)
	equal(b, "state", b.state(m.ID, 0), store.Leased)
	if left := l.Deliveries[0].Left; left <= lifetime-time.Minute || left > lifetime {
		b.Errorf("left: %v", left)
	}
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	if l := b.begin(l); l.Deliveries[0].Attempt != 1 {
		b.Errorf("attempt after it began: %d", l.Deliveries[0].Attempt)
	}
	equal(b, "running attempts", len(b.show(m.ID).Attempts), 1)
	b.settle(l, delivered())
	equal(b, "state", b.state(m.ID, 0), store.Delivered)
	r := b.show(m.ID)
	want := store.Try{N: 0, Number: 1, Way: store.WayXMPP, Began: r.Attempts[0].Began, Ended: r.Attempts[0].Ended, Result: store.Delivered,
		Text: "2.0.0 taken", Remote: "mx.montague.example", RemoteID: "Q1", Proof: "pkix", TLS: "TLS1.3 TLS_AES_128_GCM_SHA256"}
	if len(r.Attempts) != 1 || r.Attempts[0] != want || want.Began.IsZero() || want.Ended.Before(want.Began) {
		b.Errorf("attempts %+v, want %+v", r.Attempts, want)
	}
	equal(b, "deliveries still due", len(b.claim(10)), 0)
	equal(b, "open deliveries", len(b.list(store.Filter{})), 0)
}

func testGroups(b *fixture) {
	m := b.message("romeo@montague.example", "nurse@capulet.example", "benvolio@montague.example")
	other := b.message("romeo@montague.example")
	b.put(m)
	b.put(other)
	got := map[mail.ID]map[string][]int{}
	for _, l := range b.claim(10) {
		if got[l.ID] == nil {
			got[l.ID] = map[string][]int{}
		}
		if got[l.ID][l.Domain] != nil {
			b.Errorf("two leases of one message to %s", l.Domain)
		}
		for _, d := range l.Deliveries {
			got[l.ID][l.Domain] = append(got[l.ID][l.Domain], d.N)
		}
	}
	want := map[mail.ID]map[string][]int{
		m.ID:     {"montague.example": {0, 2}, "capulet.example": {1}},
		other.ID: {"montague.example": {0}},
	}
	if !reflect.DeepEqual(got, want) {
		b.Errorf("groups %v, want %v", got, want)
	}
}

func testOldestFirst(b *fixture) {
	var want []mail.ID
	for range 5 {
		m := b.message("romeo@montague.example")
		start := time.Now()
		b.put(m)
		b.eventually("the clock goes on", func() bool { return time.Since(start) > 3*time.Millisecond })
		want = append(want, m.ID)
	}
	for _, id := range want {
		equal(b, "next claimed", b.claim(1)[0].ID, id)
	}
}

func testBusy(b *fixture) {
	for range 3 {
		b.put(b.message("romeo@montague.example"))
		b.put(b.message("nurse@capulet.example"))
		b.put(b.message("mercutio@verona.example"))
	}
	for _, l := range b.claim(10, "montague.example", "verona.example") {
		equal(b, "claimed domain", l.Domain, "capulet.example")
	}
	equal(b, "leases left for idle domains", len(b.claim(10, "montague.example", "verona.example")), 0)
	equal(b, "leases for n", len(b.claim(4)), 4)
	equal(b, "leases for the rest", len(b.claim(10)), 2)
	equal(b, "leases for n of 0", len(b.claim(0)), 0)
}

func testPutAgain(b *fixture) {
	m := b.message("romeo@montague.example", "nurse@capulet.example")
	m.Lease = store.Own{Domains: []string{"capulet.example"}, For: long}
	b.put(m)
	b.put(m)
	equal(b, "deliveries", len(b.list(store.Filter{})), 2)
	equal(b, "leases to claim", len(b.claim(10)), 1)
	large := b.messageOf(octets(3*store.PieceSize), "romeo@montague.example")
	b.put(large)
	b.put(large)
	b.sameContent(b.content(large.ID), large.Content.(mail.Bytes))
	equal(b, "deliveries", len(b.list(store.Filter{})), 3)
}

func testBadMessages(b *fixture) {
	for name, spoil := range map[string]func(*store.NewMessage){
		"no id":         func(m *store.NewMessage) { m.ID = "" },
		"no recipients": func(m *store.NewMessage) { m.Envelope.Recipients = nil },
		"no content":    func(m *store.NewMessage) { m.Content = nil },
		"first states":  func(m *store.NewMessage) { m.First = make([]store.First, 3) },
	} {
		m := b.message("romeo@montague.example", "nurse@capulet.example")
		spoil(&m)
		if _, err := b.s.PutMessage(b.ctx, m); err == nil {
			b.Errorf("%s: taken", name)
		}
	}
	equal(b, "deliveries", len(b.list(store.Filter{Closed: true})), 0)
}

func testBornLeased(b *fixture) {
	m := b.message("romeo@montague.example", "nurse@capulet.example", "benvolio@montague.example")
	m.Lease = store.Own{Domains: []string{"montague.example"}, For: long}
	leases := b.put(m)
	equal(b, "leases", len(leases), 1)
	l := leases[0]
	equal(b, "deliveries", len(l.Deliveries), 2)
	for _, d := range l.Deliveries {
		equal(b, "attempt", d.Attempt, 1)
	}
	if !reflect.DeepEqual(l.Envelope, m.Envelope) || l.Facts != m.Facts || l.Transfer != m.Transfer || string(l.Trace) != string(m.Trace) {
		b.Errorf("lease %+v does not fit its message", l)
	}
	for _, try := range b.show(m.ID).Attempts {
		equal(b, "running attempt", try.Number, 1)
		equal(b, "its end", try.Ended, time.Time{})
	}
	equal(b, "claimable domain", b.claimOne().Domain, "capulet.example")
	b.settle(l, delivered())
	equal(b, "state", b.state(m.ID, 0), store.Delivered)
	equal(b, "state", b.state(m.ID, 2), store.Delivered)
}

func testFirst(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example", "c@montague.example")
	m.First = []store.First{
		{},
		{Delay: long},
		{InDoubt: true, Outcome: mail.Outcome{Failure: mail.Fail(mail.Doubtful, "cut off", nil), Remote: "montague.example"}},
	}
	b.put(m)
	equal(b, "state", b.state(m.ID, 0), store.Due)
	equal(b, "state after a failure", b.state(m.ID, 2), store.Deferred)
	l := b.claimOne()
	equal(b, "due deliveries", len(l.Deliveries), 2)
	equal(b, "first", l.Deliveries[0].N, 0)
	equal(b, "in doubt", l.Deliveries[0].InDoubt, false)
	equal(b, "second", l.Deliveries[1].N, 2)
	equal(b, "in doubt", l.Deliveries[1].InDoubt, true)
	equal(b, "last words", l.Deliveries[1].LastText, "cut off")
	b.settle(b.begin(l), delivered())
	var numbers []int
	for _, try := range b.show(m.ID).Attempts {
		if try.N == 2 {
			numbers = append(numbers, try.Number)
		}
	}
	if !reflect.DeepEqual(numbers, []int{0, 1}) {
		b.Errorf("attempts %v, want the one before the spooling and the first", numbers)
	}
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
}

func testFirstDone(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example", "c@capulet.example")
	m.First = []store.First{
		{Done: true, Outcome: delivered().Outcome},
		{Done: true, Outcome: bounced().Outcome},
		{},
	}
	m.Lease = store.Own{Domains: []string{"montague.example", "capulet.example"}, For: long}
	leases := b.put(m)
	equal(b, "leases", len(leases), 1)
	equal(b, "leased domain", leases[0].Domain, "capulet.example")
	equal(b, "state", b.state(m.ID, 0), store.Delivered)
	equal(b, "state", b.state(m.ID, 1), store.Bounced)
	equal(b, "due", len(b.claim(10)), 0)
	try := b.show(m.ID).Attempts[0]
	equal(b, "number of the attempt before the spooling", try.Number, 0)
	equal(b, "its queue id", try.RemoteID, "Q1")
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	b.settle(leases[0], delivered())
	_, err := b.s.OpenContent(b.ctx, m.ID)
	b.is(err, store.ErrNotFound)

	later := b.message("a@montague.example", "b@montague.example")
	later.First = []store.First{{Delay: long}, {}}
	later.Lease = store.Own{Domains: []string{"montague.example"}, For: long}
	leases = b.put(later)
	equal(b, "leases", len(leases), 1)
	equal(b, "leased deliveries, the delayed one not among them", len(leases[0].Deliveries), 1)
	b.settle(leases[0], delivered())

	all := b.message("a@montague.example")
	all.First = []store.First{{Done: true, Outcome: delivered().Outcome}}
	b.put(all)
	_, err = b.s.OpenContent(b.ctx, all.ID)
	b.is(err, store.ErrNotFound)
	equal(b, "due", len(b.claim(10)), 0)
}

func testDeferred(b *fixture) {
	m := b.message("romeo@montague.example")
	b.put(m)
	b.settle(b.begin(b.claimOne()), deferred(0, "one"))
	equal(b, "state", b.state(m.ID, 0), store.Deferred)
	l := b.claimOne()
	equal(b, "attempts", l.Deliveries[0].Attempt, 1)
	equal(b, "last words", l.Deliveries[0].LastText, "one")
	l = b.begin(l)
	equal(b, "attempts", l.Deliveries[0].Attempt, 2)
	b.settle(l, deferred(long, "two"))
	equal(b, "due", len(b.claim(10)), 0)
	e := b.list(store.Filter{})[0]
	equal(b, "last words", e.Last, "two")
	equal(b, "attempts", e.Attempts, 2)
	if e.DueSecs < 3500 || e.DueSecs > 3600 {
		b.Errorf("due in %d s, want about an hour", e.DueSecs)
	}
	tries := b.show(m.ID).Attempts
	equal(b, "attempts", len(tries), 2)
	for i, text := range []string{"one", "two"} {
		equal(b, "number", tries[i].Number, i+1)
		equal(b, "words", tries[i].Text, text)
		equal(b, "status", tries[i].Status, "4.4.1")
		equal(b, "result", tries[i].Result, store.Deferred)
	}
}

func testFlags(b *fixture) {
	b.put(b.message("romeo@montague.example"))
	b.settle(b.begin(b.claimOne()), store.Result{State: store.Deferred, InDoubt: true, Outcome: mail.Outcome{Failure: mail.Fail(mail.Doubtful, "", nil)}})
	l := b.claimOne()
	equal(b, "in doubt", l.Deliveries[0].InDoubt, true)
	equal(b, "delayed", l.Deliveries[0].Delayed, false)
	b.settle(b.begin(l), store.Result{State: store.Deferred, Delayed: true, Outcome: mail.Outcome{Failure: mail.Fail(mail.Unreachable, "", nil)}})
	b.settle(b.begin(b.claimOne()), deferred(0, "again"))
	l = b.claimOne()
	equal(b, "in doubt", l.Deliveries[0].InDoubt, true)
	equal(b, "delayed", l.Deliveries[0].Delayed, true)
}

func testDSN(b *fixture) {
	m := b.message("romeo@montague.example")
	b.put(m)
	l := b.begin(b.claimOne())
	dsn := b.message("juliet@capulet.example")
	large := b.messageOf(octets(2*store.PieceSize+1), "juliet@capulet.example")
	for _, d := range []*store.NewMessage{&dsn, &large} {
		d.Envelope.Sender = mail.Address{}
		d.Lease = store.Own{Domains: []string{"capulet.example"}, For: long} // nobody would hold it
	}
	b.settle(l, bounced(), dsn, large)
	equal(b, "state", b.state(m.ID, 0), store.Bounced)
	got := map[mail.ID]bool{}
	for _, l := range b.claim(10) {
		got[l.ID] = true
		equal(b, "sender", l.Envelope.Sender, mail.Address{})
	}
	if !got[dsn.ID] || !got[large.ID] || len(got) != 2 {
		b.Errorf("claimed %v, want both dsns", got)
	}
	b.sameContent(b.content(large.ID), large.Content.(mail.Bytes))
}

func testExpired(b *fixture) {
	m := b.message("romeo@montague.example")
	m.Lifetime = 30 * time.Millisecond
	b.put(m)
	l := b.claim(1)
	b.settle(b.begin(l[0]), deferred(long, "no answer"))
	b.eventually("the delivery comes back expired", func() bool { l = b.claim(1); return len(l) == 1 })
	d := l[0].Deliveries[0]
	equal(b, "expired", d.Expired, true)
	equal(b, "left", d.Left, 0)
	equal(b, "last words", d.LastText, "no answer")
	b.settle(l[0], store.Result{State: store.ExpiredSt, Outcome: mail.Outcome{Failure: mail.Fail(mail.Expired, "", nil)}}, b.message("juliet@capulet.example"))
	equal(b, "state", b.state(m.ID, 0), store.ExpiredSt)
	equal(b, "attempts", len(b.show(m.ID).Attempts), 1)
	equal(b, "dsn", b.claimOne().Domain, "capulet.example")
	m = b.message("romeo@montague.example")
	m.Lifetime = 10 * time.Millisecond
	m.First = []store.First{{Delay: long}}
	b.put(m)
	b.eventually("a delayed delivery comes back expired", func() bool { l = b.claim(1); return len(l) == 1 })
	equal(b, "expired", l[0].Deliveries[0].Expired, true)
}

func testNextDue(b *fixture) {
	next := func() (time.Duration, bool) {
		b.Helper()
		wait, ok, err := b.s.NextDue(b.ctx, nil)
		b.ok(err)
		return wait, ok
	}
	if _, ok := next(); ok {
		b.Error("something is waiting in an empty store")
	}
	m := b.message("romeo@montague.example")
	b.put(m)
	if wait, ok := next(); !ok || wait != 0 {
		b.Errorf("due message: %v %v", wait, ok)
	}
	l := b.begin(b.claimOne())
	if wait, ok := next(); !ok || wait < long-time.Minute || wait > long {
		b.Errorf("leased for an hour: %v %v", wait, ok)
	}
	b.settle(l, deferred(2*long, "later"))
	if wait, ok := next(); !ok || wait < 2*long-time.Minute || wait > 2*long {
		b.Errorf("deferred for two hours: %v %v", wait, ok)
	}
	if _, err := b.s.Drop(b.ctx, store.One(m.ID, -1, "me")); err != nil {
		b.Error(err)
	}
	if _, ok := next(); ok {
		b.Error("something is waiting after the drop")
	}
}

func testWake(b *fixture) {
	woken := func(what string, do func()) {
		b.Helper()
		for drained := false; !drained; {
			select {
			case <-b.s.Wake():
			default:
				drained = true
			}
		}
		do()
		select {
		case <-b.s.Wake():
		case <-time.After(10 * time.Second):
			b.Errorf("nobody was woken by %s", what)
		}
	}
	m := b.message("romeo@montague.example")
	woken("a message", func() { b.put(m) })
	b.settle(b.begin(b.claimOne()), deferred(long, "later"))
	woken("a release", func() { b.released("montague.example", 1) })
	b.settle(b.begin(b.claimOne()), deferred(long, "later"))
	woken("a retry", func() {
		if n, err := b.s.Retry(b.ctx, store.One(m.ID, -1, "me")); n != 1 || err != nil {
			b.Errorf("retry: %d, %v", n, err)
		}
	})
	l := b.begin(b.claimOne())
	woken("a dsn", func() { b.settle(l, bounced(), b.message("juliet@capulet.example")) })
	woken("an acceptance", func() { b.accept(key("t"), b.message("romeo@montague.example")) })
}

func (b *fixture) released(domain string, want int) {
	b.Helper()
	n, err := b.s.Release(b.ctx, domain)
	b.ok(err)
	equal(b, "deliveries released", n, want)
}

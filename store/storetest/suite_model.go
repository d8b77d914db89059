package storetest

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"

	"pgregory.net/rapid"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// model is the contract in its plainest form: no clock, everything is due now
// or in an hour.
type model struct {
	*fixture
	domains []string
	open    map[mail.ID][]*modelDelivery // the deliveries of each message
	order   []mail.ID
	leases  []store.Lease // held or lost, with the counts that the model gave them
}

type modelDelivery struct {
	domain   string
	state    store.State
	due      bool
	token    int64
	attempts int
	running  bool
	doubt    bool
}

func testModel(b *fixture) {
	// A database under the race detector is slow: 20 rounds here, rapid's own
	// number in the long form, any other by -rapid.checks.
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue && os.Getenv("MAILXMPPD_LONG") == "" {
		b.ok(f.Value.Set("20"))
	}
	rapid.Check(b.T, func(t *rapid.T) {
		m := &model{fixture: b, domains: []string{"montague.example", "capulet.example", "verona.example"}, open: map[mail.ID][]*modelDelivery{}}
		t.Repeat(map[string]func(*rapid.T){
			"put":     m.put,
			"claim":   m.claim,
			"begin":   m.begin,
			"settle":  m.settle,
			"retry":   m.retry,
			"release": m.release,
			"drop":    m.drop,
			"":        m.check,
		})
		for _, id := range m.order { // leave nothing to the next round
			if _, err := b.s.Drop(b.ctx, store.One(id, -1, "me")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func (m *model) put(t *rapid.T) {
	var rcpts []string
	for i := range rapid.IntRange(1, 4).Draw(t, "recipients") {
		rcpts = append(rcpts, fmt.Sprintf("r%d@%s", i, rapid.SampledFrom(m.domains).Draw(t, "domain")))
	}
	msg := m.message(rcpts...)
	if rapid.Bool().Draw(t, "leased") {
		msg.Lease = store.Own{Domains: m.domains[:1], For: long}
	}
	leases, err := m.s.PutMessage(m.ctx, msg)
	if err != nil {
		t.Fatal(err)
	}
	m.leases = append(m.leases, leases...)
	for _, r := range msg.Envelope.Recipients {
		d := &modelDelivery{domain: r.Address.Domain, state: store.Due, due: true}
		if slices.Contains(msg.Lease.Domains, d.domain) {
			*d = modelDelivery{domain: d.domain, state: store.Leased, token: 1, attempts: 1, running: true}
		}
		m.open[msg.ID] = append(m.open[msg.ID], d)
	}
	m.order = append(m.order, msg.ID)
}

func (m *model) claim(t *rapid.T) {
	busy := rapid.SliceOfDistinct(rapid.SampledFrom(m.domains), rapid.ID).Draw(t, "busy")
	leases, err := m.s.Claim(m.ctx, 1000, long, busy, 0)
	if err != nil {
		t.Fatal(err)
	}
	claimed := 0
	for _, l := range leases {
		for _, d := range l.Deliveries {
			want := m.open[l.ID][d.N]
			if !want.due || want.domain != l.Domain || slices.Contains(busy, l.Domain) {
				t.Fatalf("claimed %s.%d to %s, which is %+v, busy %v", l.ID, d.N, l.Domain, *want, busy)
			}
			if d.Token <= want.token || d.Attempt != want.attempts || d.InDoubt != want.doubt {
				t.Fatalf("claimed %+v, the model has %+v", d, *want)
			}
			want.due, want.state, want.token = false, store.Leased, d.Token
			claimed++
		}
	}
	for id, ds := range m.open {
		for n, d := range ds {
			if d.due && !slices.Contains(busy, d.domain) {
				t.Fatalf("%s.%d is due and was not claimed with %d others", id, n, claimed)
			}
		}
	}
	m.leases = append(m.leases, leases...)
}

// pick draws a lease, which may have been lost or settled long ago, and tells
// whether it is held.
func (m *model) pick(t *rapid.T) (at int, held bool) {
	if len(m.leases) == 0 {
		return -1, false
	}
	at = rapid.IntRange(0, len(m.leases)-1).Draw(t, "lease")
	held = true
	for _, d := range m.leases[at].Deliveries {
		w := m.open[m.leases[at].ID][d.N]
		held = held && w.state == store.Leased && w.token == d.Token
	}
	return at, held
}

func (m *model) begin(t *rapid.T) {
	at, held := m.pick(t)
	if at < 0 {
		return
	}
	l, err := m.s.BeginAttempt(m.ctx, m.leases[at], store.WayXMPP)
	if !held {
		m.wantLost(t, err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	m.leases[at] = l
	for _, d := range l.Deliveries {
		w := m.open[l.ID][d.N]
		w.attempts++
		w.running = true
		if d.Attempt != w.attempts {
			t.Fatalf("attempt %d, the model has %d", d.Attempt, w.attempts)
		}
	}
}

func (m *model) wantLost(t *rapid.T, err error) {
	if err != store.ErrLeaseLost {
		t.Fatalf("lost lease: %v", err)
	}
}

func (m *model) settle(t *rapid.T) {
	at, held := m.pick(t)
	if at < 0 {
		return
	}
	l := m.leases[at]
	set := store.Settlement{Lease: l}
	for range l.Deliveries {
		set.Results = append(set.Results, rapid.SampledFrom([]store.Result{
			delivered(), bounced(), deferred(0, "now"), deferred(long, "later"),
			{State: store.Deferred, InDoubt: true, Outcome: mail.Outcome{Failure: mail.Fail(mail.Doubtful, "", nil)}},
		}).Draw(t, "result"))
	}
	err := m.s.Settle(m.ctx, set)
	if !held {
		m.wantLost(t, err)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, d := range l.Deliveries {
		w, r := m.open[l.ID][d.N], set.Results[i]
		w.state, w.running, w.doubt = r.State, false, w.doubt || r.InDoubt
		w.due = r.State == store.Deferred && r.Delay == 0
	}
}

func (m *model) retry(t *rapid.T) {
	if len(m.order) == 0 {
		return
	}
	id := rapid.SampledFrom(m.order).Draw(t, "message")
	n := rapid.IntRange(-1, len(m.open[id])-1).Draw(t, "delivery")
	got, err := m.s.Retry(m.ctx, store.One(id, n, "me"))
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for i, d := range m.open[id] {
		if (n < 0 || i == n) && (d.state == store.Due || d.state == store.Deferred) {
			d.due = true
			want++
		}
	}
	if got != want {
		t.Fatalf("retry made %d due, want %d", got, want)
	}
}

func (m *model) release(t *rapid.T) {
	domain := rapid.SampledFrom(append([]string{""}, m.domains...)).Draw(t, "domain")
	if _, err := m.s.Release(m.ctx, domain); err != nil {
		t.Fatal(err)
	}
	for _, ds := range m.open {
		for _, d := range ds {
			if (domain == "" || d.domain == domain) && (d.state == store.Due || d.state == store.Deferred) {
				d.due = true
			}
		}
	}
}

func (m *model) drop(t *rapid.T) {
	if len(m.order) == 0 || rapid.IntRange(0, 3).Draw(t, "rarely") > 0 {
		return
	}
	id := rapid.SampledFrom(m.order).Draw(t, "message")
	n := rapid.IntRange(-1, len(m.open[id])-1).Draw(t, "delivery")
	got, err := m.s.Drop(m.ctx, store.One(id, n, "me"))
	if err != nil {
		t.Fatal(err)
	}
	want := 0
	for i, d := range m.open[id] {
		if (n < 0 || i == n) && d.state.Open() {
			d.state, d.due = store.Dropped, false
			want++
		}
	}
	if got != want {
		t.Fatalf("dropped %d, want %d", got, want)
	}
}

// check compares what the operator sees with the model.
func (m *model) check(t *rapid.T) {
	got, err := m.s.List(m.ctx, store.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		id       mail.ID
		n        int
		state    store.State
		attempts int
		doubt    bool
	}
	var have, want []line
	stands := map[mail.ID]bool{}
	for _, e := range got {
		have = append(have, line{e.ID, e.N, e.State, e.Attempts, e.InDoubt})
	}
	for _, id := range slices.Backward(m.order) {
		open := false
		for n, d := range m.open[id] {
			if d.state.Open() {
				want = append(want, line{id, n, d.state, d.attempts, d.doubt})
				open = true
			}
		}
		stands[id] = open
	}
	if len(m.order) > 0 {
		id := rapid.SampledFrom(m.order).Draw(t, "content")
		r, err := m.s.OpenContent(m.ctx, id)
		if stands[id] != (err == nil) {
			t.Fatalf("message %s open %v, its content: %v", id, stands[id], err)
		}
		if err == nil {
			r.Close()
		}
	}
	slices.SortStableFunc(want, func(a, b line) int { return -cmp.Compare(a.id, b.id) })
	if !slices.Equal(have, want) {
		t.Fatalf("list %v, want %v", have, want)
	}
}

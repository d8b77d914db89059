package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestGroup: the ops of one group have one transaction, and what the server
// refuses in one of them fails that one only.
func TestGroup(t *testing.T) {
	t.Parallel()
	name := newSchema()
	s := node(t, name, "a")
	put := func(rcpts ...string) *op {
		m := newMessage(t, 100, rcpts...)
		row, err := s.newRow(m)
		if err != nil {
			t.Fatal(err)
		}
		row.body = m.Content.(mail.Bytes)
		return &op{put: row, done: make(chan struct{})}
	}
	accept := func() *op {
		o := put("romeo@montague.example")
		m := newMessage(t, 100, "romeo@montague.example")
		m.ID = o.put.id
		o.accept = &acceptOp{
			key:  store.TransferKey{Domain: "capulet.example", Local: "montague.example", ID: string(m.ID)},
			hash: store.ContentHash{Size: 100}, m: m, all: o.put,
		}
		o.put = nil
		return o
	}
	stale := func() *op {
		return &op{done: make(chan struct{}), settle: &store.Settlement{
			Lease:   store.Lease{ID: mail.NewID(), Deliveries: []store.Delivery{{Token: 1}}},
			Results: []store.Result{{State: store.Delivered}},
		}}
	}
	good := []*op{put("a@one.example"), put("b@two.example", "c@two.example"), accept()}
	s.commit(append(slices.Clone(good), stale()))
	if n := count(t, name, `SELECT count(DISTINCT xmin::text) FROM messages`); n != 1 {
		t.Errorf("a group took %d transactions", n)
	}

	bad := put("d@one.example", "e@one.example")
	bad.put.deliveries[1].n = 0 // two rows of one key
	lost := stale()
	more := []*op{put("f@one.example"), accept()}
	s.commit([]*op{more[0], bad, lost, more[1]})
	for _, o := range append(good, more...) {
		if <-o.done; o.err != nil {
			t.Errorf("failed for another: %v", o.err)
		}
	}
	if <-bad.done; bad.err == nil || !strings.Contains(bad.err.Error(), "deliveries_pkey") {
		t.Errorf("impossible message: %v", bad.err)
	}
	if <-lost.done; !errors.Is(lost.err, store.ErrLeaseLost) {
		t.Errorf("stale settlement: %v", lost.err)
	}
	if n := count(t, name, `SELECT count(*) FROM messages`); n != 5 {
		t.Errorf("%d messages, want 5", n)
	}
}

// TestCollect: a group keeps within its bounds, two acceptances under one key
// never share one, and what a caller took back is left out.
func TestCollect(t *testing.T) {
	t.Parallel()
	key := func(id string) *op { return &op{accept: &acceptOp{key: store.TransferKey{ID: id}}} }
	back := &op{put: &messageRow{}}
	back.taken.Store(true)
	for _, c := range []struct {
		name    string
		waiting []*op
		group   int
		over    bool
	}{
		{"small", []*op{{}, {}, {}}, 3, false},
		{"octets", []*op{{octets: batchOctets - 1}, {octets: 1}, {octets: 1}}, 2, true},
		{"one that is too large alone", []*op{{octets: batchOctets + 1}, {octets: 1}}, 1, true},
		{"keys", []*op{key("a"), key("b"), key("a")}, 2, true},
		{"taken back", []*op{{}, back, {}}, 2, false},
		{"first taken back", []*op{back, {}}, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &Store{ops: make(chan *op, len(c.waiting))}
			for _, o := range c.waiting[1:] {
				s.ops <- o
			}
			group, over := s.collect(c.waiting[0])
			if len(group) != c.group || (over != nil) != c.over {
				t.Errorf("group of %d, over %v; want %d, %v", len(group), over != nil, c.group, c.over)
			}
		})
	}
	s := &Store{ops: make(chan *op, batchOps)}
	for range batchOps {
		s.ops <- &op{}
	}
	if group, over := s.collect(&op{}); len(group) != batchOps || over != nil {
		t.Errorf("group of %d, want %d", len(group), batchOps)
	}
}

// TestSubmitGivesUp: a caller whose context ends while its op waits takes it
// back, and nothing of it is done.
func TestSubmitGivesUp(t *testing.T) {
	t.Parallel()
	s := &Store{ops: make(chan *op, 1), closing: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	answer := make(chan error)
	go func() { answer <- s.submit(ctx, &op{put: &messageRow{}}) }()
	o := <-s.ops
	cancel()
	if err := <-answer; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if group, _ := s.collect(o); len(group) != 0 {
		t.Error("an op that was taken back is in a group")
	}
}

// TestAbandonedUpload: pieces whose message never came go with Maintain, and
// who comes back to them after that is refused.
func TestAbandonedUpload(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	name := newSchema()
	s := node(t, name, "a")
	m := newMessage(t, 2*store.PieceSize, "romeo@montague.example")
	id, err := s.upload(ctx, m.Content)
	if err != nil {
		t.Fatal(err)
	}
	pieces := func() int { return count(t, name, `SELECT count(*) FROM content`) }
	if _, err := s.Maintain(ctx, store.Retention{Acceptances: time.Hour, Transfers: time.Hour, Traces: time.Hour}); err != nil || pieces() != 2 {
		t.Errorf("content on its way: %d pieces left, %v", pieces(), err)
	}
	waitFor(t, "the pieces to be removed", func() bool {
		_, err := s.Maintain(ctx, store.Retention{Acceptances: time.Hour, Transfers: time.Millisecond, Traces: time.Hour})
		return err == nil && pieces() == 0
	})
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if err := claimUpload(ctx, tx, id); err == nil {
		t.Error("removed pieces were taken for a message's content")
	}
}

// TestNothingIsLeft: content of every way in is gone after the last
// settlement, duplicates of it included.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	name := newSchema()
	s := node(t, name, "a")
	settle := func(leases []store.Lease, err error) {
		t.Helper()
		if err != nil || len(leases) != 1 {
			t.Fatal(leases, err)
		}
		if err := s.Settle(ctx, results(leases[0], store.Result{State: store.Delivered})); err != nil {
			t.Fatal(err)
		}
	}
	for _, size := range []int{0, 100, smallContent + 1, store.PieceSize, 3 * store.PieceSize} {
		m := newMessage(t, size, "romeo@montague.example")
		m.Lease = store.Own{Domains: []string{"montague.example"}, For: time.Hour}
		first, err := s.PutMessage(ctx, m)
		if again, err := s.PutMessage(ctx, m); err != nil || len(again) != 1 || again[0].Deliveries[0] != first[0].Deliveries[0] {
			t.Errorf("%d octets put again: %+v, %v", size, again, err)
		}
		settle(first, err)

		m = newMessage(t, size, "romeo@montague.example")
		m.Lease = store.Own{Domains: []string{"montague.example"}, For: time.Hour}
		k := store.TransferKey{Domain: "capulet.example", Local: "montague.example", ID: string(m.ID)}
		h := store.ContentHash{Size: int64(size)}
		if _, err := s.TransferBegin(ctx, k, h); err != nil { // which the Accept ends
			t.Fatal(err)
		}
		_, leases, err := s.Accept(ctx, k, h, m)
		settle(leases, err)
	}
	for _, table := range []string{"content", "uploads", "transfers"} {
		if n := count(t, name, `SELECT count(*) FROM `+table); n != 0 {
			t.Errorf("%d rows left in %s", n, table)
		}
	}
	if n := count(t, name, `SELECT count(*) FROM messages WHERE body IS NOT NULL OR finished_at IS NULL`); n != 0 {
		t.Errorf("%d messages have their content still", n)
	}
}

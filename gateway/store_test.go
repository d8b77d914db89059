package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

// faulty is the store with failures on order. It keeps what was settled.
type faulty struct {
	*sqlite.Store
	mu      sync.Mutex
	put     error              // of PutMessage and Accept
	later   error              // of PutMessage from the second on
	puts    int                // calls of PutMessage
	back    error              // of ReturnPath
	open    error              // of OpenContent
	begin   error              // of BeginAttempt
	settle  error              // of Settle
	lose    bool               // Renew loses every lease
	alive   chan string        // Revived
	late    bool               // Claim finds the first delivery of a lease expired
	settled int                // calls of Settle
	slow    chan time.Duration // Release takes for ever, and says how long it may
	claims  int                // calls of Claim
}

func (f *faulty) claimed() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claims
}

func (f *faulty) order(set func(*faulty)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	set(f)
}

func (f *faulty) PutMessage(ctx context.Context, m store.NewMessage) ([]store.Lease, error) {
	f.mu.Lock()
	err := f.put
	if f.puts++; err == nil && f.puts > 1 {
		err = f.later
	}
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Store.PutMessage(ctx, m)
}

func (f *faulty) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, m store.NewMessage) ([]mail.ID, []store.Lease, error) {
	f.mu.Lock()
	err := f.put
	f.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	return f.Store.Accept(ctx, k, h, m)
}

func (f *faulty) ReturnPath(ctx context.Context, name string) (mail.Address, error) {
	f.mu.Lock()
	err := f.back
	f.mu.Unlock()
	if err != nil {
		return mail.Address{}, err
	}
	return f.Store.ReturnPath(ctx, name)
}

func (f *faulty) OpenContent(ctx context.Context, id mail.ID) (io.ReadCloser, error) {
	f.mu.Lock()
	err := f.open
	f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return f.Store.OpenContent(ctx, id)
}

func (f *faulty) BeginAttempt(ctx context.Context, l store.Lease, way store.Way) (store.Lease, error) {
	f.mu.Lock()
	err := f.begin
	f.mu.Unlock()
	if err != nil {
		return l, err
	}
	return f.Store.BeginAttempt(ctx, l, way)
}

// Release stops half-way, where that is ordered, until its caller gives up.
func (f *faulty) Release(ctx context.Context, destination string) (int, error) {
	f.mu.Lock()
	slow := f.slow
	f.mu.Unlock()
	if slow == nil {
		return f.Store.Release(ctx, destination)
	}
	until, _ := ctx.Deadline()
	slow <- time.Until(until)
	<-ctx.Done()
	return 7, ctx.Err()
}

func (f *faulty) Revived() <-chan string { return f.alive }

func (f *faulty) Claim(ctx context.Context, n int, lease time.Duration, busy []string, perDest int) ([]store.Lease, error) {
	leases, err := f.Store.Claim(ctx, n, lease, busy, perDest)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.claims++
	for i := range leases {
		if f.late && len(leases[i].Deliveries) > 1 {
			leases[i].Deliveries[0].Expired = true
		}
	}
	return leases, err
}

func (f *faulty) Settle(ctx context.Context, s store.Settlement) error {
	f.mu.Lock()
	f.settled++
	err := f.settle
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return f.Store.Settle(ctx, s)
}

func (f *faulty) Renew(ctx context.Context, leases []store.Lease, lease time.Duration) ([]store.Lease, error) {
	f.mu.Lock()
	lose := f.lose
	f.mu.Unlock()
	if lose {
		return leases, nil
	}
	return f.Store.Renew(ctx, leases, lease)
}

// TestStoreFails: what could not be stored is not answered for, by SMTP, after
// cut-through or to a peer, and leaves no slot behind.
func TestStoreFails(t *testing.T) {
	w := newWorld(t, nil)
	w.faulty.order(func(f *faulty) { f.put = store.ErrFull })
	refused := func(what string, f *mail.Failure) {
		if f == nil || f.Kind != mail.ResourceShort {
			t.Errorf("%s: %v, want %s", what, f, mail.ResourceShort)
		}
	}
	for range 3 * w.Concurrency {
		refused("spool", w.send(w.message(sample, "a@far.example", "juliet@home.example"), false)[0].Failure)
	}
	w.peer.set(func(n *next) {
		n.live = true
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{{}, refuse(mail.NoSuchMailbox)} }
	})
	refused("mixed", w.send(w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example"), false)[0].Failure)
	w.peer.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{{}, refuse(mail.Doubtful)} }
	})
	refused("in doubt", w.send(w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example"), false)[0].Failure)
	each := w.send(w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example"), true)
	if each[0].Failure != nil {
		t.Errorf("lmtp: what the peer took is refused: %v", each[0].Failure)
	}
	refused("lmtp", each[1].Failure)

	m := w.message(sample, "tybalt@peer.example", "juliet@home.example")
	ids, failures := w.Gateway.Accept(t.Context(), store.TransferKey{Domain: "peer.example", Local: "home.example", ID: "x"},
		store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, mail.Binding{Local: "home.example", Remote: "peer.example"}, m)
	refused("peer", failures[0])
	if ids[0] != "" {
		t.Errorf("a peer got id %s", ids[0])
	}

	w.faulty.order(func(f *faulty) { f.put = nil })
	w.send(w.message(sample, "a@far.example", "juliet@home.example"), false)
	w.waitState("juliet@home.example", store.Delivered)
}

// TestLeaseLostAtSettle: somebody else has the delivery: nothing is settled,
// no DSN goes out, and the store is not asked twice.
func TestLeaseLostAtSettle(t *testing.T) {
	w := newWorld(t, nil)
	w.faulty.order(func(f *faulty) { f.settle = store.ErrLeaseLost })
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	until(t, "the end of the attempt", func() bool {
		w.sched.mu.Lock()
		defer w.sched.mu.Unlock()
		return w.legacy.tried() == 1 && w.sched.slots == 0
	})
	if w.faulty.order(func(f *faulty) {
		if f.settled != 1 {
			t.Errorf("settled %d times", f.settled)
		}
	}); len(w.states()) != 1 {
		t.Errorf("a dsn is in the store: %v", w.states())
	}
}

// TestSettleRetried: a store that does not answer once is asked again, and the
// next hop is not.
func TestSettleRetried(t *testing.T) {
	w := newWorld(t, nil)
	w.faulty.order(func(f *faulty) { f.settle = errors.New("no connection") })
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	until(t, "a try to settle", func() (tried bool) {
		w.faulty.order(func(f *faulty) { tried = f.settled > 0; f.settle = nil })
		return tried
	})
	w.waitState("x@far.example", store.Delivered)
	if n := w.legacy.tried(); n != 1 {
		t.Errorf("%d attempts", n)
	}
}

// TestAttemptNotBegun: without its record no attempt is made.
func TestAttemptNotBegun(t *testing.T) {
	w := newWorld(t, nil)
	w.faulty.order(func(f *faulty) { f.begin = errors.New("no connection") })
	m := w.message(sample, "romeo@home.example", "x@far.example")
	m.ID = mail.NewID()
	if _, err := w.store.PutMessage(t.Context(), store.NewMessage{Message: *m, Lifetime: time.Hour}); err != nil { // without a lease
		t.Fatal(err)
	}
	until(t, "a claim", func() bool { return w.states()["x@far.example"] == store.Leased })
	until(t, "its end", func() bool { w.sched.mu.Lock(); defer w.sched.mu.Unlock(); return w.sched.slots == 0 })
	if n := w.legacy.tried(); n != 0 {
		t.Errorf("%d attempts without a record", n)
	}
}

// TestLeaseLostWhileTrying: an attempt that could not be settled any more is cut
// short, and only that one.
func TestLeaseLostWhileTrying(t *testing.T) {
	w := newWorld(t, nil)
	running, cut := make(chan struct{}), make(chan struct{})
	w.legacy.set(func(n *next) {
		n.during = func(ctx context.Context) { close(running); <-ctx.Done(); close(cut) }
	})
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	<-running
	w.sched.renew(t.Context())
	select {
	case <-cut:
		t.Fatal("an attempt was cut short that had its lease")
	default:
	}
	w.faulty.order(func(f *faulty) { f.lose = true })
	w.sched.renew(t.Context())
	<-cut
}

// TestLeasePartlyExpired: where some deliveries of a lease have expired, which
// ends them at once, the attempt of the others keeps its lease.
func TestLeasePartlyExpired(t *testing.T) {
	w := newWorld(t, nil)
	w.faulty.order(func(f *faulty) { f.late = true })
	running, on := make(chan context.Context, 1), make(chan struct{})
	w.legacy.set(func(n *next) {
		n.during = func(ctx context.Context) { running <- ctx; <-on }
	})
	m := w.message(sample, "romeo@home.example", "x@far.example", "y@far.example")
	m.ID = mail.NewID()
	if _, err := w.store.PutMessage(t.Context(), store.NewMessage{Message: *m, Lifetime: time.Hour}); err != nil { // without a lease
		t.Fatal(err)
	}
	ctx := <-running
	w.sched.renew(t.Context())
	if ctx.Err() != nil {
		t.Error("the attempt was cut short although it has its lease")
	}
	close(on)
	w.waitState("y@far.example", store.Delivered)
	w.waitState("x@far.example", store.ExpiredSt)
}

// TestFailNotStored: an operator hears that deliveries could not be ended.
func TestFailNotStored(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst, c.RetryMax = time.Hour, time.Hour })
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Unreachable)} }
	})
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	w.waitState("x@far.example", store.Deferred)
	list, err := w.store.List(t.Context(), store.Filter{})
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	w.faulty.order(func(f *faulty) { f.settle = store.ErrFull })
	if n, err := w.Fail(t.Context(), list[0].ID, -1, "op", ""); n != 0 || err == nil {
		t.Errorf("failed %d, %v", n, err)
	}
}

// TestRevivedElsewhere: what another node has released is tried at once, however
// dead its destination is here.
func TestRevivedElsewhere(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst, c.RetryMax = time.Hour, time.Hour })
	for domain, heard := range map[string]string{"far.example": "far.example", "other.example": ""} {
		w.sched.mu.Lock()
		d := w.sched.dest(domain)
		d.outages, d.deadUntil = 1, time.Now().Add(time.Hour)
		w.sched.mu.Unlock()
		tried := w.legacy.tried()
		w.send(w.message(sample, "romeo@home.example", "x@"+domain), false)
		if w.legacy.tried() != tried {
			t.Fatal("an attempt at a dead destination")
		}
		w.faulty.alive <- heard // as the store says it, before
		if n, err := w.store.Release(t.Context(), domain); n != 1 || err != nil {
			t.Fatal(n, err)
		}
		w.waitState("x@"+domain, store.Delivered)
	}
}

// TestReleaseToTheEnd: a long release goes on for as long as it needs while the
// gateway runs, does not keep it from ending, and tells how far it came.
func TestReleaseToTheEnd(t *testing.T) {
	var log safeBuffer
	w := newWorld(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	slow := make(chan time.Duration, 1)
	w.faulty.order(func(f *faulty) { f.slow = slow })
	until(t, "the scheduler", func() bool {
		w.sched.mu.Lock()
		defer w.sched.mu.Unlock()
		return w.sched.base != nil
	})
	w.sched.releaseBeside("peer.example", peerBack)
	if may := <-slow; may < releaseLimit-time.Minute {
		t.Errorf("a release may take %s only", may)
	}
	w.stop(time.Minute)
	if said := log.String(); !strings.Contains(said, "deliveries=7") || !strings.Contains(said, "not all released") {
		t.Errorf("not told: %s", said)
	}
	w.sched.releaseBeside("peer.example", peerBack) // nobody would deliver it
}

// safeBuffer is a log to be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

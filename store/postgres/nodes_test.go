package postgres

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"mailxmppd/store"
)

// waitFor polls until the condition holds.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func woken(t *testing.T, s *Store, what string) {
	t.Helper()
	select {
	case <-s.Wake():
	case <-time.After(20 * time.Second):
		t.Fatalf("no wake: %s", what)
	}
}

func results(l store.Lease, r store.Result) store.Settlement {
	set := store.Settlement{Lease: l}
	for range l.Deliveries {
		set.Results = append(set.Results, r)
	}
	return set
}

// TestTwoNodesFight: two nodes claim and settle from one schema at once. Every
// delivery is delivered once, and no group is ever torn between them.
func TestTwoNodesFight(t *testing.T) {
	t.Parallel()
	const messages = 200
	ctx := t.Context()
	name := newSchema()
	nodes := []*Store{node(t, name, "a"), node(t, name, "b")}
	var put sync.WaitGroup
	for i := range messages {
		put.Go(func() {
			m := newMessage(t, 100, "a@one.example", "b@two.example", "c@one.example", "d@one.example")
			if _, err := nodes[i%2].PutMessage(ctx, m); err != nil {
				t.Error(err)
			}
		})
	}
	put.Wait()

	var mu sync.Mutex
	seen := map[string]int{}
	share := make([]int, len(nodes))
	var claim sync.WaitGroup
	for worker := range 6 {
		s := nodes[worker%2]
		claim.Go(func() {
			for {
				leases, err := s.Claim(ctx, 3, time.Minute, nil, 0)
				if err != nil {
					t.Error(err)
					return
				}
				if len(leases) == 0 {
					// Another claim may hold rows that this one skipped.
					if count(t, name, `SELECT count(*) FROM deliveries WHERE state = 'due'`) == 0 {
						return
					}
					continue
				}
				for _, l := range leases {
					want := map[string]int{"one.example": 3, "two.example": 1}[l.Domain]
					if len(l.Deliveries) != want {
						t.Errorf("group of %d deliveries to %s", len(l.Deliveries), l.Domain)
					}
					mu.Lock()
					share[worker%2]++
					for _, d := range l.Deliveries {
						seen[fmt.Sprintf("%s.%d", l.ID, d.N)]++
					}
					mu.Unlock()
					l, err := s.BeginAttempt(ctx, l, store.WayXMPP)
					if err != nil {
						t.Error(err)
					}
					if err := s.Settle(ctx, results(l, store.Result{State: store.Delivered})); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	claim.Wait()
	if len(seen) != 4*messages {
		t.Errorf("%d deliveries claimed, want %d", len(seen), 4*messages)
	}
	for d, n := range seen {
		if n != 1 {
			t.Errorf("%s claimed %d times", d, n)
		}
	}
	if share[0] == 0 || share[1] == 0 {
		t.Errorf("one node got nothing: %v", share)
	}
	if n := count(t, name, `SELECT count(*) FROM messages WHERE finished_at IS NULL OR body IS NOT NULL OR open <> 0`); n != 0 {
		t.Errorf("%d messages are not finished", n)
	}
}

// TestTakeOver: a lease that ran out goes to the other node, and the first
// one's settlement, DSN and renewal come to nothing.
func TestTakeOver(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	name := newSchema()
	a, b := node(t, name, "a"), node(t, name, "b")
	m := newMessage(t, 100, "romeo@montague.example")
	m.Lease = store.Own{Domains: []string{"montague.example"}, For: 50 * time.Millisecond}
	leases, err := a.PutMessage(ctx, m)
	if err != nil || len(leases) != 1 {
		t.Fatal(leases, err)
	}
	var taken []store.Lease
	waitFor(t, "the lease to run out", func() bool {
		taken, err = b.Claim(ctx, 1, time.Minute, nil, 0)
		return err == nil && len(taken) == 1
	})
	d := taken[0].Deliveries[0]
	if d.Token != 2 || d.Attempt != 1 || !d.InDoubt {
		t.Errorf("taken over: %+v", d)
	}
	stale := results(leases[0], store.Result{State: store.Bounced})
	stale.DSNs = []store.NewMessage{newMessage(t, 10, "juliet@capulet.example")}
	if err := a.Settle(ctx, stale); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("stale settlement: %v", err)
	}
	if lost, err := a.Renew(ctx, leases, time.Minute); err != nil || len(lost) != 1 {
		t.Errorf("stale renewal: %v, %v", lost, err)
	}
	if again, err := a.PutMessage(ctx, m); err != nil || len(again) != 0 {
		t.Errorf("repetition after the take-over: %v, %v", again, err)
	}
	if n := count(t, name, `SELECT count(*) FROM messages`); n != 1 {
		t.Errorf("%d messages, want 1: the DSN of a lost lease must not be queued", n)
	}
	if err := b.Settle(ctx, results(taken[0], store.Result{State: store.Delivered})); err != nil {
		t.Error(err)
	}
}

// TestWakeOther: what one node makes due wakes the other.
func TestWakeOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	name := newSchema()
	a, b := node(t, name, "a"), node(t, name, "b")
	m := newMessage(t, 100, "romeo@montague.example")
	if _, err := a.PutMessage(ctx, m); err != nil {
		t.Fatal(err)
	}
	woken(t, b, "message put")
	leases, err := b.Claim(ctx, 1, time.Minute, nil, 0)
	if err != nil || len(leases) != 1 {
		t.Fatal(leases, err)
	}
	if err := b.Settle(ctx, results(leases[0], store.Result{State: store.Deferred, Delay: time.Hour})); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		what    string
		do      func() (int, error)
		revived string
	}{
		{"domain released", func() (int, error) { return a.Release(ctx, "montague.example") }, "montague.example"},
		{"message retried", func() (int, error) { return a.Retry(ctx, store.One(m.ID, -1, "me")) }, ""},
	} {
		if n, err := step.do(); err != nil || n != 1 {
			t.Fatalf("%s: %d, %v", step.what, n, err)
		}
		woken(t, b, step.what)
		select { // it came first
		case got := <-b.Revived():
			if got != step.revived {
				t.Errorf("%s: revived %q, want %q", step.what, got, step.revived)
			}
		default:
			t.Errorf("%s: nothing revived", step.what)
		}
	}
	select {
	case got := <-a.Revived():
		t.Errorf("a node heard of its own doing: %q", got)
	default:
	}
}

// TestRestartUnderName: a node that comes back under its name frees its own
// leases, and only those; a crash loop makes them wait.
func TestRestartUnderName(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	name := newSchema()
	other := node(t, name, "other")
	m := newMessage(t, 100, "romeo@montague.example")
	m.Lease = store.Own{Domains: []string{"montague.example"}, For: time.Hour}
	foreign := newMessage(t, 100, "nurse@capulet.example")
	foreign.Lease = store.Own{Domains: []string{"capulet.example"}, For: time.Hour}
	if _, err := other.PutMessage(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	s := node(t, name, "loop")
	if _, err := s.PutMessage(ctx, m); err != nil {
		t.Fatal(err)
	}
	for crash, want := range []time.Duration{0, 4 * time.Second, 8 * time.Second} {
		s.Close()
		s = node(t, name, "loop")
		wait, ok, err := s.NextDue(ctx, nil)
		if err != nil || !ok || wait > want || wait < want-2*time.Second {
			t.Fatalf("crash %d: due in %v (%v, %v), want %v", crash+1, wait, ok, err, want)
		}
		exec(t, name, `UPDATE deliveries SET due_at = now() WHERE state = 'deferred'`)
		leases, err := s.Claim(ctx, 9, time.Hour, nil, 0)
		if err != nil || len(leases) != 1 || leases[0].ID != m.ID || !leases[0].Deliveries[0].InDoubt {
			t.Fatalf("crash %d: %+v, %v", crash+1, leases, err)
		}
		if _, err := s.BeginAttempt(ctx, leases[0], store.WayXMPP); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Show(ctx, m.ID)
	if err != nil || len(r.Attempts) != 4 {
		t.Fatalf("%d attempts, %v", len(r.Attempts), err)
	}
	for i, try := range r.Attempts {
		if try.Number != i+1 || !try.Ended.IsZero() || try.Began.IsZero() {
			t.Errorf("attempt %d: %+v", i+1, try)
		}
	}
}

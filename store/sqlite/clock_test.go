package sqlite

import (
	"path/filepath"
	"testing"
	"time"

	"mailxmppd/store"
)

// TestSteadyClock: setting the system's clock does not move the store's.
func TestSteadyClock(t *testing.T) {
	wall, up := time.UnixMilli(1_800_000_000_000), time.Minute
	clock := steadyClock(func() time.Time { return wall }, func() time.Duration { return up })
	start := clock()
	if !start.Equal(wall) {
		t.Errorf("begins at %v, want %v", start, wall)
	}
	for _, step := range []time.Duration{time.Hour, -48 * time.Hour, 0} {
		wall = wall.Add(step)
		up += time.Second
		if got := clock().Sub(start); got != up-time.Minute {
			t.Errorf("after a step of %v: %v have passed, want %v", step, got, up-time.Minute)
		}
	}
	if a, b := elapsed(), elapsed(); a <= 0 || b < a {
		t.Errorf("the system's own count goes from %v to %v", a, b)
	}
}

// TestClockBehind: a store that is opened with a clock behind its past goes on
// from there, so that nothing waits longer than it was told to.
func TestClockBehind(t *testing.T) {
	o := &opener{dir: t.TempDir()}
	now := time.UnixMilli(1_800_000_000_000)
	open := func() *Store {
		s, err := Open(t.Context(), Config{Path: filepath.Join(o.dir, "mail.db"), Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	m := newMessage(10, "montague.example")
	m.Lifetime = 30 * 24 * time.Hour
	put(t, s, m)
	now = now.Add(3 * 24 * time.Hour) // no new mail since
	leases, err := s.Claim(t.Context(), 1, time.Hour, nil, 0)
	if err != nil || len(leases) != 1 {
		t.Fatal(leases, err)
	}
	l, err := s.BeginAttempt(t.Context(), leases[0], store.WaySMTP)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(t.Context(), store.Settlement{Lease: l, Results: []store.Result{{State: store.Deferred, Delay: time.Hour}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	now = now.Add(-10 * 365 * 24 * time.Hour)
	s = open()
	defer s.Close()
	if wait, ok, err := s.NextDue(t.Context(), nil); err != nil || !ok || wait > time.Hour || wait < 59*time.Minute {
		t.Errorf("due in %v, %v, %v; want an hour", wait, ok, err)
	}
	now = now.Add(time.Hour)
	if leases, err := s.Claim(t.Context(), 1, time.Hour, nil, 0); err != nil || len(leases) != 1 {
		t.Errorf("%d leases an hour later, %v", len(leases), err)
	}
}

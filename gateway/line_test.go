package gateway

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// lined is a scheduler with a destination of two places that takes mail fast.
func lined(t *testing.T, change func(*dest)) (*scheduler, *dest) {
	s := newScheduler(&Gateway{Config: Config{Concurrency: 64, PerDomain: 2, RetryFirst: time.Minute}})
	s.base = t.Context()
	d := s.dest("far.example")
	d.pace = lineFor
	if change != nil {
		change(d)
	}
	return s, d
}

func (s *scheduler) reserveOne(ctx context.Context) (reservation, bool) {
	res := s.reserve(ctx, "home.example", map[string]bool{"far.example": true})
	return res, len(res.own.Domains) == 1
}

// TestRoomInLine: a destination that moves has room for as many in line as it has
// places, others have none.
func TestRoomInLine(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*dest)
		want   int
	}{
		{"it moves", nil, 4},
		{"it is slow", func(d *dest) { d.pace = lineFor + 1 }, 2},
		{"nothing has been tried", func(d *dest) { d.pace = 0 }, 2},
		{"it was dead", func(d *dest) { d.outages = 1 }, 2},
		{"older mail waits in the store", func(d *dest) { d.behind = true }, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, _ := lined(t, c.change)
				got := 0
				for {
					if _, ok := s.reserveOne(t.Context()); !ok {
						break
					}
					got++
				}
				if got != c.want {
					t.Errorf("room for %d, want %d", got, c.want)
				}
			})
		})
	}
}

// TestSlowedDown: who brings more than leaves waits for room, first come first
// served, but no longer than flowDelay, and not at all once mail waits in the
// store.
func TestSlowedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := lined(t, nil)
		var held []reservation
		for range 4 {
			res, _ := s.reserveOne(t.Context())
			held = append(held, res)
		}
		start := time.Now()
		got := make(chan int, 3)
		for i := range 2 {
			go func() {
				if _, ok := s.reserveOne(t.Context()); ok {
					got <- i
				} else {
					got <- -1
				}
			}()
			synctest.Wait()
		}
		if len(got) != 0 {
			t.Fatal("room where there is none")
		}
		for i := range 2 {
			time.Sleep(flowDelay / 4)
			s.giveBack(held[i])
			if synctest.Wait(); len(got) != 1 {
				t.Fatalf("%d of those who waited got the room of one", len(got))
			}
			if n := <-got; n != i {
				t.Errorf("%d got room before %d", n, i)
			}
		}
		if waited := time.Since(start); waited != flowDelay/2 {
			t.Errorf("the last got room after %s", waited)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start = time.Now()
		if _, ok := s.reserveOne(ctx); ok || time.Since(start) != 0 {
			t.Errorf("who has gone waited for %s", time.Since(start))
		}
		d.behind = false
		if _, ok := s.reserveOne(t.Context()); ok || time.Since(start) != flowDelay || !d.behind {
			t.Errorf("room %v after %s, behind %v", ok, time.Since(start), d.behind)
		}
		start = time.Now()
		if _, ok := s.reserveOne(t.Context()); ok || time.Since(start) != 0 {
			t.Errorf("waited for %s although the store has to take it", time.Since(start))
		}
		if len(d.outside) != 0 {
			t.Errorf("%d still wait", len(d.outside))
		}
	})
}

// TestNoRoomAtTheStop: who waits for room while the program stops gets none: the
// attempts that are waited for at the stop would be one more.
func TestNoRoomAtTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := lined(t, nil)
		var held []reservation
		for range 4 {
			res, _ := s.reserveOne(t.Context())
			held = append(held, res)
		}
		got := make(chan bool, 1)
		go func() {
			_, ok := s.reserveOne(t.Context())
			got <- ok
		}()
		synctest.Wait()
		s.mu.Lock()
		s.stopping = true
		s.mu.Unlock()
		for _, res := range held {
			s.giveBack(res)
		}
		s.wg.Wait()
		if <-got {
			t.Error("an attempt would begin after the last has ended")
		}
	})
}

// TestLine: attempts get their places as others leave, in the order in which they
// came; whoever stands in line when the destination dies is not tried.
func TestLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := lined(t, nil)
		type arrival struct {
			n   int
			off *putOff
		}
		arrived := make(chan arrival, 8)
		gone, cancel := context.WithCancel(t.Context())
		var hs []*held
		for i := range 6 {
			d.runs++
			h := &held{site: "far.example", lease: store.Lease{Domain: "far.example"}}
			hs = append(hs, h)
			ctx := t.Context()
			if i == 3 {
				ctx = gone
			}
			go func() { arrived <- arrival{i, s.arrive(ctx, h, "far.example")} }()
			synctest.Wait()
		}
		expect := func(what string, n int, off bool) {
			t.Helper()
			synctest.Wait()
			select {
			case a := <-arrived:
				if a.n != n || (a.off != nil) != off {
					t.Errorf("%s: attempt %d, put off %v; want %d, %v", what, a.n, a.off, n, off)
				}
			default:
				t.Errorf("%s: nobody came", what)
			}
		}
		expect("a free place", 0, false)
		expect("a free place", 1, false)
		if len(arrived) != 0 || d.working != 2 {
			t.Fatalf("%d at work at a destination of 2 places", d.working)
		}
		s.leave(hs[0])
		expect("its turn", 2, false)
		cancel()
		expect("cut short", 3, true)
		s.mu.Lock()
		d.pause(time.Now(), time.Hour, s.g.Config)
		s.mu.Unlock()
		s.leave(hs[1])
		if synctest.Wait(); len(arrived) != 0 {
			t.Error("more at work than a dead destination gets")
		}
		s.leave(hs[2])
		expect("after its death", 4, true)
		expect("after its death", 5, true)
		s.mu.Lock()
		s.depart(hs[3]) // by its end
		s.mu.Unlock()
		if !d.idle() || d.working != 0 || len(d.line) != 0 {
			t.Errorf("%d under way, %d at work, %d in line", d.runs, d.working, len(d.line))
		}
	})
}

// TestStoreIsLeftAlone: mail that is tried at once, and ends well, has the store
// asked for nothing that waits.
func TestStoreIsLeftAlone(t *testing.T) {
	w := newWorld(t, nil)
	until(t, "the first look", func() bool { return w.faulty.claimed() > 0 })
	before := w.faulty.claimed()
	for range 10 {
		n := len(w.legacy.deliveries())
		w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
		until(t, "its delivery", func() bool { return len(w.legacy.deliveries()) == n+1 })
	}
	w.waitState("x@far.example", store.Delivered)
	if n := w.faulty.claimed() - before; n != 0 {
		t.Errorf("%d claims", n)
	}
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Unreachable)} }
	})
	w.send(w.message(sample, "romeo@home.example", "y@far.example"), false)
	until(t, "a look once something waits", func() bool { return w.faulty.claimed() > before })
}

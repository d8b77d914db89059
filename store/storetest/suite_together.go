package storetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func togetherTests() []test {
	return []test{
		{"duplicates of an acceptance at once make one delivery", testDuplicates},
		{"two claims never share", testClaimers},
		{"putting one message many times at once makes one", testPutTogether},
		{"a call that is cancelled is done whole or not at all", testCancelledMidway},
		{"everything at once", testEverything},
	}
}

func testDuplicates(b *fixture) {
	for size, callers := range map[int]int{2000: 16, store.PieceSize + 1: 6} {
		k := key(fmt.Sprint("t", size))
		p := octets(size)
		ids := make([]mail.ID, callers)
		var g errgroup.Group
		for i := range callers {
			m := b.messageOf(p, "romeo@montague.example")
			g.Go(func() error {
				got, _, err := b.s.Accept(b.ctx, k, hashOf(p), m)
				if err == nil {
					ids[i] = got[0]
				}
				return err
			})
		}
		b.ok(g.Wait())
		for _, id := range ids {
			equal(b, "accepted under", id, ids[0])
		}
		l := b.claimOne()
		equal(b, "claimed", l.ID, ids[0])
		b.sameContent(b.content(l.ID), p)
		b.settle(b.begin(l), delivered())
	}
}

func testClaimers(b *fixture) {
	const messages, claimers = 120, 8
	var g errgroup.Group
	g.SetLimit(16)
	for i := range messages {
		m := b.message("a@montague.example", fmt.Sprintf("b@d%d.example", i%7))
		g.Go(func() error { _, err := b.s.PutMessage(b.ctx, m); return err })
	}
	b.ok(g.Wait())
	var mu sync.Mutex
	seen := map[string]bool{}
	for range claimers {
		g.Go(func() error {
			for {
				leases, err := b.s.Claim(b.ctx, 5, long, nil, 0)
				if err != nil || len(leases) == 0 {
					return err
				}
				mu.Lock()
				for _, l := range leases {
					for _, d := range l.Deliveries {
						name := fmt.Sprintf("%s.%d", l.ID, d.N)
						if seen[name] {
							err = fmt.Errorf("%s was claimed twice", name)
						}
						seen[name] = true
					}
				}
				mu.Unlock()
				if err != nil {
					return err
				}
			}
		})
	}
	b.ok(g.Wait())
	// A claimer may find nothing while others hold all: what is left is due.
	for _, l := range b.claim(2 * messages) {
		for _, d := range l.Deliveries {
			seen[fmt.Sprintf("%s.%d", l.ID, d.N)] = true
		}
	}
	equal(b, "deliveries claimed", len(seen), 2*messages)
}

func testPutTogether(b *fixture) {
	m := b.messageOf(octets(2*store.PieceSize), "a@montague.example")
	var g errgroup.Group
	for range 8 {
		g.Go(func() error { _, err := b.s.PutMessage(b.ctx, m); return err })
	}
	b.ok(g.Wait())
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	b.settle(b.begin(b.claimOne()), delivered())
	equal(b, "deliveries", len(b.list(store.Filter{Closed: true})), 1)
}

func testCancelledMidway(b *fixture) {
	rng := rand.New(rand.NewPCG(1, 2))
	var busy errgroup.Group // company, so that calls wait
	stop := make(chan struct{})
	for range 4 {
		busy.Go(func() error {
			for {
				select {
				case <-stop:
					return nil
				default:
				}
				id := mail.NewID()
				if _, err := b.s.PutMessage(b.ctx, newMessage(b.T, id, octets(10), "z@verona.example")); err != nil {
					return err
				}
			}
		})
	}
	whole, none := 0, 0
	for i := range 60 {
		size := 100
		if i%4 == 0 {
			size = 2*store.PieceSize + 1
		}
		m := b.messageOf(octets(size), "a@montague.example", "b@capulet.example")
		ctx, cancel := context.WithTimeout(b.ctx, time.Duration(rng.IntN(3000))*time.Microsecond)
		_, err := b.s.PutMessage(ctx, m)
		cancel()
		r, shown := b.s.Show(b.ctx, m.ID)
		switch {
		case errors.Is(shown, store.ErrNotFound) && err != nil:
			none++
		case shown == nil && len(r.Deliveries) == 2:
			b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
			whole++
		default:
			b.Fatalf("put said %v, show says %v and has %d deliveries", err, shown, len(r.Deliveries))
		}
	}
	close(stop)
	b.ok(busy.Wait())
	b.Logf("%d whole, %d not at all", whole, none)
}

// testEverything has senders, workers and an operator at once; in the end
// every delivery has been settled as often as it was put: once.
func testEverything(b *fixture) {
	const senders, each = 6, 25
	var mu sync.Mutex
	ended := map[string]int{}
	settle := func(l store.Lease, rng *rand.Rand) error {
		r, err := b.s.OpenContent(b.ctx, l.ID)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
		r.Close()
		res := delivered()
		if rng.IntN(4) == 0 {
			res = deferred(time.Duration(rng.IntN(5))*time.Millisecond, "later")
		}
		if err := b.s.Settle(b.ctx, settlement(l, res)); err != nil {
			return err
		}
		if res.State == store.Delivered {
			mu.Lock()
			for _, d := range l.Deliveries {
				ended[fmt.Sprintf("%s.%d", l.ID, d.N)]++
			}
			mu.Unlock()
		}
		return nil
	}
	var g errgroup.Group
	done := make(chan struct{})
	for i := range senders {
		rng := rand.New(rand.NewPCG(3, uint64(i)))
		var ms []store.NewMessage
		for range each {
			ms = append(ms, b.messageOf(octets(rng.IntN(20_000)), "a@montague.example", "b@montague.example", "c@capulet.example"))
		}
		g.Go(func() error {
			for n, m := range ms {
				var leases []store.Lease
				var err error
				m.Lease = store.Own{Domains: []string{"capulet.example"}, For: long}
				if n%2 == 0 {
					leases, err = b.s.PutMessage(b.ctx, m)
				} else {
					_, leases, err = b.s.Accept(b.ctx, key(string(m.ID)), hashOf(m.Content.(mail.Bytes)), m)
				}
				for _, l := range leases {
					err = errors.Join(err, settle(l, rng))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	for i := range 4 {
		rng := rand.New(rand.NewPCG(4, uint64(i)))
		g.Go(func() error {
			for {
				leases, err := b.s.Claim(b.ctx, 4, long, nil, 0)
				if err != nil {
					return err
				}
				for _, l := range leases {
					l, err := b.s.BeginAttempt(b.ctx, l, store.WayXMPP)
					if err != nil {
						return err
					}
					if err := settle(l, rng); err != nil {
						return err
					}
				}
				mu.Lock()
				all := len(ended) == senders*each*3
				mu.Unlock()
				if all {
					return nil
				}
				select {
				case <-b.s.Wake():
				case <-time.After(2 * time.Millisecond):
				case <-b.ctx.Done():
					return b.ctx.Err()
				}
			}
		})
	}
	var operator errgroup.Group
	operator.Go(func() error {
		for {
			_, err := b.s.List(b.ctx, store.Filter{Closed: true, Limit: 50})
			_, err2 := b.s.Release(b.ctx, "montague.example")
			_, err3 := b.s.Maintain(b.ctx, keepAll())
			if err := errors.Join(err, err2, err3); err != nil {
				return err
			}
			select {
			case <-done:
				return nil
			case <-time.After(time.Millisecond):
			}
		}
	})
	err := g.Wait()
	close(done)
	b.ok(errors.Join(err, operator.Wait()))
	for name, n := range ended {
		if n != 1 {
			b.Errorf("%s was delivered %d times", name, n)
		}
	}
	equal(b, "open deliveries", len(b.list(store.Filter{})), 0)
}

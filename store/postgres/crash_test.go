package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

// TestServerCrash: messages are put and settled while the server crashes and
// comes back. Each call is repeated until it succeeds; in the end every
// message is there once and delivered, and the nodes wake each other again.
func TestServerCrash(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := storetest.Start("") // its own: the crash is nobody else's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	name := newSchema()
	s, other := nodeOn(t, server, name, "a"), nodeOn(t, server, name, "b")
	again := func(do func() error) error { // the server is away for seconds at most
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if err := do(); err == nil || time.Now().After(deadline) {
				return err
			}
		}
	}
	const workers = 8
	stop := make(chan struct{})
	var done atomic.Int64
	var failures sync.Map
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := life(ctx, s, newMessage(t, 20<<10, "romeo@montague.example"), again, &failures); err != nil {
					t.Error(err)
					return
				}
				done.Add(1)
			}
		})
	}
	busy := func() {
		before := done.Load()
		waitFor(t, "messages to be delivered", func() bool { return done.Load() >= before+3*workers })
	}
	for range 2 {
		busy()
		if err := server.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := server.Run(); err != nil {
			t.Fatal(err)
		}
	}
	busy()
	close(stop)
	wg.Wait()
	total := int(done.Load())
	if n := countOn(t, server, name, `SELECT count(*) FROM messages m JOIN deliveries d ON d.message_id = m.id
		WHERE m.finished_at IS NOT NULL AND m.body IS NULL AND d.state = 'delivered' AND d.attempt = 1`); n != total {
		t.Errorf("%d messages delivered, %d in the store", total, n)
	}
	if n := countOn(t, server, name, `SELECT count(*) FROM messages`); n != total {
		t.Errorf("%d messages acknowledged, %d in the store", total, n)
	}
	crashed := false
	failures.Range(func(any, any) bool { crashed = true; return false })
	if !crashed {
		t.Error("no call failed: the server's crash went unnoticed")
	}
	waitFor(t, "a wake after the reconnection", func() bool {
		if _, err := s.PutMessage(ctx, newMessage(t, 1, "romeo@montague.example")); err != nil {
			return false
		}
		select {
		case <-other.Wake():
			return true
		default:
			return false
		}
	})
}

// life takes one message through its life, repeating what fails. A settlement
// whose answer was lost is repeated into ErrLeaseLost.
func life(ctx context.Context, s *Store, m store.NewMessage, again func(func() error) error, failures *sync.Map) error {
	m.Lease = store.Own{Domains: []string{"montague.example"}, For: time.Hour}
	var leases []store.Lease
	note := func(err error) error {
		if err != nil {
			failures.Store(mail.NewID(), err)
		}
		return err
	}
	if err := again(func() (err error) { leases, err = s.PutMessage(ctx, m); return note(err) }); err != nil {
		return err
	}
	if len(leases) != 1 {
		return fmt.Errorf("%d leases", len(leases))
	}
	lost := false
	err := again(func() error {
		err := s.Settle(ctx, results(leases[0], store.Result{State: store.Delivered}))
		if errors.Is(err, store.ErrLeaseLost) && lost {
			return nil
		}
		lost = lost || err != nil
		return note(err)
	})
	return err
}

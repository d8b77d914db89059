package sqlite

import (
	"bytes"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"mailxmppd/store"
)

// together has the ops run in one group, and returns their errors.
func together(t *testing.T, s *Store, ops ...func(*conn) error) []error {
	t.Helper()
	started, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		s.writer.do(context.Background(), plain, 0, func(*conn) error { close(started); <-release; return nil })
	})
	<-started
	errs := make([]error, len(ops))
	for i, run := range ops {
		wg.Go(func() { errs[i] = s.writer.do(context.Background(), plain, 0, run) })
	}
	waitFor(t, func() bool { return len(s.writer.ops) == len(ops) })
	close(release)
	wg.Wait()
	return errs
}

func putPeer(domain string) func(*conn) error {
	return func(c *conn) error {
		_, err := c.exec("INSERT INTO peers (domain, facts, seen) VALUES (?, NULL, 0)", domain)
		return err
	}
}

func TestAFailedCallFailsAlone(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "mail.db"))
	defer s.Close()
	mine := errors.New("mine")
	runs := 0
	errs := together(t, s,
		putPeer("a.example"),
		func(c *conn) error { runs++; return errors.Join(putPeer("b.example")(c), mine) }, // half done
		func(c *conn) error { return mine },                                               // nothing done
		putPeer("c.example"),
		func(c *conn) error {
			runs++
			if err := putPeer("d.example")(c); err != nil {
				return err
			}
			return putPeer("d.example")(c) // refused by the database
		},
	)
	for i, want := range []bool{true, false, false, true, false} {
		if (errs[i] == nil) != want {
			t.Errorf("call %d: %v", i, errs[i])
		}
	}
	if !errors.Is(errs[1], mine) || !errors.Is(errs[2], mine) {
		t.Errorf("errors %v are not the calls' own", errs)
	}
	if runs != 3 { // whichever came first spoilt the group and ran again
		t.Error("the calls were not one group: the test shows nothing")
	}
	for domain, want := range map[string]error{"a.example": nil, "b.example": store.ErrNotFound, "c.example": nil, "d.example": store.ErrNotFound} {
		if _, err := s.Peer(t.Context(), domain); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", domain, err, want)
		}
	}
}

func TestACancelledCallIsNotRun(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "mail.db"))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan error, 1)
	together(t, s, func(*conn) error {
		// The writer is in this group, so what comes now waits for the next.
		go func() { cancelled <- s.writer.do(ctx, plain, 0, putPeer("a.example")) }()
		waitFor(t, func() bool { return len(s.writer.ops) > 0 })
		cancel()
		if err := <-cancelled; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
		return nil
	})
	exec(t, s, "DELETE FROM peers WHERE domain = 'nobody'") // what waited is over now
	if n := count(t, s, "peers"); n != 0 {
		t.Error("a cancelled call was run")
	}
}

func TestAFullDisk(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "mail.db"))
	defer s.Close()
	small := newMessage(10_000, "montague.example")
	put(t, s, small)
	limit := func(pages int) {
		t.Helper()
		err := s.writer.do(t.Context(), plain, 0, func(c *conn) error { return c.pragma(fmt.Sprintf("max_page_count=%d", pages)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	limit(100) // of 8 KiB
	for _, size := range []int{store.PieceSize, 4 * store.PieceSize} {
		m := newMessage(size, "montague.example")
		if _, err := s.PutMessage(t.Context(), m); !errors.Is(err, store.ErrFull) {
			// The first may just fit.
			if size > store.PieceSize || err != nil {
				t.Errorf("%d octets: %v, want ErrFull", size, err)
			}
			continue
		}
		if _, err := s.Show(t.Context(), m.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("half kept: %v", err)
		}
	}
	leases, err := s.Claim(t.Context(), 10, 1<<30, nil, 0)
	if err != nil || len(leases) == 0 {
		t.Fatalf("%d leases, %v", len(leases), err)
	}
	for _, l := range leases {
		err := s.Settle(t.Context(), store.Settlement{Lease: l, Results: []store.Result{{State: store.Delivered}}})
		if err != nil {
			t.Errorf("settling on a full disk: %v", err)
		}
	}
	put(t, s, newMessage(10_000, "montague.example")) // in the room that was freed
	limit(1 << 20)
	put(t, s, newMessage(4*store.PieceSize, "montague.example"))
	if n := count(t, s, "loose"); n != 0 {
		t.Errorf("%d contents were left behind", n)
	}
}

func TestTheLogStaysSmallUnderReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.db")
	s := open(t, path)
	defer s.Close()
	const limit = 1 << 20
	if err := s.writer.do(t.Context(), plain, 0, func(*conn) error { s.maxLog = limit; return nil }); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	// Each reader holds its snapshot until the next one has begun, so that
	// there is no moment without one unless the writer makes it.
	begun := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				err := s.snapshot(context.Background(), func(c *conn) error {
					if _, err := c.first("SELECT count(*) FROM peers"); err != nil {
						return err
					}
					select {
					case begun <- struct{}{}:
					case <-begun:
					case <-time.After(time.Millisecond): // the writer holds the next one up
					}
					return nil
				})
				select {
				case <-stop:
					return
				default:
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	largest := int64(0)
	for i := range 6 * logCheckGroups {
		facts := bytes.Repeat([]byte{byte(i)}, 20_000) // what does not change is not written
		if err := s.PutPeer(t.Context(), store.Peer{Domain: fmt.Sprintf("d%d.example", i%10), Facts: facts}); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, info.Size())
	}
	close(stop)
	wg.Wait()
	// What one stretch of groups writes comes on top.
	if bound := int64(limit + 2*logCheckGroups*5*pageSize); largest > bound {
		t.Errorf("log grew to %d octets, want at most %d", largest, bound)
	}
}

// TestARolledBackTransaction: where SQLite ends a transaction by itself at one
// call's query, nothing of the other calls is kept by halves.
func TestARolledBackTransaction(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "mail.db"))
	defer s.Close()
	mine := errors.New("no room for the query")
	for round := range 5 { // the calls come in any order
		ops := []func(*conn) error{
			func(c *conn) error {
				if _, err := c.db.(driver.ExecerContext).ExecContext(context.Background(), "ROLLBACK", nil); err != nil {
					return err
				}
				return mine
			},
			putPeer(fmt.Sprintf("whole%d.example", round)),
		}
		for i := range 6 {
			domain := fmt.Sprintf("half%d.%d.example", round, i)
			ops = append(ops, func(c *conn) error {
				return errors.Join(putPeer(domain)(c), putPeer(domain)(c)) // the second is refused
			})
		}
		errs := together(t, s, ops...)
		if !errors.Is(errs[0], mine) || errs[1] != nil {
			t.Errorf("errors %v and %v, want the first call's own and none", errs[0], errs[1])
		}
	}
	err := s.read(t.Context(), func(c *conn) error {
		r, err := c.first("SELECT count(*), coalesce(sum(domain LIKE 'half%'), 0) FROM peers")
		if err == nil && (r.int(0) != 5 || r.int(1) != 0) {
			t.Errorf("%d peers are stored, %d of them by failed calls; want 5 and 0", r.int(0), r.int(1))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

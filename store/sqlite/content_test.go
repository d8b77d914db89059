package sqlite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited for 10 s")
		}
	}
}

// noContent checks that no octet of any content is left.
func noContent(t *testing.T, s *Store) {
	t.Helper()
	if pieces, loose := count(t, s, "content"), count(t, s, "loose"); pieces != 0 || loose != 0 {
		t.Errorf("%d pieces of content and %d loose contents are left", pieces, loose)
	}
}

func TestNoContentStaysBehind(t *testing.T) {
	settle := func(t *testing.T, s *Store, m store.NewMessage) {
		m.Lease = store.Own{Domains: []string{"montague.example"}, For: time.Hour}
		l := put(t, s, m)[0]
		if err := s.Settle(t.Context(), store.Settlement{Lease: l, Results: []store.Result{{State: store.Delivered}}}); err != nil {
			t.Fatal(err)
		}
	}
	k := store.TransferKey{Domain: "capulet.example", Local: "montague.example", ID: "t"}
	begin := func(t *testing.T, s *Store, size, have int) store.ContentHash {
		h := store.ContentHash{Size: int64(size)}
		if _, err := s.TransferBegin(t.Context(), k, h); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Append(t.Context(), k, 0, make([]byte, have)); err != nil {
			t.Fatal(err)
		}
		return h
	}
	for name, run := range map[string]func(*testing.T, *Store, int){
		"settled": func(t *testing.T, s *Store, n int) { settle(t, s, newMessage(n, "montague.example")) },
		"dropped": func(t *testing.T, s *Store, n int) {
			m := newMessage(n, "montague.example")
			put(t, s, m)
			if _, err := s.Drop(t.Context(), store.One(m.ID, -1, "me")); err != nil {
				t.Fatal(err)
			}
			// Nobody wants it back.
			keep := store.Retention{Acceptances: time.Hour, Transfers: time.Hour, Traces: time.Hour, Dropped: -time.Second}
			if _, err := s.Maintain(t.Context(), keep); err != nil {
				t.Fatal(err)
			}
		},
		"put twice": func(t *testing.T, s *Store, n int) {
			m := newMessage(n, "montague.example")
			m.Lease = store.Own{Domains: []string{"montague.example"}, For: time.Hour}
			put(t, s, m)
			settle(t, s, m) // by the lease that the second one is told of
		},
		"done at once": func(t *testing.T, s *Store, n int) {
			m := newMessage(n, "montague.example")
			m.First = []store.First{{Done: true}}
			put(t, s, m)
		},
		"shorter than said": func(t *testing.T, s *Store, n int) {
			m := newMessage(n, "montague.example")
			m.Content = liar{m.Content, int64(n) + 1}
			if _, err := s.PutMessage(t.Context(), m); err == nil {
				t.Error("taken")
			}
		},
		"dsn of a lost lease": func(t *testing.T, s *Store, n int) {
			l := store.Lease{ID: mail.NewID()}
			err := s.Settle(t.Context(), store.Settlement{Lease: l, DSNs: []store.NewMessage{newMessage(n, "capulet.example")}})
			if !errors.Is(err, store.ErrLeaseLost) {
				t.Error(err)
			}
		},
		"aborted": func(t *testing.T, s *Store, n int) {
			begin(t, s, n+1, n)
			if err := s.TransferAbort(t.Context(), k); err != nil {
				t.Fatal(err)
			}
		},
		"accepted from memory": func(t *testing.T, s *Store, n int) {
			m := newMessage(n, "montague.example")
			k.ID = fmt.Sprint(n)
			h := store.ContentHash{Size: int64(n)}
			accept := func(m store.NewMessage) {
				t.Helper()
				if _, _, err := s.Accept(t.Context(), k, h, m); err != nil {
					t.Fatal(err)
				}
			}
			accept(m)
			begin(t, s, n, n)
			m.ID = mail.NewID()
			accept(m) // with content
			begin(t, s, n, n)
			m.Content = nil
			accept(m) // with that of the transfer
			leases, err := s.Claim(t.Context(), 10, time.Hour, nil, 0)
			if err != nil || len(leases) != 1 {
				t.Fatalf("%d leases, %v", len(leases), err)
			}
			if err := s.Settle(t.Context(), store.Settlement{Lease: leases[0], Results: []store.Result{{State: store.Delivered}}}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "mail.db"))
			defer s.Close()
			for _, n := range []int{100, store.PieceSize + 1} {
				run(t, s, n)
				noContent(t, s)
			}
		})
	}
}

// liar is content that says another size than it has.
type liar struct {
	mail.Content
	says int64
}

func (l liar) Size() int64 { return l.says }

func TestContentOfADeadProcessIsRemoved(t *testing.T) {
	o := &opener{dir: t.TempDir()}
	s := o.Open(t).(*Store)
	m := newMessage(3*store.PieceSize, "montague.example")
	d, err := s.draft(m)
	if err == nil {
		err = s.stage(t.Context(), d) // and never refer to it
	}
	if err != nil {
		t.Fatal(err)
	}
	none := store.Retention{Acceptances: time.Hour, Transfers: time.Hour, Traces: time.Hour}
	if _, err := s.Maintain(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "content"); n != 3 {
		t.Errorf("%d pieces of content that is being written are left, want 3", n)
	}
	put(t, s, newMessage(10, "montague.example")) // flushes what went before
	o.Kill(t, s)
	s = o.Open(t).(*Store)
	defer s.Close()
	if n := count(t, s, "content"); n != 4 {
		t.Errorf("%d pieces are left, want 4", n)
	}
	if _, err := s.Maintain(t.Context(), none); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, "content"); n != 1 {
		t.Errorf("%d pieces are left, want that of the message", n)
	}
}

func TestAReaderHonoursItsContext(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "mail.db"))
	defer s.Close()
	m := newMessage(3*store.PieceSize, "montague.example")
	put(t, s, m)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := s.OpenContent(ctx, m.ID)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if n, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("read %d octets, then %v", n, err)
	}
	r.Close()
	if _, err := r.Read(make([]byte, 1)); err == nil {
		t.Error("a closed reader reads on")
	}
}

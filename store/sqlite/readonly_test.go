package sqlite

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"mailxmppd/store"
)

// TestReadOnly: while nothing can be written each call says so and does
// nothing, what can be read is read, and once it can be written again it is.
func TestReadOnly(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "mail.db"))
	defer s.Close()
	kept := newMessage(10_000, "montague.example")
	put(t, s, kept)
	set := func(pragma string) {
		t.Helper()
		if err := s.writer.c.pragma(pragma); err != nil { // nobody else is using it
			t.Fatal(err)
		}
	}
	set("query_only=1") // has SQLite answer as on a file that it may not write
	for _, size := range []int{100, 3 * store.PieceSize} {
		m := newMessage(size, "montague.example")
		if _, err := s.PutMessage(t.Context(), m); err == nil || errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "cannot be written to") {
			t.Errorf("%d octets: %v", size, err)
		}
		if _, err := s.Show(t.Context(), m.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("half kept: %v", err)
		}
	}
	if _, err := s.Claim(t.Context(), 10, 1<<30, nil, 0); err == nil || !strings.Contains(err.Error(), "cannot be written to") {
		t.Errorf("claim: %v", err)
	}
	if _, err := s.Show(t.Context(), kept.ID); err != nil {
		t.Errorf("reading: %v", err)
	}
	set("query_only=0")
	put(t, s, newMessage(3*store.PieceSize, "montague.example"))
	if leases, err := s.Claim(t.Context(), 10, 1<<30, nil, 0); err != nil || len(leases) != 2 {
		t.Errorf("%d leases, %v", len(leases), err)
	}
}

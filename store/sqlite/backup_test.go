package sqlite

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestBackup: a backup made while messages come in has every message that was
// acknowledged before it, whole, and becomes a store again.
func TestBackup(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "mail.db"))
	defer s.Close()
	var before []mail.ID
	for _, n := range []int{100, 2*store.PieceSize + 7} {
		m := newMessage(n, "montague.example")
		put(t, s, m)
		before = append(before, m.ID)
	}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := s.PutMessage(t.Context(), newMessage(20_000, "capulet.example")); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	backup := filepath.Join(dir, "backup.db")
	err := s.Backup(t.Context(), backup)
	close(stop)
	writers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(backup); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: mail is nobody else's to read", info.Mode(), err)
	}
	if err := s.Backup(t.Context(), backup); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file that is there: %v", err)
	}

	restored := filepath.Join(dir, "restored.db")
	if err := Restore(t.Context(), backup, restored); err != nil {
		t.Fatal(err)
	}
	r := open(t, restored)
	for i, id := range before {
		c, err := r.OpenContent(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(c)
		c.Close()
		if want := []int{100, 2*store.PieceSize + 7}[i]; err != nil || len(p) != want {
			t.Errorf("%d octets, %v, want %d", len(p), err, want)
		}
	}
	put(t, r, newMessage(1, "montague.example")) // numbers go on
	if err := Restore(t.Context(), backup, restored); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("into an open store: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Restore(t.Context(), backup, restored); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a store: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*.part"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// damage overwrites a page in the middle of a store.
func damage(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	junk := make([]byte, pageSize)
	for i := range junk {
		junk[i] = 0xa5
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(2 * pageSize); at < info.Size(); at += 2 * pageSize {
		if _, err := f.WriteAt(junk, at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamage: what is damaged is neither opened nor restored, and Check says so.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mail.db")
	s := open(t, path)
	for range 50 {
		put(t, s, newMessage(3000, "montague.example"))
	}
	if err := Check(t.Context(), path); err != nil {
		t.Errorf("beside a running store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	damage(t, path)
	for name, err := range map[string]error{
		"check":   Check(t.Context(), path),
		"restore": Restore(t.Context(), path, filepath.Join(dir, "other.db")),
	} {
		if err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s, err := Open(t.Context(), Config{Path: path}); err == nil {
		s.Close()
		t.Error("opened")
	} else if !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other.db")); err == nil {
		t.Error("a damaged backup was put into place")
	}
	if err := Check(t.Context(), filepath.Join(dir, "none.db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no store: %v", err)
	}
}

// TestCheckCost tells what the check at the start would take in a large store.
func TestCheckCost(t *testing.T) {
	if os.Getenv("MAILXMPPD_LONG") == "" {
		t.Skip("long form only")
	}
	path := filepath.Join(t.TempDir(), "mail.db")
	s := open(t, path)
	for range 1000 {
		put(t, s, newMessage(1<<20, "montague.example"))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := openConn(path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	began := time.Now()
	if done, err := c.quickCheck(t.Context()); err != nil || !done {
		t.Error(done, err)
	}
	t.Logf("quick check of 1 GB: %v", time.Since(began).Round(time.Millisecond))
	began = time.Now()
	s = open(t, path)
	t.Logf("open: %v", time.Since(began).Round(time.Millisecond))
	s.Close()
}

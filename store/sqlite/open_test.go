package sqlite

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// exec runs a statement in a call of its own.
func exec(t *testing.T, s *Store, query string, args ...any) {
	t.Helper()
	err := s.writer.do(t.Context(), plain, 0, func(c *conn) error { _, err := c.exec(query, args...); return err })
	if err != nil {
		t.Fatal(err)
	}
}

// count counts a table's rows.
func count(t *testing.T, s *Store, table string) (n int64) {
	t.Helper()
	err := s.read(t.Context(), func(c *conn) error {
		r, err := c.first("SELECT count(*) FROM " + table)
		n = r.int(0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newMessage(size int, domain string) store.NewMessage {
	m := store.NewMessage{Lifetime: time.Hour}
	m.ID = mail.NewID()
	m.Content = mail.Bytes(make([]byte, size))
	m.Envelope.Recipients = []mail.Recipient{{Address: mail.Address{Local: "romeo", Domain: domain}}}
	return m
}

func put(t *testing.T, s *Store, m store.NewMessage) []store.Lease {
	t.Helper()
	leases, err := s.PutMessage(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	return leases
}

func TestOneProcessOwnsTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.db")
	s := open(t, path)
	want := fmt.Sprintf("store is in use by another process (pid %d)", os.Getpid())
	if _, err := Open(t.Context(), Config{Path: path}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("opened twice: %v, want %q", err, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	defer s.Close()
	for _, name := range []string{"", "-wal", "-shm", ".lock"} {
		info, err := os.Stat(path + name)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mail.db%s: %v, %v, want mode 0600", name, info, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		prepare func(path string) error
		want    string
	}{
		{"no folder", func(path string) error { return os.Remove(filepath.Dir(path)) }, "no such file or directory"},
		{"file for a folder", func(path string) error {
			return errors.Join(os.Remove(filepath.Dir(path)), os.WriteFile(filepath.Dir(path), nil, 0o600))
		}, "is not a folder"},
		{"no database", func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("not a database\n", 1000)), 0o600)
		}, "damaged, or not one"},
		{"folder for a database", func(path string) error { return os.Mkdir(path, 0o700) }, "is a directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			path := filepath.Join(dir, "mail.db")
			if err := errors.Join(os.Mkdir(dir, 0o700), tc.prepare(path)); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(t.Context(), Config{Path: path}); err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("error %v, want %q and the path", err, tc.want)
			}
		})
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.db")
	s := open(t, path)
	exec(t, s, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the refusal leaves no lock behind
		if _, err := Open(t.Context(), Config{Path: path}); !errors.Is(err, store.ErrNewer) {
			t.Errorf("error %v, want ErrNewer", err)
		}
	}
}

// TestMigrateGap: a version that is missing below the newest is applied, and one
// that is there and unknown is refused, whatever the newest is.
func TestMigrateGap(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mail.db")
	s := open(t, path)
	exec(t, s, "DROP TABLE contacts")
	exec(t, s, "DELETE FROM goose_db_version WHERE version_id = 11")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := Inspect(t.Context(), path); err != nil || r.Schema != 9 || r.Knows <= 11 {
		t.Errorf("with a gap: %+v, %v", r, err)
	}
	s = open(t, path)
	exec(t, s, "DELETE FROM contacts")
	exec(t, s, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (10, 1)")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Path: path}); !errors.Is(err, store.ErrNewer) {
		t.Errorf("an unknown version below the newest: %v", err)
	}
	if _, err := Inspect(t.Context(), path); !errors.Is(err, store.ErrNewer) {
		t.Errorf("an unknown version below the newest: %v", err)
	}
}

func TestCrashLoopBackOffHasABound(t *testing.T) {
	o := &opener{dir: t.TempDir()}
	now := time.UnixMilli(1_800_000_000_000)
	reopen := func(s *Store) *Store {
		if s != nil {
			o.Kill(t, s)
		}
		s, err := Open(t.Context(), Config{Path: filepath.Join(o.dir, "mail.db"), Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := reopen(nil)
	defer func() { s.Close() }()
	m := newMessage(10, "montague.example")
	m.Lifetime = 24 * time.Hour
	put(t, s, m)
	for n, want := range []int{0, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300} {
		leases, err := s.Claim(t.Context(), 1, time.Hour, nil, 0)
		if err != nil || len(leases) != 1 {
			t.Fatalf("claim %d: %d leases, %v", n, len(leases), err)
		}
		if _, err := s.BeginAttempt(t.Context(), leases[0], store.WayXMPP); err != nil {
			t.Fatal(err)
		}
		s = reopen(s)
		wait, ok, err := s.NextDue(t.Context(), nil)
		if err != nil || !ok || wait != time.Duration(want)*time.Second {
			t.Errorf("after %d attempts cut short: due in %v, %v, want %d s", n+1, wait, err, want)
		}
		now = now.Add(wait)
	}
}

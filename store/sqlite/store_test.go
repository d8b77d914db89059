package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Opener { return &opener{dir: t.TempDir()} })
}

// opener opens the database of a folder.
type opener struct{ dir string }

func (o *opener) Open(t *testing.T) store.Store { return open(t, filepath.Join(o.dir, "mail.db")) }

// Kill copies what a killed process leaves on the disk, before closing could
// tidy it up, and has Open go on with the copy. The shared-memory file is no
// part of it: SQLite makes it anew from the log.
func (o *opener) Kill(t *testing.T, s store.Store) {
	t.Helper()
	left := t.TempDir()
	for _, name := range []string{"mail.db", "mail.db-wal"} {
		p, err := os.ReadFile(filepath.Join(o.dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(left, name), p, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.dir = left
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

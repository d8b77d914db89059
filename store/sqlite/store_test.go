package sqlite

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestContract(t *testing.T) {
	// Making the tables takes longer than most tests: each begins with a copy.
	empty := &opener{dir: t.TempDir()}
	if err := empty.Open(t).Close(); err != nil {
		t.Fatal(err)
	}
	storetest.Run(t, func(t *testing.T) storetest.Opener {
		o := &opener{dir: t.TempDir()}
		copyFile(t, empty.dir, o.dir, "mail.db")
		return o
	})
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
	copyFile(t, o.dir, left, "mail.db")
	copyFile(t, o.dir, left, "mail.db-wal")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.dir = left
}

func (o *opener) Damage(t *testing.T, s store.Store, id mail.ID, column, value string) {
	t.Helper()
	err := s.(*Store).writer.do(t.Context(), plain, 0, func(c *conn) error {
		n, err := c.exec("UPDATE messages SET "+column+" = ? WHERE id = ?", value, string(id))
		if err == nil && n != 1 {
			err = store.ErrNotFound
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, path string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func copyFile(t *testing.T, from, to, name string) {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(from, name))
	if err == nil {
		err = os.WriteFile(filepath.Join(to, name), p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

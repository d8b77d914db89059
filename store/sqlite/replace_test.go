package sqlite

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailxmppd/store"
)

// TestReplace: a backup takes the place of a store, damaged or not, which is
// kept whole under another name; what cannot become a store changes nothing.
func TestReplace(t *testing.T) {
	dir := t.TempDir()
	path, backup := filepath.Join(dir, "mail.db"), filepath.Join(dir, "backup.db")
	s := open(t, path)
	old := newMessage(100, "montague.example")
	put(t, s, old)
	if err := s.Backup(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	late := newMessage(100, "capulet.example")
	put(t, s, late)
	if _, err := Replace(t.Context(), backup, path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("under an open store: %v", err)
	}
	if err := BackupClosed(t.Context(), path, filepath.Join(dir, "other.db")); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("backup of an open store as a closed one: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	aside, err := Replace(t.Context(), backup, path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		want int
	}{{path, 1}, {aside, 2}} {
		r := open(t, c.path)
		if got, err := r.List(t.Context(), store.Filter{}); err != nil || len(got) != c.want {
			t.Errorf("%s: %d deliveries, %v, want %d", c.path, len(got), err, c.want)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}

	// What cannot be opened is kept; its log must not be taken for the new
	// store's.
	for _, name := range []string{path, path + "-wal"} {
		if err := os.WriteFile(name, []byte(strings.Repeat("no database", 1000)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if aside, err = Replace(t.Context(), backup, path); err != nil {
		t.Fatalf("over a damaged store: %v", err)
	}
	if err := Check(t.Context(), path); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(aside); err != nil || !strings.HasPrefix(string(text), "no database") {
		t.Errorf("what was there was not kept: %v", err)
	}
	if _, err := os.Stat(path + "-wal"); err == nil {
		t.Error("the old log is left beside the new store")
	}
	damage(t, backup)
	if _, err := Replace(t.Context(), backup, path); err == nil {
		t.Error("a damaged backup was restored")
	}
	if err := Check(t.Context(), path); err != nil {
		t.Errorf("after a refused restore: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.part")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

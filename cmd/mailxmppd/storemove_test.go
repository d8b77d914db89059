package main

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/config"
	"mailxmppd/store"
	"mailxmppd/store/postgres"
	"mailxmppd/store/sqlite"
	"mailxmppd/store/storetest"
)

func openAt(t *testing.T, cfg config.Store) store.Store {
	t.Helper()
	st, err := openStore(t.Context(), &config.Config{Store: cfg}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// tell writes out what the store at cfg holds.
func tell(t *testing.T, cfg config.Store) string {
	t.Helper()
	st := openAt(t, cfg)
	defer st.Close()
	return storetest.Read(t, st)
}

// TestStoreMove: what the old store told of everything, the new one tells, and
// the old one is not opened any more.
func TestStoreMove(t *testing.T) {
	url := storetest.StartPostgres(t)
	s := newSite(t)
	file := s.write(t)
	old := config.Store{URL: "sqlite://" + filepath.Join(s.dir, "mail.db")}
	st := openAt(t, old)
	storetest.Fill(t, st)
	if code, _, stderr := call(t, "store", "move", "--config", file, "--to", url); code != 1 || !strings.Contains(stderr, "in use by another process") {
		t.Errorf("moved what a gateway holds: %d %s", code, stderr)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	before := tell(t, old)
	synthetic := fillOthers(t, filepath.Join(s.dir, "mail.db"))

	code, stdout, stderr := call(t, "store", "move", "--config", file, "--to", url, "--json")
	if code != 0 {
		t.Fatalf("%d %s", code, stderr)
	}
	var m store.Moved
	if err := json.Unmarshal([]byte(stdout), &m); err != nil {
		t.Fatal(err)
	}
	for _, table := range m.Tables {
		if table.Rows == 0 {
			t.Errorf("nothing of %s was moved, or tried to", table.Name)
		}
		if synthetic[table.Name] && table.Rows != 1 {
			t.Errorf("%d rows of %s", table.Rows, table.Name)
		}
	}
	if m.Contents < 10 {
		t.Errorf("%d contents compared", m.Contents)
	}
	if after := tell(t, config.Store{URL: url, Schema: "mailxmppd"}); after != before {
		t.Errorf("the new store tells something else:\n%s", firstDifference(before, after))
	}

	if _, err := openStore(t.Context(), &config.Config{Store: old}, quiet()); err == nil || !strings.Contains(err.Error(), "was moved to postgres://") {
		t.Errorf("the old store opens: %v", err)
	}
	if code, _, stderr := call(t, "store", "move", "--config", file, "--to", url, "--schema", "another"); code != 1 || !strings.Contains(stderr, "was moved to postgres://") {
		t.Errorf("moved twice: %d %s", code, stderr)
	}
}

// TestStoreMoveKilled: a move that was killed leaves the old store as it was
// and the new one empty and locked to gateways, and is begun anew by calling it
// again.
func TestStoreMoveKilled(t *testing.T) {
	url := storetest.StartPostgres(t)
	s := newSite(t)
	file := s.write(t)
	old, fresh := config.Store{URL: "sqlite://" + filepath.Join(s.dir, "mail.db")}, config.Store{URL: url, Schema: "mailxmppd"}
	st := openAt(t, old)
	storetest.Fill(t, st)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	before := tell(t, old)
	made, err := postgres.OpenTarget(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	if err := made.Close(); err != nil {
		t.Fatal(err)
	}

	// Whoever holds back writing into the last table has the move wait there.
	c, err := pgx.Connect(t.Context(), url+"&search_path=mailxmppd")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `LOCK TABLE users IN SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "store", "move", "--config", file, "--to", url)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	held := false
	for end := time.Now().Add(30 * time.Second); !held && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err := tx.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'users'::regclass)`).Scan(&held); err != nil {
			t.Fatal(err)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if !held {
		t.Fatal("the move never came to the last table")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}

	if _, err := openStore(t.Context(), &config.Config{Store: fresh}, quiet()); err == nil ||
		!strings.Contains(err.Error(), "has not been finished: run mailxmppd store move again") {
		t.Errorf("a store that was half filled opens: %v", err)
	}
	if after := tell(t, old); after != before {
		t.Errorf("the old store has changed:\n%s", firstDifference(before, after))
	}
	code, stdout, stderr := call(t, "store", "move", "--config", file, "--to", url)
	if code != 0 || !strings.Contains(stdout, "Name the new store") || !strings.Contains(stderr, "deliveries: ") {
		t.Fatalf("again: %d %s %s", code, stdout, stderr)
	}
	if after := tell(t, fresh); after != before {
		t.Errorf("the new store tells something else:\n%s", firstDifference(before, after))
	}
}

// TestStoreMoveRefuses: each mistake is one clear line, and changes nothing.
func TestStoreMoveRefuses(t *testing.T) {
	url := storetest.StartPostgres(t)
	s := newSite(t)
	file := s.write(t)
	none := newSite(t).write(t)
	old := config.Store{URL: "sqlite://" + filepath.Join(s.dir, "mail.db")}
	openAt(t, old).Close()
	inUse := config.Store{URL: url, Schema: "used"}
	st := openAt(t, inUse)
	if err := st.PutUser(t.Context(), store.User{Name: "nurse"}); err != nil {
		t.Fatal(err)
	}
	st.Close()
	elsewhere := *s
	elsewhere.store = `url = "postgres://me@host/x"`
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"--config " + file, 2, "--to wants a URL such as postgres://user@host/database"},
		{"--config " + file + " --to sqlite:x.db", 2, "--to wants a URL such as postgres://user@host/database"},
		{"--config " + none + " --to " + url, 1, "no such file or directory"},
		{"--config " + file + " --to postgres://me:hush@127.0.0.1:1/x", 1, "refused"},
		{"--config " + file + " --to " + url + " --schema A", 1, `schema name "A"`},
		{"--config " + file + " --to " + url + " --schema used", 1, "schema used is not empty: there is something in its table users"},
	} {
		code, stdout, stderr := call(t, append([]string{"store", "move"}, strings.Fields(c.args)...)...)
		if code != c.code || stdout != "" || !strings.Contains(stderr, c.want) || strings.Count(stderr, "\n") != 1 || strings.Contains(stderr, "hush") {
			t.Errorf("%s: got %d %q %q, want %q", c.args, code, stdout, stderr, c.want)
		}
	}
	s.store = elsewhere.store
	if code, _, stderr := call(t, "store", "move", "--config", s.write(t), "--to", url); code != 1 || !strings.Contains(stderr, "only an SQLite store can be moved") {
		t.Errorf("got %d %q", code, stderr)
	}
	openAt(t, old).Close()
	openAt(t, inUse).Close()
}

// fillOthers puts a row into each table that has none, so that none that a
// later schema brings is moved untried.
func fillOthers(t *testing.T, path string) map[string]bool {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	src, err := sqlite.OpenSource(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	tables, err := src.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := src.Close(); err != nil {
		t.Fatal(err)
	}
	filled := map[string]bool{}
	for _, table := range tables {
		if table.Rows > 0 {
			continue
		}
		values := map[string]string{}
		rows, err := db.Query(`SELECT name, type FROM pragma_table_info(?)`, table.Name)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var name, kind string
			if err := rows.Scan(&name, &kind); err != nil {
				t.Fatal(err)
			}
			values[`"`+name+`"`] = map[string]string{"INTEGER": "1", "BLOB": "x'00ff'", "TEXT": "'[]'"}[kind]
		}
		names, vs := "", ""
		for name, v := range values {
			names, vs = names+", "+name, vs+", "+v
		}
		if _, err := db.Exec(fmt.Sprintf(`INSERT INTO "%s" (%s) VALUES (%s)`, table.Name, names[2:], vs[2:])); err != nil {
			t.Fatal(err)
		}
		filled[table.Name] = true
	}
	return filled
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return strings.Join(x[max(0, i-40):i], "\n") + "\n- " + x[i] + "\n+ " + y[i]
		}
	}
	return fmt.Sprintf("%d lines, then %d", len(x), len(y))
}

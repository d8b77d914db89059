package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

// exec runs one statement on a schema, beside the store.
func exec(t *testing.T, schema, sql string, args ...any) {
	t.Helper()
	c := connect(t, server, schema)
	defer c.Close(t.Context())
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// count is the one number that a query gives.
func count(t *testing.T, schema, sql string, args ...any) (n int) {
	t.Helper()
	return countOn(t, server, schema, sql, args...)
}

func countOn(t *testing.T, server *storetest.Server, schema, sql string, args ...any) (n int) {
	t.Helper()
	c := connect(t, server, schema)
	defer c.Close(t.Context())
	if err := c.QueryRow(t.Context(), sql, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func connect(t *testing.T, server *storetest.Server, schema string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), server.URL+"&search_path="+schema)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestOpenRefuses: each mistake is one clear error.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	newer := newSchema()
	node(t, newer, "older").Close()
	exec(t, newer, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (4711, true)`)
	taken := newSchema()
	node(t, taken, "verona")

	loose, err := storetest.Start("", "fsync=off")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { loose.Stop() })

	for _, c := range []struct {
		name string
		cfg  Config
		want string
		is   error
	}{
		{"newer", Config{URL: server.URL, Schema: newer}, "schema is version 4711", store.ErrNewer},
		{"commit not synchronous", Config{URL: server.URL + "&options=-csynchronous_commit%3Doff", Schema: newSchema()}, "synchronous_commit is off", nil},
		{"no fsync", Config{URL: loose.URL}, "fsync is off", nil},
		{"schema name", Config{URL: server.URL, Schema: `a"b`}, "schema name", nil},
		{"url", Config{URL: "postgres://me:secret@host:none/x"}, "not a valid PostgreSQL URL", nil},
		{"no server", Config{URL: "postgres://postgres@127.0.0.1:1/x"}, "refused", nil},
		{"node name in use", Config{URL: server.URL, Schema: taken, Node: "verona"}, `another process uses this store under the node name "verona"`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.cfg.Log = slog.New(slog.DiscardHandler)
			s, err := Open(context.Background(), c.cfg)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("password shown: %v", err)
			}
		})
	}
}

// TestOpenTogether: nodes that start at once on an empty database make one
// schema.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	name := newSchema()
	errs := make(chan error)
	for i := range 4 {
		go func() {
			s, err := Open(context.Background(), Config{URL: server.URL, Schema: name, Node: fmt.Sprint("n", i), Log: slog.New(slog.DiscardHandler)})
			if err == nil {
				err = s.Close()
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestFailed(t *testing.T) {
	t.Parallel()
	full := &pgconn.PgError{Code: "53100", Message: "could not extend file"}
	if err := failed(fmt.Errorf("insert: %w", full)); !errors.Is(err, store.ErrFull) || !errors.Is(err, full) {
		t.Errorf("disk full: %v", err)
	}
	if err := failed(pgx.ErrNoRows); err != store.ErrNotFound {
		t.Errorf("no rows: %v", err)
	}
	if failed(nil) != nil {
		t.Error("nil became an error")
	}
	if lost(full) || !lost(context.DeadlineExceeded) || lost(nil) {
		t.Error("a server's answer and a lost connection are mixed up")
	}
}

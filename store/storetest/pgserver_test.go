package storetest

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
)

// TestServer: a row that was committed survives a crash and a restart, under
// the same URL, and the server flushes its commits.
func TestServer(t *testing.T) {
	s, err := Start("")
	if errors.Is(err, ErrNoServer) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if _, err := pgx.Connect(context.Background(), s.URL); err == nil {
			t.Error("the server answers after Stop")
		}
	})
	url := s.URL
	query := func(sql string) (out string) {
		t.Helper()
		c, err := pgx.Connect(t.Context(), s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(t.Context())
		if err := c.QueryRow(t.Context(), sql).Scan(&out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := query(`SHOW fsync`); got != "on" {
		t.Errorf("fsync is %s", got)
	}
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), `CREATE TABLE kept AS SELECT 'yes' AS v`); err != nil {
		t.Fatal(err)
	}
	c.Close(t.Context())

	for _, step := range []struct {
		name string
		end  func() error
	}{{"crash", s.Kill}, {"halt", s.Halt}} {
		before := s.PID
		if err := step.end(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if err := s.Run(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if s.URL != url || s.PID == before {
			t.Errorf("%s: url %s, process %d", step.name, s.URL, s.PID)
		}
		if got := query(`SELECT v FROM kept`); got != "yes" {
			t.Errorf("%s: kept %q", step.name, got)
		}
	}
}

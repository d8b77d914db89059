package postgres

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

// TestReadOnly: while the server takes nothing each call says so and does
// nothing, and the store goes on by itself once it does again.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	own, err := storetest.Start("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { own.Stop() })
	s := nodeOn(t, own, "test", "a")
	put := func() error {
		_, err := s.PutMessage(t.Context(), newMessage(t, 100, "romeo@montague.example"))
		return err
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	// ALTER SYSTEM writes no table: it works in a read-only transaction too.
	set := func(value string) {
		t.Helper()
		c := connect(t, own, "test")
		defer c.Close(t.Context())
		for _, sql := range []string{`ALTER SYSTEM SET default_transaction_read_only = ` + value, `SELECT pg_reload_conf()`} {
			if _, err := c.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
		}
	}
	set("on")
	stored := 1
	waitFor(t, "the setting to be seen", func() bool {
		if err = put(); err == nil {
			stored++
		}
		return err != nil
	})
	for range 3 { // on connections that knew, and on new ones
		if err = put(); !errors.Is(err, errReadOnly) {
			t.Errorf("put: %v", err)
		}
		if _, err := s.Claim(t.Context(), 10, time.Minute, nil, 0); !errors.Is(err, errReadOnly) {
			t.Errorf("claim: %v", err)
		}
		large := newMessage(t, 3*store.PieceSize, "romeo@montague.example")
		if _, err := s.PutMessage(t.Context(), large); !errors.Is(err, errReadOnly) {
			t.Errorf("large put: %v", err)
		}
	}
	if _, err := Open(t.Context(), Config{URL: own.URL, Schema: "test", Node: "b", Log: slog.New(slog.DiscardHandler)}); !errors.Is(err, errReadOnly) {
		t.Errorf("open: %v", err)
	}
	set("off")
	waitFor(t, "the store to write again", func() bool { return put() == nil })
	if n := countOn(t, own, "test", `SELECT count(*) FROM messages`); n != stored+1 {
		t.Errorf("%d messages, want %d", n, stored+1)
	}
}

// TestStoppedServer: a server that holds its connections and says nothing more
// ends no call well, and holds none for longer than its bound.
func TestStoppedServer(t *testing.T) {
	t.Parallel()
	name := newSchema()
	cfg := Config{URL: server.URL, Schema: name, Node: name, Log: slog.New(slog.DiscardHandler)}
	if err := cfg.complete(); err != nil {
		t.Fatal(err)
	}
	pcfg, err := poolConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := migrate(t.Context(), pcfg.ConnConfig, name); err != nil {
		t.Fatal(err)
	}
	s, err := start(t.Context(), cfg, pcfg, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	ctx := context.Background() // of a caller that would wait for ever
	calls := []struct {
		name string
		do   func() error
	}{
		{"put", func() error {
			_, err := s.PutMessage(ctx, newMessage(t, 100, "romeo@montague.example"))
			return err
		}},
		{"large put", func() error {
			_, err := s.PutMessage(ctx, newMessage(t, 3*store.PieceSize, "romeo@montague.example"))
			return err
		}},
		{"claim", func() error { _, err := s.Claim(ctx, 1, time.Minute, nil, 0); return err }},
		{"list", func() error { _, err := s.List(ctx, store.Filter{}); return err }},
	}
	for _, c := range calls {
		if err := c.do(); err != nil {
			t.Fatal(c.name, err)
		}
		stopped := backends(t, name)
		for _, pid := range stopped {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
		wake := func() {
			for _, pid := range stopped {
				syscall.Kill(pid, syscall.SIGCONT)
			}
		}
		answer := make(chan error, 1)
		go func() { answer <- c.do() }()
		select {
		case err := <-answer:
			if err == nil || !strings.Contains(err.Error(), "timeout") {
				t.Errorf("%s: %v", c.name, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s is still waiting", c.name)
		}
		// With the old connections still stopped, on new ones.
		waitFor(t, c.name+" on a new connection", func() bool { return c.do() == nil })
		wake()
	}
}

// backends are the processes that serve the connections of a node.
func backends(t *testing.T, node string) (pids []int) {
	t.Helper()
	c := connect(t, server, "public")
	defer c.Close(t.Context())
	rows, err := c.Query(t.Context(), `SELECT pid FROM pg_stat_activity WHERE application_name = $1`, "mailxmppd "+node)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var pid int
		if err := rows.Scan(&pid); err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

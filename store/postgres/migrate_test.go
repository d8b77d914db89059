package postgres

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"mailxmppd/schema"
	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

// oldSchema makes a schema as an earlier version of the program left it.
func oldSchema(t *testing.T, version int64) (name string) {
	t.Helper()
	name = newSchema()
	exec(t, "public", `CREATE SCHEMA `+name)
	cfg, err := pgx.ParseConfig(server.URL + "&search_path=" + name)
	if err != nil {
		t.Fatal(err)
	}
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, schema.Postgres(), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	exec(t, name, `INSERT INTO messages (id, tid, envelope, origin, facts, trace, size, sha256, body, open, created_at)
		VALUES ('00000000000000000000000001', 't', '{"sender":"juliet@capulet.example","recipients":[{"address":"romeo@montague.example"}]}', '{}', '{}', '', 1, '', 'x', 1, now() - interval '1 hour')`)
	exec(t, name, `INSERT INTO deliveries (message_id, n, rcpt, domain, state, due_at, expires_at, node, token, attempt, unsettled, in_doubt, delayed, last_text)
		VALUES ('00000000000000000000000001', 0, 'romeo@montague.example', 'montague.example', 'deferred', now(), now() + interval '1 day', '', 1, 1, 0, true, false, 'no')`)
	return name
}

// migrated checks that the message of an old schema is there to be claimed.
func migrated(t *testing.T, s *Store) {
	t.Helper()
	leases, err := s.Claim(t.Context(), 10, time.Hour, nil, 0)
	if err != nil || len(leases) != 1 || !leases[0].Deliveries[0].InDoubt || leases[0].Age < 59*time.Minute {
		t.Errorf("claimed %+v, %v", leases, err)
	}
}

// TestMigrateBetween: a process that ended between two migrations is followed
// by one that makes the rest, whichever was the last; and two that start at
// once on an old schema bring it up together.
func TestMigrateBetween(t *testing.T) {
	t.Parallel()
	for version := int64(1); version <= 5; version++ {
		name := oldSchema(t, version)
		other := make(chan error)
		go func() {
			s, err := Open(context.Background(), Config{URL: server.URL, Schema: name, Node: "other", Log: slog.New(slog.DiscardHandler)})
			if err == nil {
				err = s.Close()
			}
			other <- err
		}()
		s := node(t, name, "one")
		if err := <-other; err != nil {
			t.Error(err)
		}
		migrated(t, s)
	}
}

// TestMigrateCut: a migration whose connection is killed in its midst leaves
// the schema as it was, and the next start does it whole.
func TestMigrateCut(t *testing.T) {
	t.Parallel()
	name := oldSchema(t, 5)
	blocker := connect(t, server, name)
	defer blocker.Close(context.Background())
	tx, err := blocker.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// The migration changes deliveries first, then waits here.
	if _, err := tx.Exec(t.Context(), `LOCK TABLE messages IN ACCESS SHARE MODE`); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error)
	go func() {
		s, err := Open(context.Background(), Config{URL: server.URL, Schema: name, Node: "cut", Log: slog.New(slog.DiscardHandler)})
		if err == nil {
			s.Close()
		}
		opened <- err
	}()
	const waiting = ` FROM pg_stat_activity WHERE application_name = 'mailxmppd cut' AND wait_event_type = 'Lock' AND query LIKE '%dropped_at%'`
	waitFor(t, "the migration to be in its midst", func() bool { return count(t, name, `SELECT count(*)`+waiting) > 0 })
	exec(t, name, `SELECT pg_terminate_backend(pid)`+waiting)
	if err := <-opened; err == nil {
		t.Fatal("opened although its migration was cut short")
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := count(t, name, `SELECT max(version_id) FROM goose_db_version`); n != 5 {
		t.Errorf("schema version %d, want 5", n)
	}
	migrated(t, node(t, name, "next"))
}

// TestDurability: what a check needs to warn of is told.
func TestDurability(t *testing.T) {
	t.Parallel()
	d, err := node(t, newSchema(), "a").Durability(t.Context())
	if err != nil || d.Commit != "on" || d.Required != "" || d.Standbys != 0 || d.SurvivesFailover() {
		t.Errorf("%+v, %v", d, err)
	}
	for _, c := range []struct {
		d    Durability
		want bool
	}{
		{Durability{Commit: "on", Required: "FIRST 1 (*)", Standbys: 2, Waited: 1}, true},
		{Durability{Commit: "local", Required: "FIRST 1 (*)", Standbys: 2, Waited: 1}, false},
		{Durability{Commit: "on", Required: "FIRST 1 (*)"}, false},
		{Durability{Commit: "on", Standbys: 2}, false},
		{Durability{Commit: "remote_apply", Required: "*", Standbys: 1, Hidden: true}, true},
	} {
		if got := c.d.SurvivesFailover(); got != c.want {
			t.Errorf("%+v: %v", c.d, got)
		}
	}
}

// TestNoPileUp: deliveries that are tried again and again do not make their
// table and its indexes grow: autovacuum, as set for the tables, keeps up.
func TestNoPileUp(t *testing.T) {
	t.Parallel()
	own, err := storetest.Start("", "autovacuum_naptime=1", "autovacuum_max_workers=1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
	})
	name := newSchema()
	s := nodeOn(t, own, name, "a")
	m := newMessage(t, 10, strings.Fields(strings.Repeat("romeo@montague.example ", 200))...)
	if _, err := s.PutMessage(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	vacuums := func() int {
		return countOn(t, own, name, `SELECT autovacuum_count::int FROM pg_stat_user_tables WHERE relid = 'deliveries'::regclass`)
	}
	size := func() int { return countOn(t, own, name, `SELECT pg_total_relation_size('deliveries')::int`) }
	rounds := 0
	churn := func(until func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); ; rounds++ {
			roundTrip(t, s)
			if rounds%10 == 0 && until() {
				return
			}
			if time.Now().After(deadline) {
				t.Fatal("autovacuum does not come by")
			}
		}
	}
	start := vacuums()
	churn(func() bool { return vacuums() >= start+1 })
	first, done := size(), rounds
	churn(func() bool { return vacuums() >= start+3 && rounds >= 3*done })
	t.Logf("%d octets after %d rounds of 200 deliveries, %d after %d", first, done, size(), rounds)
	if size() > 3*first {
		t.Errorf("from %d to %d octets: dead rows pile up", first, size())
	}
}

// roundTrip tries all that is due once, in vain.
func roundTrip(t *testing.T, s *Store) {
	t.Helper()
	leases, err := s.Claim(t.Context(), 10, time.Hour, nil, 0)
	if err != nil || len(leases) != 1 {
		t.Fatalf("%d leases, %v", len(leases), err)
	}
	l, err := s.BeginAttempt(t.Context(), leases[0], store.WaySMTP)
	if err == nil {
		err = s.Settle(t.Context(), results(l, store.Result{State: store.Deferred}))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestMigrateGap: a version that is missing below the newest is applied, and one
// that is there and unknown is refused, whatever the newest is.
func TestMigrateGap(t *testing.T) {
	name := newSchema()
	node(t, name, "a").Close()
	exec(t, name, `DROP TABLE contacts`)
	exec(t, name, `DELETE FROM goose_db_version WHERE version_id = 11`)
	cfg := Config{URL: server.URL, Schema: name}
	if r, _, err := Inspect(t.Context(), cfg); err != nil || r.Schema != 9 || r.Knows <= 11 {
		t.Errorf("with a gap: %+v, %v", r, err)
	}
	node(t, name, "a").Close()
	exec(t, name, `SELECT 1 FROM contacts`)
	if r, _, err := Inspect(t.Context(), cfg); err != nil || r.Schema != r.Knows {
		t.Errorf("mended: %+v, %v", r, err)
	}
	exec(t, name, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (10, true)`)
	if _, err := Open(t.Context(), cfg); !errors.Is(err, store.ErrNewer) {
		t.Errorf("an unknown version below the newest: %v", err)
	}
	if _, _, err := Inspect(t.Context(), cfg); !errors.Is(err, store.ErrNewer) {
		t.Errorf("an unknown version below the newest: %v", err)
	}
}

package faults

import (
	"database/sql"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"mailxmppd/schema"
)

// oldVersion is that of the store before the migrations that are interrupted.
const oldVersion = 5

// waitingMail leaves mail in the store of a that waits for b, and both ended.
func (s *site) waitingMail() {
	s.Helper()
	s.start()
	stop := s.load(20)
	s.flows(10)
	s.blow()
	must(s, s.pair.B.Kill())
	deferred := strings.Count(s.pair.A.Log(), "msg=deferred")
	s.eventually("mail waits", func() bool { return strings.Count(s.pair.A.Log(), "msg=deferred") > deferred+3 })
	stop()
	must(s, s.pair.A.Kill())
}

// goesOn starts both and has mail flow, that of the old store first.
func (s *site) goesOn() {
	s.Helper()
	s.start()
	s.recovers()
	s.judge()
}

// older takes a store back to the old version.
func older(t *testing.T, p *goose.Provider, err error) {
	t.Helper()
	must(t, err)
	_, err = p.DownTo(t.Context(), oldVersion)
	must(t, err)
	if has, err := p.GetDBVersion(t.Context()); err != nil || has != oldVersion {
		t.Fatalf("the store is at version %d, %v", has, err)
	}
}

// TestMigrationKilled: a gateway on SQLite is killed again and again while it
// brings an old store up to date, and then left alone.
func TestMigrationKilled(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	s := newSite(t, "sqlite: migration killed", sqliteIn(dir, "a.example"), sqliteIn(shortDir(t), "b.example"))
	s.waitingMail()
	db, err := sql.Open("sqlite", strings.TrimPrefix(s.a.Store, "sqlite://"))
	must(t, err)
	p, err := goose.NewProvider(goose.DialectSQLite3, db, schema.SQLite(), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	older(t, p, err)
	seen := map[int64]int{}
	for try := range 12 * blows() {
		started := make(chan error, 1)
		go func() { started <- s.pair.A.Start(t.Context()) }()
		time.Sleep(time.Duration(20+2*try) * time.Millisecond)
		must(t, s.pair.A.Kill())
		if <-started == nil {
			must(t, s.pair.A.Kill()) // it had not begun when it was to be killed
		}
		has, err := p.GetDBVersion(t.Context())
		must(t, err)
		seen[has]++
		if _, err := p.DownTo(t.Context(), oldVersion); err != nil {
			t.Fatalf("a store that was killed at version %d: %v", has, err)
		}
		s.blows++
	}
	must(t, db.Close())
	t.Logf("killed at versions %v", seen)
	s.goesOn()
	s.sound(strings.TrimPrefix(s.a.Store, "sqlite://"))
}

// TestMigrationKilledPostgres: the same within a migration, which waits for a
// lock that the test has on a table.
func TestMigrationKilledPostgres(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	s := newSite(t, "postgres: migration killed", postgresAt(server.URL, "a.example", "migrate"), postgresAt(server.URL, "b.example", "migrate"))
	s.waitingMail()
	db := s.open(server.URL)
	p, err := goose.NewProvider(goose.DialectPostgres, db, schema.Postgres(), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	older(t, p, err)
	must(t, db.Close())
	// Within the transaction of the lock the server would say always the same.
	other, err := pgx.Connect(t.Context(), server.URL)
	must(t, err)
	defer other.Close(t.Context())
	for _, table := range []string{"deliveries", "messages"} {
		s.blows++
		lock, err := pgx.Connect(t.Context(), server.URL)
		must(t, err)
		_, err = lock.Exec(t.Context(), `BEGIN; LOCK TABLE `+pgx.Identifier{s.a.Schema, table}.Sanitize()+` IN ACCESS SHARE MODE`)
		must(t, err)
		started := make(chan error, 1)
		go func() { started <- s.pair.A.Start(t.Context()) }()
		s.eventually("a migration waits for the lock", func() bool {
			var n int
			must(t, other.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ALTER TABLE%'`).Scan(&n))
			return n > 0
		})
		must(t, s.pair.A.Kill())
		if err := <-started; err == nil {
			t.Error("a gateway greets whose store is being migrated")
		}
		_, err = lock.Exec(t.Context(), `ROLLBACK`)
		must(t, err)
		must(t, lock.Close(t.Context()))
	}
	s.goesOn()
}

// open is a connection to the schema of a.
func (s *site) open(server string) *sql.DB {
	s.Helper()
	u, err := url.Parse(server)
	must(s, err)
	q := u.Query()
	q.Set("search_path", s.a.Schema)
	u.RawQuery = q.Encode()
	db, err := sql.Open("pgx", u.String())
	must(s, err)
	return db
}

package harness

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	_ "mailxmppd/store/sqlite" // the driver "sqlite"
)

// inspect opens a side's store for reading, past the gateway that may have it.
func (s Side) inspect() (db *sql.DB, postgres bool, err error) {
	if path, ok := strings.CutPrefix(s.Store, "sqlite://"); ok {
		db, err = sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro&_pragma=busy_timeout(10000)"}).String())
		return db, false, err
	}
	u, err := url.Parse(s.Store)
	if err != nil {
		return nil, true, err
	}
	q := u.Query()
	q.Set("search_path", s.Schema)
	u.RawQuery = q.Encode()
	db, err = sql.Open("pgx", u.String())
	return db, true, err
}

// InFlight counts the attempts in a dead gateway's store that were begun and
// not settled, by the recipients' domain: each may have delivered.
func (s Side) InFlight(ctx context.Context) (map[string]int, error) {
	db, postgres, err := s.inspect()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	query := `SELECT domain, count(*) FROM deliveries WHERE began > 0 AND ended = 0 AND state = 2 GROUP BY domain`
	if postgres {
		if err := s.awaitEnd(ctx, db); err != nil {
			return nil, err
		}
		query = `SELECT domain, count(*) FROM deliveries WHERE began_at IS NOT NULL AND ended_at IS NULL AND state = 'leased' GROUP BY domain`
	}
	return counts(ctx, db, query)
}

// awaitEnd waits until the server has noticed that the gateway is gone, and
// ended or rolled back what it was at.
func (s Side) awaitEnd(ctx context.Context, db *sql.DB) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var n int
		err := db.QueryRowContext(ctx, `SELECT count(*) FROM pg_stat_activity WHERE application_name = $1`, "mailxmppd "+s.Node).Scan(&n)
		if err != nil || n == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d sessions of the dead node %s remain", n, s.Node)
		}
	}
}

// Stored counts the deliveries in a store by the transfer they came in.
func (s Side) Stored(ctx context.Context) (map[string]int, error) {
	db, postgres, err := s.inspect()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	query := `SELECT m.tid, count(*) FROM messages m JOIN deliveries d ON d.key >> 16 = m.num GROUP BY m.tid`
	if postgres {
		query = `SELECT m.tid, count(*) FROM messages m JOIN deliveries d ON d.message_id = m.id GROUP BY m.tid`
	}
	return counts(ctx, db, query)
}

// AwaitEmpty waits until no delivery is open any more, in the store of a running
// gateway, and returns how many still are.
func (s Side) AwaitEmpty(ctx context.Context, patience time.Duration) (open int, err error) {
	db, postgres, err := s.inspect()
	if err != nil {
		return 0, err
	}
	defer db.Close()
	query := `SELECT count(*) FROM deliveries WHERE due IS NOT NULL`
	if postgres {
		query = `SELECT count(*) FROM deliveries WHERE state IN ('due', 'deferred', 'leased', 'held')`
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := db.QueryRowContext(ctx, query).Scan(&open)
		if err != nil || open == 0 || time.Now().After(end) {
			return open, err
		}
	}
}

// Deliveries tells how every delivery stands in a Postgres store, with its
// attempts and fencing token: it stays the same where nothing is settled.
func (s Side) Deliveries(ctx context.Context) (map[string]string, error) {
	db, _, err := s.inspect()
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return pairs[string](ctx, db, `SELECT message_id || '.' || n, concat_ws(' ', state, token, attempt, ended_at, outcome) FROM deliveries`)
}

func counts(ctx context.Context, db *sql.DB, query string) (map[string]int, error) {
	return pairs[int](ctx, db, query)
}

// pairs reads rows of a name and a value.
func pairs[V any](ctx context.Context, db *sql.DB, query string) (map[string]V, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[string]V{}
	for rows.Next() {
		var name string
		var v V
		if err := rows.Scan(&name, &v); err != nil {
			return nil, err
		}
		out[name] = v
	}
	return out, rows.Err()
}

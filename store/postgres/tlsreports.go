package postgres

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

const (
	addTLSReport = `INSERT INTO tls_reports (day, domain, first_due, due_at) VALUES ($1, $2, $3, $3) ON CONFLICT DO NOTHING`
	addTLSResult = `INSERT INTO tls_results (day, domain, key, policy, result, sessions) SELECT $1, $2, $3, $4, $5, $6
		WHERE (SELECT count(*) FROM tls_results WHERE day = $1 AND domain = $2) < $7
			OR EXISTS (SELECT 1 FROM tls_results WHERE day = $1 AND domain = $2 AND key = $3)
		ON CONFLICT (day, domain, key) DO UPDATE SET sessions = tls_results.sessions + excluded.sessions`
)

// AddTLS implements store.TLSReports. All nodes lock rows in one order.
func (s *Store) AddTLS(ctx context.Context, days []store.TLSDay) error {
	days = slices.Clone(days)
	slices.SortFunc(days, func(a, b store.TLSDay) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Domain, b.Domain))
	})
	var batch pgx.Batch
	for _, d := range days {
		batch.Queue(addTLSReport, d.Day, d.Domain, d.Due)
		counts := slices.Clone(d.Counts)
		slices.SortFunc(counts, func(a, b store.TLSCount) int { return cmp.Compare(a.Key(), b.Key()) })
		for _, c := range counts {
			batch.Queue(addTLSResult, d.Day, d.Domain, c.Key(), c.Policy, c.Result, c.Sessions, store.MaxTLSCounts)
		}
	}
	if batch.Len() == 0 {
		return nil
	}
	return failed(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return tx.SendBatch(ctx, &batch).Close() }))
}

// TLSDays implements store.TLSReports.
func (s *Store) TLSDays(ctx context.Context, day, domain string) ([]store.TLSDay, error) {
	rows, err := s.pool.Query(ctx, `SELECT domain, state, id, token, said FROM tls_reports
		WHERE day = $1 AND (domain = $2 OR $2 = '') ORDER BY domain`, day, domain)
	if err != nil {
		return nil, failed(err)
	}
	days, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (store.TLSDay, error) {
		d := store.TLSDay{Day: day}
		err := r.Scan(&d.Domain, &d.State, &d.ID, &d.Tries, &d.Said)
		return d, err
	})
	for i := range days {
		if err == nil {
			days[i].Counts, err = s.tlsCounts(ctx, day, days[i].Domain)
		}
	}
	return days, failed(err)
}

func (s *Store) tlsCounts(ctx context.Context, day, domain string) ([]store.TLSCount, error) {
	rows, err := s.pool.Query(ctx, `SELECT policy, result, sessions FROM tls_results
		WHERE day = $1 AND domain = $2 ORDER BY policy COLLATE "C", result COLLATE "C"`, day, domain)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (c store.TLSCount, err error) {
		err = r.Scan(&c.Policy, &c.Result, &c.Sessions)
		return c, err
	})
}

// ClaimTLSReport implements store.TLSReports. The claims so far are the token.
func (s *Store) ClaimTLSReport(ctx context.Context, id string, lease time.Duration) (d store.TLSDay, ok bool, err error) {
	var waited float64
	err = s.pool.QueryRow(ctx, `UPDATE tls_reports
		SET due_at = now() + $2 * interval '1 second', token = token + 1, id = CASE id WHEN '' THEN $1 ELSE id END
		WHERE (day, domain) = (SELECT day, domain FROM tls_reports WHERE due_at <= now() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
		RETURNING day, domain, token, id, said, extract(epoch FROM now() - first_due)::float8`, id, seconds(lease)).
		Scan(&d.Day, &d.Domain, &d.Token, &d.ID, &d.Said, &waited)
	if errors.Is(err, pgx.ErrNoRows) {
		return store.TLSDay{}, false, nil
	}
	if err == nil {
		d.State, d.Tries, d.Waited = store.TLSWaiting, int(d.Token), time.Duration(waited*float64(time.Second))
		d.Counts, err = s.tlsCounts(ctx, d.Day, d.Domain)
	}
	return d, err == nil, failed(err)
}

// SettleTLSReport implements store.TLSReports.
func (s *Store) SettleTLSReport(ctx context.Context, d store.TLSDay, state store.TLSState, said string, delay time.Duration) error {
	tag, err := s.pool.Exec(ctx, `UPDATE tls_reports
		SET due_at = CASE WHEN $4::text = 'waiting' THEN now() + $6 * interval '1 second' END, state = $4, said = $5
		WHERE day = $1 AND domain = $2 AND token = $3 AND due_at IS NOT NULL`, d.Day, d.Domain, d.Token, string(state), said, seconds(delay))
	if err == nil && tag.RowsAffected() == 0 {
		return store.ErrLeaseLost
	}
	return failed(err)
}

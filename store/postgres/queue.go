package postgres

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const (
	defaultList = 1000
	entryFields = `
	d.message_id, d.n, d.state, m.envelope::json->>'sender', d.rcpt, d.domain, m.size, d.attempt,
	(extract(epoch FROM now() - m.created_at) * 1e9)::bigint,
	CASE WHEN d.state IN ('due', 'deferred', 'leased') THEN round(extract(epoch FROM d.due_at - now()))::bigint ELSE 0 END,
	d.in_doubt, d.doubt_way, d.last_text`
)

func scanEntry(row pgx.CollectableRow) (store.Entry, error) {
	var e store.Entry
	err := row.Scan(&e.ID, &e.N, &e.State, &e.Sender, &e.Rcpt, &e.Domain, &e.Size, &e.Attempts, &e.Age, &e.DueSecs, &e.InDoubt, &e.DoubtWay, &e.Last)
	e.AgeSecs = int64(e.Age / time.Second)
	return e, err
}

// List implements store.Queue.
func (s *Store) List(ctx context.Context, f store.Filter) ([]store.Entry, error) {
	if f.Limit <= 0 {
		f.Limit = defaultList
	}
	rows, err := s.pool.Query(ctx, `SELECT `+entryFields+` FROM deliveries d JOIN messages m ON m.id = d.message_id
		WHERE ($1 = '' OR d.domain = $1) AND ($2 OR d.state IN ('due', 'deferred', 'leased'))
		ORDER BY d.message_id DESC, d.n LIMIT $3`, f.Domain, f.Closed, f.Limit)
	if err != nil {
		return nil, failed(err)
	}
	out, err := pgx.CollectRows(rows, scanEntry)
	return out, failed(err)
}

// Show implements store.Queue.
func (s *Store) Show(ctx context.Context, id mail.ID) (store.Record, error) {
	var r store.Record
	// One snapshot, so that message, deliveries and attempts fit together.
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var err error
		if r, err = showMessage(ctx, tx, id); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT `+entryFields+` FROM deliveries d JOIN messages m ON m.id = d.message_id WHERE d.message_id = $1 ORDER BY d.n`, id)
		if err != nil {
			return err
		}
		if r.Deliveries, err = pgx.CollectRows(rows, scanEntry); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `
			SELECT n, number, way, began_at, ended_at, outcome FROM attempts WHERE message_id = $1
			UNION ALL SELECT n, attempt, way, began_at, ended_at, outcome FROM deliveries WHERE message_id = $1 AND began_at IS NOT NULL
			ORDER BY 1, 2`, id)
		if err != nil {
			return err
		}
		r.Attempts, err = pgx.CollectRows(rows, scanTry)
		return err
	})
	if err != nil {
		return store.Record{}, failed(err)
	}
	return r, nil
}

func showMessage(ctx context.Context, tx pgx.Tx, id mail.ID) (store.Record, error) {
	var envelope, origin string
	var trace, sum []byte
	r := store.Record{ID: id}
	err := tx.QueryRow(ctx, `SELECT tid, envelope, origin, trace, size, sha256 FROM messages WHERE id = $1`, id).
		Scan(&r.Transfer, &envelope, &origin, &trace, &r.Size, &sum)
	if err != nil {
		return r, err
	}
	r.Trace, r.SHA256 = string(trace), hex.EncodeToString(sum)
	if err := json.Unmarshal([]byte(envelope), &r.Envelope); err != nil {
		return r, err
	}
	return r, json.Unmarshal([]byte(origin), &r.Origin)
}

func scanTry(row pgx.CollectableRow) (store.Try, error) {
	var (
		t       store.Try
		ended   *time.Time
		outcome *string
	)
	if err := row.Scan(&t.N, &t.Number, &t.Way, &t.Began, &ended, &outcome); err != nil {
		return t, err
	}
	if ended != nil {
		t.Ended = *ended
	}
	return t, loadOutcome(outcome, &t)
}

// Retry implements store.Queue.
func (s *Store) Retry(ctx context.Context, id mail.ID, n int) (int, error) {
	retried := 0
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := mustExist(ctx, tx, id, n); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE deliveries SET due_at = least(due_at, now())
			WHERE message_id = $1 AND ($2 < 0 OR n = $2) AND state IN ('due', 'deferred')`, id, n)
		if retried = int(tag.RowsAffected()); err != nil || retried == 0 {
			return err
		}
		return s.notify(ctx, tx)
	})
	if err != nil {
		return 0, failed(err)
	}
	if retried > 0 {
		s.wakeSelf()
	}
	return retried, nil
}

// Drop implements store.Queue. It raises the token, which ends a lease.
func (s *Store) Drop(ctx context.Context, id mail.ID, n int) (int, error) {
	dropped := 0
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := mustExist(ctx, tx, id, n); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
			WITH done AS (
				UPDATE deliveries SET state = 'dropped', token = token + 1, node = '', due_at = now()
				WHERE message_id = $1 AND ($2 < 0 OR n = $2) AND state IN ('due', 'deferred', 'leased')
				RETURNING 1
			), finished AS (
				UPDATE messages m
				SET open = m.open - c.closed, body = CASE WHEN m.open > c.closed THEN m.body END,
					finished_at = CASE WHEN m.open <= c.closed THEN now() END
				FROM (SELECT count(*) AS closed FROM done) c
				WHERE m.id = $1 AND c.closed > 0
				RETURNING m.content_id, m.finished_at
			), gone AS (
				DELETE FROM content c USING finished f WHERE f.finished_at IS NOT NULL AND c.content_id = f.content_id
			)
			SELECT count(*) FROM done`, id, n).Scan(&dropped)
	})
	if err != nil {
		return 0, failed(err)
	}
	return dropped, nil
}

// mustExist gives ErrNotFound for a message or delivery that there is not.
func mustExist(ctx context.Context, tx pgx.Tx, id mail.ID, n int) error {
	var one int
	return tx.QueryRow(ctx, `SELECT 1 FROM deliveries WHERE message_id = $1 AND ($2 < 0 OR n = $2) LIMIT 1`, id, n).Scan(&one)
}

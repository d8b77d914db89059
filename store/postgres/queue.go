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
	d.message_id, d.n, d.state, ` + senderToken + `, d.rcpt, d.domain, d.next, m.size, d.attempt,
	(extract(epoch FROM now() - d.created_at) * 1e9)::bigint,
	CASE WHEN d.state IN ('due', 'deferred', 'leased') THEN round(extract(epoch FROM d.due_at - now()))::bigint ELSE 0 END,
	d.settled_at, d.in_doubt, d.doubt_way, d.last_text`
)

func scanEntry(row pgx.CollectableRow) (store.Entry, error) {
	var e store.Entry
	var settled *time.Time
	var sender *string
	err := row.Scan(&e.ID, &e.N, &e.State, &sender, &e.Rcpt, &e.Domain, &e.Next, &e.Size, &e.Attempts, &e.Age, &e.DueSecs,
		&settled, &e.InDoubt, &e.DoubtWay, &e.Last)
	if settled != nil {
		e.Settled = *settled
	}
	if e.Sender = store.UnknownSender; sender != nil {
		json.Unmarshal([]byte(*sender), &e.Sender) // a whole JSON string, by senderToken
	}
	e.AgeSecs = int64(e.Age / time.Second)
	return e, err
}

// List implements store.Queue. The deliveries are found first, then what their
// messages tell of them.
func (s *Store) List(ctx context.Context, f store.Filter) ([]store.Entry, error) {
	w, err := filtered(f)
	if err != nil {
		return nil, err
	}
	if f.After != "" {
		after := w.arg(string(f.After))
		w.and(`(d.message_id < ` + after + ` OR d.message_id = ` + after + ` AND d.n > ` + w.arg(f.AfterN) + `)`)
		w.and(`d.message_id <= ` + after)
	}
	limit := f.Limit
	if limit <= 0 {
		limit = defaultList
	}
	if f.Domain != "" && !f.Closed && len(f.States) == 0 {
		w.ofDomain(f.Domain) // else LIMIT has the planner walk over all, from the newest on
	}
	sql := `WITH found AS MATERIALIZED (SELECT d.message_id, d.n FROM ` + w.from + w.where() + `
		ORDER BY d.message_id DESC, d.n LIMIT ` + w.arg(limit) + `)
		SELECT ` + entryFields + ` FROM found f JOIN deliveries d ON d.message_id = f.message_id AND d.n = f.n
		JOIN messages m ON m.id = d.message_id ORDER BY d.message_id DESC, d.n`
	rows, err := s.pool.Query(ctx, sql, w.args...)
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
		if r.Attempts, err = pgx.CollectRows(rows, scanTry); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT n, at, verb, by, detail FROM events WHERE message_id = $1 ORDER BY seq`, id)
		if err != nil {
			return err
		}
		r.Events, err = pgx.CollectRows(rows, pgx.RowToStructByPos[store.Event])
		return err
	})
	if err != nil {
		return store.Record{}, failed(err)
	}
	return r, nil
}

func showMessage(ctx context.Context, tx pgx.Tx, id mail.ID) (store.Record, error) {
	var envelope, origin, facts string
	var trace, sum []byte
	r := store.Record{ID: id}
	err := tx.QueryRow(ctx, `SELECT tid, envelope, origin, facts, trace, size, sha256, created_at FROM messages WHERE id = $1`, id).
		Scan(&r.Transfer, &envelope, &origin, &facts, &trace, &r.Size, &sum, &r.Stored)
	if err != nil {
		return r, err
	}
	r.Trace, r.SHA256 = string(trace), hex.EncodeToString(sum)
	if r.Envelope, r.Origin, _, err = readMessage(envelope, origin, facts, r.Size, sum); err != nil {
		r.Unreadable = err.Error()
	}
	return r, nil
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
	if err := loadOutcome(outcome, &t); err != nil {
		t.Text = "what it came to cannot be read: " + err.Error()
	}
	return t, nil
}

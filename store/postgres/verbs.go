package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const (
	verbBatch = 1000             // deliveries that one transaction of a verb changes
	tellEvery = 10 * time.Second // while a verb is under way
)

// verb is what an operator does to deliveries.
type verb struct {
	name    string
	of      []store.State // what it changes
	set     string        // in UPDATE deliveries d
	effect  string        // further steps on done, the deliveries changed
	detail  string
	wakes   bool   // makes deliveries due
	narrow  string // a further condition
	message string // one on the message t, seen under its lock
}

// opened takes a delivery out of where an operator had put it.
const opened = `state = CASE WHEN d.attempt > 0 THEN 'deferred' ELSE 'due' END, due_at = now(),
	expires_at = d.expires_at + (now() - d.parked_at), parked_at = NULL, settled_at = NULL`

// Retry implements store.Queue.
func (s *Store) Retry(ctx context.Context, sel store.Selection) (int, error) {
	return s.do(ctx, sel, verb{name: "retry", of: []store.State{store.Due, store.Deferred}, set: `due_at = least(d.due_at, now())`, wakes: true})
}

// Hold implements store.Queue.
func (s *Store) Hold(ctx context.Context, sel store.Selection) (int, error) {
	return s.do(ctx, sel, verb{name: "hold", of: []store.State{store.Due, store.Deferred, store.Leased},
		set: `state = 'held', token = d.token + 1, node = '', parked_at = now(), ` + cutShort})
}

// Unhold implements store.Queue.
func (s *Store) Unhold(ctx context.Context, sel store.Selection) (int, error) {
	return s.do(ctx, sel, verb{name: "unhold", of: []store.State{store.Held}, set: opened, wakes: true})
}

// Redirect implements store.Queue.
func (s *Store) Redirect(ctx context.Context, sel store.Selection, next string) (int, error) {
	next = clean(next)
	return s.do(ctx, sel, verb{name: "redirect", of: openStates(),
		set: `next = $2`, detail: next, narrow: `d.next <> $2`, wakes: true})
}

// Drop implements store.Queue.
func (s *Store) Drop(ctx context.Context, sel store.Selection) (int, error) {
	return s.do(ctx, sel, verb{name: "drop", of: openStates(),
		set: `state = 'dropped', token = d.token + 1, node = '', due_at = now(), parked_at = coalesce(d.parked_at, now()), settled_at = now(), ` + cutShort, // a held one is parked since it was held
		effect: `, finished AS (
			UPDATE messages m SET open = m.open - c.n, dropped_at = now(), finished_at = CASE WHEN m.open <= c.n THEN now() END
			FROM (SELECT message_id, count(*) AS n FROM done GROUP BY message_id) c WHERE m.id = c.message_id
		)`})
}

// Restore implements store.Queue.
func (s *Store) Restore(ctx context.Context, sel store.Selection) (int, error) {
	const there = `EXISTS (SELECT FROM messages t WHERE t.id = d.message_id AND (t.finished_at IS NULL OR t.dropped_at IS NOT NULL))`
	n, err := s.do(ctx, sel, verb{name: "restore", of: []store.State{store.Dropped}, set: opened, wakes: true,
		narrow:  there,
		message: `(t.finished_at IS NULL OR t.dropped_at IS NOT NULL)`, // Maintain may be removing the content
		effect: `, reopened AS (
			UPDATE messages m SET open = m.open + c.n, finished_at = NULL,
				dropped_at = CASE WHEN (SELECT count(*) FROM deliveries e WHERE e.message_id = m.id AND e.state = 'dropped') > c.n THEN m.dropped_at END
			FROM (SELECT message_id, count(*) AS n FROM done GROUP BY message_id) c WHERE m.id = c.message_id
		)`})
	if err != nil || n > 0 || sel.ID == "" {
		return n, err
	}
	var gone bool
	err = s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM deliveries d WHERE message_id = $1 AND ($2 < 0 OR n = $2) AND state = 'dropped' AND NOT `+there+`)`,
		sel.ID, sel.N).Scan(&gone)
	if err == nil && gone {
		err = fmt.Errorf("%w: the content of dropped message %s has been removed", store.ErrNotFound, sel.ID)
	}
	return 0, err
}

// do runs a verb on a selection.
func (s *Store) do(ctx context.Context, sel store.Selection, v verb) (total int, err error) {
	at, told := place{n: -1}, time.Now()
	for more := true; more; {
		if time.Since(told) > tellEvery {
			told = time.Now()
			s.log.Info("queue verb under way", "verb", v.name, "by", sel.By, "deliveries", total)
		}
		var n int
		err := again(func() (err error) {
			n, more, err = s.batch(ctx, sel, v, &at)
			return err
		})
		if err != nil {
			return total, fmt.Errorf("%s deliveries: %w", v.name, failed(err))
		}
		if total += n; n > 0 && v.wakes {
			s.wakeSelf()
		}
	}
	return total, nil
}

// again repeats a transaction that was the victim of a deadlock: attempts are
// settled in the order of their end, an operator changes deliveries in theirs.
func again(do func() error) (err error) {
	for range 5 {
		if err = do(); err == nil {
			return nil
		}
		if pg, ok := errors.AsType[*pgconn.PgError](err); !ok || pg.Code != "40P01" {
			return err
		}
	}
	return err
}

// place is where a walk over deliveries stands: what follows comes next.
type place struct {
	id mail.ID
	n  int
}

// batch changes the next deliveries of a selection, and says whether there may
// be more.
func (s *Store) batch(ctx context.Context, sel store.Selection, v verb, at *place) (count int, more bool, err error) {
	f := sel.Filter
	if f.States == nil {
		f.States = v.of
	}
	if sel.ID != "" {
		f = store.Filter{States: v.of}
	}
	f.States = slices.DeleteFunc(slices.Clone(f.States), func(s store.State) bool { return !slices.Contains(v.of, s) })
	if len(f.States) == 0 {
		return 0, false, nil
	}
	w, err := filtered(f, clean(sel.By), v.detail)
	if err != nil {
		return 0, false, err
	}
	event := `n`
	if sel.ID != "" {
		w.and(`d.message_id = ` + w.arg(string(sel.ID)))
		if event = fmt.Sprint(max(sel.N, -1)); sel.N >= 0 {
			w.and(`d.n = ` + w.arg(sel.N))
		}
	}
	if v.narrow != "" {
		w.and(v.narrow)
	}
	join, under, lock := ``, ``, ``
	if v.message != "" {
		join, under, lock = ` JOIN messages t ON t.id = d.message_id`, ` AND `+v.message, `, t`
	}
	limit := ``
	if sel.ID == "" { // in the order of their key, so that all batches together read the queue once
		w.and(`(d.message_id, d.n) > (` + w.arg(string(at.id)) + `, ` + w.arg(at.n) + `)`)
		limit = fmt.Sprintf(` LIMIT %d`, verbBatch)
	}
	sql := `
		WITH found AS MATERIALIZED (
			SELECT d.message_id, d.n FROM ` + w.from + w.where() + ` ORDER BY d.message_id, d.n` + limit + `
		), pick AS (
			SELECT d.message_id, d.n FROM found f JOIN deliveries d ON d.message_id = f.message_id AND d.n = f.n` + join + `
			WHERE d.state = ANY (` + w.arg(names(v.of)) + `)` + under + ` ORDER BY d.message_id, d.n FOR UPDATE OF d` + lock + `
		), done AS (
			UPDATE deliveries d SET ` + v.set + ` FROM pick p WHERE d.message_id = p.message_id AND d.n = p.n RETURNING d.message_id, d.n
		)` + v.effect + `, noted AS (
			INSERT INTO events (message_id, n, at, verb, by, detail)
			SELECT DISTINCT message_id, ` + event + `, now(), '` + v.name + `', $1::text, $2::text FROM done
		), last AS (
			SELECT message_id, n FROM found ORDER BY message_id DESC, n DESC LIMIT 1
		)
		SELECT (SELECT count(*) FROM done), (SELECT count(*) FROM found) = ` + fmt.Sprint(verbBatch) + `,
			coalesce((SELECT message_id FROM last), ''), coalesce((SELECT n FROM last), 0)`
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if sel.ID != "" {
			if err := mustExist(ctx, tx, sel.ID, sel.N); err != nil {
				return err
			}
		}
		if err := tx.QueryRow(ctx, sql, w.args...).Scan(&count, &more, &at.id, &at.n); err != nil || count == 0 || !v.wakes {
			return err
		}
		return s.notify(ctx, tx)
	})
	return count, more && sel.ID == "", err
}

func names(states []store.State) []string {
	out := make([]string, len(states))
	for i, s := range states {
		out[i] = string(s)
	}
	return out
}

// mustExist gives ErrNotFound for a message or delivery that there is not.
func mustExist(ctx context.Context, tx pgx.Tx, id mail.ID, n int) error {
	var one int
	return tx.QueryRow(ctx, `SELECT 1 FROM deliveries WHERE message_id = $1 AND ($2 < 0 OR n = $2) LIMIT 1`, id, n).Scan(&one)
}

const seize = `
WITH was AS (
	SELECT d.*, d.due_at AS was_due FROM deliveries d
	WHERE d.message_id = $1 AND ($4 < 0 OR d.n = $4) AND d.state NOT IN ` + closed + `
	ORDER BY d.n FOR UPDATE OF d
), noted AS (
	INSERT INTO events (message_id, n, at, verb, by, detail)
	SELECT DISTINCT message_id, greatest($4, -1), now(), 'fail', $5::text, '' FROM was
), ` + leaseThem

// Seize implements store.Queue.
func (s *Store) Seize(ctx context.Context, id mail.ID, n int, by string, lease time.Duration) (leases []store.Lease, err error) {
	err = again(func() error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
			if err := mustExist(ctx, tx, id, n); err != nil {
				return err
			}
			rows, err := tx.Query(ctx, seize, string(id), seconds(lease), s.node, n, clean(by))
			if err != nil {
				return err
			}
			var aside []unread
			if leases, aside, err = collectLeases(rows); err == nil && len(aside) > 0 {
				err = aside[0].why
			}
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("seize deliveries of %s: %w", id, failed(err))
	}
	return leases, nil
}

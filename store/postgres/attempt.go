package postgres

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// beginOp is a BeginAttempt on its way; lease gets the raised counts.
type beginOp struct {
	lease store.Lease
}

// BeginAttempt implements store.Store.
func (s *Store) BeginAttempt(ctx context.Context, l store.Lease, way store.Way) (store.Lease, error) {
	b := &beginOp{lease: l}
	b.lease.Way = way
	b.lease.Deliveries = slices.Clone(l.Deliveries)
	if err := s.submit(ctx, &op{begin: b}); err != nil {
		return store.Lease{}, err
	}
	return b.lease, nil
}

const beginGroup = `
WITH want AS (
	SELECT * FROM unnest($1::int[], $2::int[], $3::int[], $4::text[], $5::int[], $6::bigint[], $7::text[]) AS u (op, at, size, message_id, n, token, way)
), held AS (
	SELECT w.* FROM want w JOIN deliveries d ON d.message_id = w.message_id AND d.n = w.n
	WHERE d.token = w.token AND d.node <> ''
	FOR UPDATE OF d
), whole AS (
	SELECT op FROM held GROUP BY op, size HAVING count(*) = size
)
UPDATE deliveries d
SET attempt = d.attempt + 1, way = h.way, unsettled = d.unsettled + 1, began_at = now(), ended_at = NULL, outcome = NULL
FROM held h
WHERE d.message_id = h.message_id AND d.n = h.n AND h.op IN (SELECT op FROM whole)
RETURNING h.op, h.at, d.attempt`

// queueBegins adds beginnings of attempts to a transaction.
func queueBegins(b *pgx.Batch, ops []*op) {
	if len(ops) == 0 {
		return
	}
	var a struct {
		op, at, size, n []int32
		id, way         []string
		token           []int64
	}
	for i, o := range ops {
		l := o.begin.lease
		for j, d := range l.Deliveries {
			a.op, a.at, a.size = append(a.op, int32(i)), append(a.at, int32(j)), append(a.size, int32(len(l.Deliveries)))
			a.id, a.n, a.token = append(a.id, string(l.ID)), append(a.n, int32(d.N)), append(a.token, d.Token)
			a.way = append(a.way, string(l.Way))
		}
		o.err = store.ErrLeaseLost // until the result says otherwise
	}
	b.Queue(beginGroup, a.op, a.at, a.size, a.id, a.n, a.token, a.way).Query(func(rows pgx.Rows) error {
		var i, at, attempt int32
		_, err := pgx.ForEachRow(rows, []any{&i, &at, &attempt}, func() error {
			ops[i].err = nil
			ops[i].begin.lease.Deliveries[at].Attempt = int(attempt)
			return nil
		})
		return err
	})
}

// SetWay implements store.Store. It is rare, hence a transaction of its own.
func (s *Store) SetWay(ctx context.Context, l store.Lease, way store.Way) error {
	n, token := make([]int32, len(l.Deliveries)), make([]int64, len(l.Deliveries))
	for i, d := range l.Deliveries {
		n[i], token[i] = int32(d.N), d.Token
	}
	return failed(pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE deliveries d SET way = $4 FROM unnest($2::int[], $3::bigint[]) AS w (n, token)
			WHERE d.message_id = $1 AND d.n = w.n AND d.token = w.token AND d.node <> ''`, l.ID, n, token, string(way))
		if err == nil && tag.RowsAffected() < int64(len(n)) {
			err = store.ErrLeaseLost
		}
		return err
	}))
}

// Renew implements store.Store.
func (s *Store) Renew(ctx context.Context, leases []store.Lease, lease time.Duration) (lost []store.Lease, err error) {
	var id []string
	var n, of []int32
	var token []int64
	for i, l := range leases {
		for _, d := range l.Deliveries {
			of, id, n, token = append(of, int32(i)), append(id, string(l.ID)), append(n, int32(d.N)), append(token, d.Token)
		}
	}
	if len(id) == 0 {
		return nil, nil
	}
	faults.Point("store.renew.before-commit")
	rows, err := s.pool.Query(ctx, `
		UPDATE deliveries d SET due_at = now() + $5 * interval '1 second'
		FROM unnest($1::int[], $2::text[], $3::int[], $4::bigint[]) AS w (lease, message_id, n, token)
		WHERE d.message_id = w.message_id AND d.n = w.n AND d.token = w.token AND d.node <> ''
		RETURNING w.lease`, of, id, n, token, seconds(lease))
	if err != nil {
		return nil, fmt.Errorf("renew leases: %w", failed(err))
	}
	renewed, err := pgx.CollectRows(rows, pgx.RowTo[int32])
	if err != nil {
		return nil, fmt.Errorf("renew leases: %w", failed(err))
	}
	faults.Point("store.renew.after-commit")
	count := make([]int, len(leases))
	for _, i := range renewed {
		count[i]++
	}
	for i, l := range leases {
		if count[i] < len(l.Deliveries) {
			lost = append(lost, l)
		}
	}
	return lost, nil
}

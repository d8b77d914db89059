package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Settle implements store.Store. A repetition after a lost answer gets
// ErrLeaseLost: the first one has ended the lease.
func (s *Store) Settle(ctx context.Context, set store.Settlement) error {
	if len(set.Results) != len(set.Lease.Deliveries) {
		return fmt.Errorf("message %s: %d results for %d deliveries", set.Lease.ID, len(set.Results), len(set.Lease.Deliveries))
	}
	for _, r := range set.Results {
		if !slices.Contains([]store.State{store.Deferred, store.Delivered, store.Bounced, store.ExpiredSt}, r.State) {
			return fmt.Errorf("message %s: %q is not a result", set.Lease.ID, r.State)
		}
	}
	if len(set.DSNs) > 0 {
		return s.settleWithDSNs(ctx, set)
	}
	return s.submit(ctx, &op{settle: &set})
}

// settleWithDSNs is a settlement whose DSNs depend on the lease being held: a
// transaction of its own, as DSNs are rare.
func (s *Store) settleWithDSNs(ctx context.Context, set store.Settlement) error {
	release, err := s.enterLarge(ctx)
	if err != nil {
		return err
	}
	defer release()
	rows := make([]*messageRow, len(set.DSNs))
	claimable := false
	for i, m := range set.DSNs {
		m.Lease = store.Own{} // nobody would learn of it
		row, err := s.newRow(m)
		if err != nil {
			return err
		}
		if err := s.loadContent(ctx, row, m.Content); err != nil {
			return err
		}
		rows[i], claimable = row, claimable || row.claimable()
	}
	o := &op{settle: &set}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		b := &pgx.Batch{}
		queueSettlements(b, []*op{o})
		if err := tx.SendBatch(ctx, b).Close(); err != nil || o.err != nil {
			return firstOf(err, o.err)
		}
		for _, row := range rows {
			if err := claimUpload(ctx, tx, row.contentID); err != nil {
				return err
			}
		}
		b = &pgx.Batch{}
		queueMessages(b, rows)
		if claimable {
			b.Queue(`SELECT pg_notify($1, $2)`, s.channel(), s.node)
		}
		if err := tx.SendBatch(ctx, b).Close(); err != nil {
			return err
		}
		faults.Point("store.report.before-commit")
		return nil
	})
	if err != nil {
		return failed(err)
	}
	faults.Point("store.report.after-commit")
	if claimable {
		s.wakeSelf()
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// settleGroup settles whole leases only. A lease of one delivery is whole or
// not at all by itself; the deliveries of a larger one are locked and counted
// first. The row of a message is written when deliveries of it have ended, so
// that two settlements of one message meet there, and the last takes the
// content away, unless an operator may still want back what was dropped. A lease is known by its node rather than by its state, which
// would tempt the planner to the index of all open deliveries.
const settleGroup = `
WITH want AS (
	SELECT * FROM unnest($1::int[], $2::int[], $3::text[], $4::int[], $5::bigint[], $6::text[], $7::float8[], $8::bool[], $9::bool[], $10::text[], $11::text[])
		AS u (op, size, message_id, n, token, state, delay, in_doubt, delayed, last_text, outcome)
), held AS (
	SELECT w.op, w.size FROM want w JOIN deliveries d ON d.message_id = w.message_id AND d.n = w.n
	WHERE w.size > 1 AND d.token = w.token AND d.node <> ''
	FOR UPDATE OF d
), whole AS (
	SELECT op FROM held GROUP BY op, size HAVING count(*) = size
), done AS (
	UPDATE deliveries d
	SET state = w.state, due_at = least(now() + w.delay * interval '1 second', d.expires_at), node = '', unsettled = 0,
		settled_at = CASE WHEN w.state <> 'deferred' THEN now() END,
		in_doubt = d.in_doubt OR w.in_doubt, doubt_way = CASE WHEN w.in_doubt AND d.doubt_way <> 'xmpp' THEN d.way ELSE d.doubt_way END,
		delayed = d.delayed OR w.delayed, last_text = w.last_text,
		ended_at = CASE WHEN d.unsettled > 0 THEN now() ELSE d.ended_at END,
		outcome = CASE WHEN d.unsettled > 0 THEN w.outcome ELSE d.outcome END
	FROM want w
	WHERE d.message_id = w.message_id AND d.n = w.n AND d.token = w.token AND d.node <> ''
		AND (w.size = 1 OR w.op IN (SELECT op FROM whole))
	RETURNING w.op, d.message_id, d.state <> 'deferred' AS closed
), finished AS (
	UPDATE messages m
	SET open = m.open - c.closed,
		body = CASE WHEN m.open > c.closed OR m.dropped_at IS NOT NULL THEN m.body END,
		finished_at = CASE WHEN m.open <= c.closed THEN now() END
	FROM (SELECT message_id, count(*) AS closed FROM done WHERE closed GROUP BY message_id) c
	WHERE m.id = c.message_id
	RETURNING m.content_id, m.finished_at, m.dropped_at
), gone AS (
	DELETE FROM content c USING finished f WHERE f.finished_at IS NOT NULL AND f.dropped_at IS NULL AND c.content_id = f.content_id
)
SELECT DISTINCT op FROM done`

// queueSettlements adds the settlements to a transaction; those whose lease is
// lost get their error.
func queueSettlements(b *pgx.Batch, ops []*op) {
	if len(ops) == 0 {
		return
	}
	var a struct {
		op, size, n                  []int32
		id, state, lastText, outcome []string
		token                        []int64
		delay                        []float64
		inDoubt, delayed             []bool
	}
	for i, o := range ops {
		l := o.settle.Lease
		for j, d := range l.Deliveries {
			r := o.settle.Results[j]
			outcome, text := storedOutcome(r.State, r.Outcome)
			delay := 0.0
			if r.State == store.Deferred {
				delay = seconds(r.Delay)
			}
			a.op, a.size, a.n = append(a.op, int32(i)), append(a.size, int32(len(l.Deliveries))), append(a.n, int32(d.N))
			a.id, a.token, a.state = append(a.id, string(l.ID)), append(a.token, d.Token), append(a.state, string(r.State))
			a.delay, a.inDoubt, a.delayed = append(a.delay, delay), append(a.inDoubt, r.InDoubt), append(a.delayed, r.Delayed)
			a.lastText, a.outcome = append(a.lastText, text), append(a.outcome, outcome)
		}
	}
	b.Queue(settleGroup, a.op, a.size, a.id, a.n, a.token, a.state, a.delay, a.inDoubt, a.delayed, a.lastText, a.outcome).Query(loseOthers(ops))
}

// loseOthers gives ErrLeaseLost to the ops that the result does not name.
func loseOthers(ops []*op) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		done, err := pgx.CollectRows(rows, pgx.RowTo[int32])
		for _, o := range ops {
			o.err = store.ErrLeaseLost
		}
		for _, i := range done {
			ops[i].err = nil
		}
		return err
	}
}

package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// claimGroups leases groups of due deliveries. The first of a group's due
// deliveries stands for it: who has locked that one has the group, so that two
// nodes never share a group between them. An attempt that the row still holds
// moves to the attempts of the past; one without an end was cut short, and may
// have delivered. Only the first condition on the state is written as the index
// of open deliveries has it: the others are to go by the message, however many
// deliveries are due.
const claimGroups = `
WITH pick AS (
	SELECT d.message_id, d.domain, d.due_at FROM deliveries d
	WHERE d.state IN ('due', 'deferred', 'leased') AND d.due_at <= now() AND d.domain <> ALL ($4::text[])
		AND NOT EXISTS (
			SELECT FROM deliveries e
			WHERE e.message_id = d.message_id AND e.n < d.n AND e.domain = d.domain
				AND e.state NOT IN ('delivered', 'bounced', 'expired', 'dropped') AND e.due_at <= now())
	ORDER BY d.due_at
	LIMIT $1
	FOR UPDATE OF d SKIP LOCKED
), was AS (
	SELECT d.message_id, d.n, d.attempt, d.way, d.began_at, d.ended_at, d.outcome, p.due_at FROM pick p
	JOIN deliveries d ON d.message_id = p.message_id AND d.domain = p.domain
	WHERE d.state NOT IN ('delivered', 'bounced', 'expired', 'dropped') AND d.due_at <= now()
	FOR UPDATE OF d SKIP LOCKED
), past AS (
	INSERT INTO attempts (message_id, n, number, way, began_at, ended_at, outcome)
	SELECT message_id, n, attempt, way, began_at, ended_at, outcome FROM was WHERE began_at IS NOT NULL
	ON CONFLICT DO NOTHING
), taken AS (
	UPDATE deliveries d
	SET state = 'leased', due_at = now() + $2 * interval '1 second', node = $3, token = d.token + 1,
		in_doubt = d.in_doubt OR was.began_at IS NOT NULL AND was.ended_at IS NULL,
		doubt_way = CASE WHEN d.doubt_way <> 'xmpp' AND was.began_at IS NOT NULL AND was.ended_at IS NULL THEN was.way ELSE d.doubt_way END,
		way = '', began_at = NULL, ended_at = NULL, outcome = NULL
	FROM was
	WHERE d.message_id = was.message_id AND d.n = was.n
	RETURNING d.*, was.due_at AS was_due
), groups AS (
	SELECT message_id, domain, min(was_due) AS was_due, json_agg(json_build_object(
		'N', n, 'Token', token, 'Attempt', attempt, 'InDoubt', in_doubt, 'DoubtWay', doubt_way, 'Delayed', delayed, 'Expired', expires_at <= now(),
		'Left', (extract(epoch FROM greatest(expires_at - now(), interval '0')) * 1e9)::bigint, 'LastText', last_text) ORDER BY n) AS deliveries
	FROM taken GROUP BY message_id, domain
)
SELECT m.id, m.tid, m.envelope, m.facts, m.size, m.sha256, m.trace, m.origin, g.domain, g.deliveries::text,
	(extract(epoch FROM now() - m.created_at) * 1e9)::bigint
FROM groups g JOIN messages m ON m.id = g.message_id
ORDER BY g.was_due`

// Claim implements store.Store.
func (s *Store) Claim(ctx context.Context, n int, lease time.Duration, busy []string) ([]store.Lease, error) {
	if n <= 0 {
		return nil, nil
	}
	if busy == nil {
		busy = []string{}
	}
	rows, err := s.pool.Query(ctx, claimGroups, n, seconds(lease), s.node, busy)
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", failed(err))
	}
	leases, err := pgx.CollectRows(rows, scanLease)
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", failed(err))
	}
	return leases, nil
}

func scanLease(row pgx.CollectableRow) (store.Lease, error) {
	var (
		l                           store.Lease
		envelope, facts, origin, ds string
		size                        int64
		sum                         []byte
	)
	err := row.Scan(&l.ID, &l.Transfer, &envelope, &facts, &size, &sum, &l.Trace, &origin, &l.Domain, &ds, &l.Age)
	if err == nil {
		l.Facts, err = loadFacts(facts, size, sum)
	}
	for _, part := range []struct {
		stored string
		into   any
	}{{envelope, &l.Envelope}, {origin, &l.Origin}, {ds, &l.Deliveries}} {
		if err == nil {
			err = json.Unmarshal([]byte(part.stored), part.into)
		}
	}
	return l, err
}

func loadFacts(stored string, size int64, sum []byte) (mail.Facts, error) {
	var f storedFacts
	if err := json.Unmarshal([]byte(stored), &f); err != nil {
		return mail.Facts{}, err
	}
	out := mail.Facts{
		Size: size, Received: f.Received, HasID: f.HasID, EightBit: f.EightBit,
		HeaderUTF8: f.HeaderUTF8, Null: f.Null, LongLine: f.LongLine,
	}
	copy(out.SHA256[:], sum)
	return out, nil
}

// NextDue implements store.Store.
func (s *Store) NextDue(ctx context.Context) (wait time.Duration, ok bool, err error) {
	err = s.pool.QueryRow(ctx, `SELECT (extract(epoch FROM due_at - now()) * 1e9)::bigint FROM deliveries
		WHERE state IN ('due', 'deferred', 'leased') ORDER BY due_at LIMIT 1`).Scan(&wait)
	switch err = failed(err); {
	case err == store.ErrNotFound:
		return 0, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("next due delivery: %w", err)
	}
	return max(0, wait), true, nil
}

// releaseBatch bounds what one statement of Release makes due: a peer that was
// away for long may have a very long queue.
const releaseBatch = 5000

// releaseWaiting wakes the other nodes if it made anything due.
func releaseWaiting(domain string) string {
	which := ``
	if domain != "" {
		which = `AND domain = $4`
	}
	return `WITH r AS (
		UPDATE deliveries SET due_at = now()
		WHERE (message_id, n) IN (
			SELECT message_id, n FROM deliveries
			WHERE state IN ('due', 'deferred') ` + which + ` AND due_at > now()
			LIMIT $3 FOR UPDATE SKIP LOCKED)
		RETURNING 1
	), c AS (
		SELECT count(*) AS n FROM r
	)
	SELECT n, CASE WHEN n > 0 THEN pg_notify($1, $2) END FROM c`
}

// Release implements store.Store.
func (s *Store) Release(ctx context.Context, domain string) (int, error) {
	args := []any{s.channel(), s.node, releaseBatch}
	if domain != "" {
		args = append(args, domain)
	}
	total := 0
	for {
		released := 0
		err := s.sendUnflushed(ctx, func(b *pgx.Batch) {
			b.Queue(releaseWaiting(domain), args...).QueryRow(func(row pgx.Row) error { return row.Scan(&released, nil) })
		})
		if err != nil {
			return total, fmt.Errorf("release deliveries: %w", failed(err))
		}
		if total += released; released > 0 {
			s.wakeSelf()
		}
		if released < releaseBatch {
			return total, nil
		}
	}
}

// releaseOwn frees what an earlier process of this node's name held. A
// delivery whose attempts are cut short again and again waits longer each
// time, so that a crash loop of ours cannot hammer a peer.
func (s *Store) releaseOwn(ctx context.Context) error {
	tag, err := s.pool.Exec(ctx, `
		UPDATE deliveries
		SET state = CASE WHEN attempt > 0 THEN 'deferred' ELSE 'due' END, node = '',
			in_doubt = in_doubt OR began_at IS NOT NULL AND ended_at IS NULL,
			doubt_way = CASE WHEN doubt_way <> 'xmpp' AND began_at IS NOT NULL AND ended_at IS NULL THEN way ELSE doubt_way END,
			due_at = least(expires_at, now() + CASE WHEN unsettled < 2 THEN 0 ELSE least(300, 2 ^ least(unsettled, 10)) END * interval '1 second')
		WHERE state = 'leased' AND node = $1`, s.node)
	if err == nil && tag.RowsAffected() > 0 {
		s.log.Info("leases of an ended process released", "deliveries", tag.RowsAffected())
	}
	return err
}

package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Claiming goes by time first, through a window of the deliveries that have
// been due for longest. Where busy destinations fill the window it goes by
// destinations: see claimBeyond. A row that stands for its group (the first of
// its due ones) is locked: who has locked that one has the group, so that two
// nodes never share a group between them.
const minWindow = 64

// nextHops are those that waiting mail was redirected to, each found by one step in
// the index; the last is NULL.
const nextHops = `WITH RECURSIVE hops AS (
		(SELECT next FROM deliveries WHERE state IN ('due', 'deferred') AND next <> '' ORDER BY next LIMIT 1)
		UNION ALL
		SELECT (SELECT d.next FROM deliveries d WHERE d.state IN ('due', 'deferred') AND d.next <> '' AND d.next > h.next ORDER BY d.next LIMIT 1)
		FROM hops h WHERE h.next IS NOT NULL
	)`

// The window: leases that ran out, deliveries by their recipient's domain, and
// those that were redirected, for each of the few next hops: the backlog of one
// that is busy is passed in one step. Each part is read from a partial index of its
// own, for which its order is.
const dueInWindow = `
	(SELECT message_id, domain, next, due_at FROM deliveries WHERE state = 'leased' AND due_at <= now() ORDER BY due_at LIMIT $5)
	UNION ALL
	SELECT * FROM (SELECT message_id, domain, next, due_at FROM deliveries
		WHERE state IN ('due', 'deferred') AND due_at <= now() ORDER BY due_at LIMIT $5) AS w WHERE next = ''
	UNION ALL
	(` + nextHops + `
	SELECT x.* FROM hops h, LATERAL (
		SELECT message_id, domain, next, due_at FROM deliveries
		WHERE state IN ('due', 'deferred') AND next <> '' AND next >= h.next AND next <= h.next AND due_at <= now()
		ORDER BY next, due_at LIMIT $5) AS x
	WHERE '>' || h.next <> ALL ($4::text[]))`

// The other way: what has been due for longest to each of some domains. Each
// is asked for as a range: of one domain the planner would see that its order
// is by time alone, and walk over everybody's backlog to find it.
const dueByDomain = `
	SELECT x.* FROM unnest($7::text[]) AS w (domain), LATERAL (
		SELECT message_id, domain, next, due_at FROM deliveries
		WHERE state IN ('due', 'deferred') AND domain >= w.domain AND domain <= w.domain AND due_at <= now() AND next = ''
		ORDER BY domain, due_at LIMIT $5) AS x`

// claimOf leases groups of what front finds.
func claimOf(front string) string {
	return `
WITH front AS (` + front + `
), found AS (
	SELECT message_id, domain, next, min(due_at) AS due_at FROM front
	WHERE CASE WHEN next = '' THEN domain ELSE '>' || next END <> ALL ($4::text[])
	GROUP BY message_id, domain, next
), placed AS (
	SELECT f.*, row_number() OVER (PARTITION BY CASE WHEN next = '' THEN domain ELSE '>' || next END ORDER BY due_at, message_id) AS place,
		(SELECT min(e.n) FROM deliveries e WHERE e.message_id = f.message_id AND e.domain = f.domain AND e.next = f.next
			AND e.state NOT IN ` + closed + ` AND e.state <> 'held' AND e.due_at <= now()) AS first
	FROM found f
), pick AS (
	SELECT d.message_id, d.domain, d.next, d.due_at FROM placed p JOIN deliveries d ON d.message_id = p.message_id AND d.n = p.first
	WHERE p.place <= $6 AND d.state NOT IN ` + closed + ` AND d.state <> 'held' AND d.due_at <= now()
	ORDER BY p.due_at
	LIMIT $1
	FOR UPDATE OF d SKIP LOCKED
), was AS (
	SELECT d.*, p.due_at AS was_due FROM pick p
	JOIN deliveries d ON d.message_id = p.message_id AND d.domain = p.domain AND d.next = p.next
	WHERE d.state NOT IN ` + closed + ` AND d.state <> 'held' AND d.due_at <= now()
	FOR UPDATE OF d SKIP LOCKED
), ` + leaseThem
}

// closed are the states that no claim ends. Written as here a condition does
// not fit the indexes of waiting deliveries: it is to go by the message,
// however many deliveries are due.
const closed = `('delivered', 'bounced', 'expired', 'dropped')`

// leaseThem leases the deliveries in was to $3 for $2 seconds. An attempt that
// the row still holds moves to the attempts of the past; one without an end
// was cut short, and may have delivered.
const leaseThem = `past AS (
	INSERT INTO attempts (message_id, n, number, way, began_at, ended_at, outcome)
	SELECT message_id, n, attempt, way, began_at, ended_at, outcome FROM was WHERE began_at IS NOT NULL
	ON CONFLICT DO NOTHING
), taken AS (
	UPDATE deliveries d
	SET state = 'leased', due_at = now() + $2 * interval '1 second', node = $3, token = d.token + 1,
		expires_at = CASE WHEN d.parked_at IS NULL THEN d.expires_at ELSE d.expires_at + (now() - d.parked_at) END, parked_at = NULL,
		in_doubt = d.in_doubt OR was.began_at IS NOT NULL AND was.ended_at IS NULL,
		doubt_way = CASE WHEN d.doubt_way <> 'xmpp' AND was.began_at IS NOT NULL AND was.ended_at IS NULL THEN was.way ELSE d.doubt_way END,
		way = '', began_at = NULL, ended_at = NULL, outcome = NULL
	FROM was
	WHERE d.message_id = was.message_id AND d.n = was.n
	RETURNING d.*, was.was_due
), groups AS (
	SELECT message_id, domain, next, min(was_due) AS was_due, json_agg(json_build_object(
		'N', n, 'Token', token, 'Attempt', attempt, 'InDoubt', in_doubt, 'DoubtWay', doubt_way, 'Delayed', delayed, 'Expired', expires_at <= now(),
		'Left', (extract(epoch FROM greatest(expires_at - now(), interval '0')) * 1e9)::bigint, 'LastText', last_text) ORDER BY n) AS deliveries
	FROM taken GROUP BY message_id, domain, next
)
SELECT m.id, m.tid, m.envelope, m.facts, m.size, m.sha256, m.trace, m.origin, g.domain, g.next, g.deliveries::text,
	(extract(epoch FROM now() - m.created_at) * 1e9)::bigint
FROM groups g JOIN messages m ON m.id = g.message_id
ORDER BY g.was_due`

// Claim implements store.Store.
func (s *Store) Claim(ctx context.Context, n int, lease time.Duration, busy []string, perDest int) ([]store.Lease, error) {
	if n <= 0 {
		return nil, nil
	}
	if busy == nil {
		busy = []string{}
	}
	if perDest <= 0 {
		perDest = n
	}
	c := claim{s: s, n: n, lease: lease, busy: busy, perDest: perDest, window: max(minWindow, 4*n)}
	faults.Point("store.claim.before-commit")
	if err := c.byTime(ctx); err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", failed(err))
	}
	faults.Point("store.claim.after-commit")
	return c.leases, nil
}

// claim is a Claim in work.
type claim struct {
	s          *Store
	n, perDest int
	window     int
	lease      time.Duration
	busy       []string
	leases     []store.Lease
}

func (c *claim) byTime(ctx context.Context) error {
	rows, err := c.s.pool.Query(ctx, claimOf(dueInWindow), c.n, seconds(c.lease), c.s.node, c.busy, c.window, c.perDest)
	if err != nil {
		return err
	}
	if err = c.take(ctx, rows); err != nil || len(c.leases) >= c.n || len(c.busy) == 0 {
		return err
	}
	return c.beyond(ctx)
}

// take adds what a claim returns.
func (c *claim) take(ctx context.Context, rows pgx.Rows) error {
	leases, aside, err := collectLeases(rows)
	c.leases = append(c.leases, leases...)
	c.s.putAside(ctx, aside)
	return err
}

package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

// releaseBatch bounds what one statement of Release makes due: a peer that was
// away for long may have a very long queue.
const releaseBatch = 5000

// releaseWaiting wakes the other nodes if it made anything due.
func releaseWaiting(which, order string) string {
	return `WITH r AS (
		UPDATE deliveries SET due_at = now()
		WHERE (message_id, n) IN (
			SELECT message_id, n FROM deliveries
			WHERE state IN ('due', 'deferred') AND due_at > now() ` + which + `
			ORDER BY ` + order + ` LIMIT $3 FOR UPDATE SKIP LOCKED)
		RETURNING 1
	), c AS (
		SELECT count(*) AS n FROM r
	)
	SELECT n, CASE WHEN n > 0 THEN pg_notify($1, $2) END FROM c`
}

// Release implements store.Store.
func (s *Store) Release(ctx context.Context, destination string) (int, error) {
	args := []any{s.channel(), s.node, releaseBatch}
	which, order := ``, `due_at` // the order is that of the index to use, see dueByDomain
	if next, ok := store.Redirected(destination); ok {
		which, order, args = `AND next >= $4 AND next <= $4 AND next <> ''`, `next, due_at`, append(args, next)
	} else if destination != "" {
		which, order, args = `AND domain >= $4 AND domain <= $4 AND next = ''`, `domain, due_at`, append(args, destination)
	}
	total := 0
	for {
		released := 0
		err := s.sendUnflushed(ctx, func(b *pgx.Batch) {
			b.Queue(releaseWaiting(which, order), args...).QueryRow(func(row pgx.Row) error { return row.Scan(&released, nil) })
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
		SET state = CASE WHEN attempt > 0 THEN 'deferred' ELSE 'due' END, node = '', `+cutShort+`,
			due_at = least(expires_at, now() + CASE WHEN unsettled < 2 THEN 0 ELSE least(300, 2 ^ least(unsettled, 10)) END * interval '1 second')
		WHERE state = 'leased' AND node = $1`, s.node)
	if err == nil && tag.RowsAffected() > 0 {
		s.log.Info("leases of an ended process released", "deliveries", tag.RowsAffected())
	}
	return err
}

// cutShort puts the doubt that a running attempt leaves into a delivery that
// loses its lease.
const cutShort = `in_doubt = in_doubt OR began_at IS NOT NULL AND ended_at IS NULL,
			doubt_way = CASE WHEN doubt_way <> 'xmpp' AND began_at IS NOT NULL AND ended_at IS NULL THEN way ELSE doubt_way END`

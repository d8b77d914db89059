package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

// releaseBatch bounds what one statement of Release makes due: a peer that was
// away for long may have a very long queue.
const releaseBatch = 5000

// releaseWaiting wakes the other nodes if it made anything due. It goes on from
// where the batch before ended: what that has made due still has its entries
// in the index, which each batch would have to pass again.
//
// Measured on 200,000 deliveries, each takes 19 us of the server's processor
// and 700 octets of its log, nearly all of it for the new version of the row
// and its entries in three indexes. Going by ctid instead of the key, in the
// order of the table or in larger batches changed that by a tenth at most.
func releaseWaiting(which, order string) string {
	return `WITH w AS (
		SELECT message_id, n, due_at FROM deliveries
		WHERE state IN ('due', 'deferred') AND due_at > now() AND due_at >= $4 ` + which + `
		ORDER BY ` + order + ` LIMIT $3 FOR UPDATE SKIP LOCKED
	), r AS (
		UPDATE deliveries d SET due_at = now() FROM w WHERE d.message_id = w.message_id AND d.n = w.n
	), c AS (
		SELECT count(*) AS n, max(due_at) AS last FROM w
	)
	SELECT n, last, CASE WHEN n > 0 THEN pg_notify($1, $2) END FROM c`
}

// Release implements store.Store.
func (s *Store) Release(ctx context.Context, destination string) (int, error) {
	which, order, args := ``, `due_at`, []any(nil) // the order is that of the index to use, see dueByDomain
	if next, ok := store.Redirected(destination); ok {
		which, order, args = `AND next >= $5 AND next <= $5 AND next <> ''`, `next, due_at`, []any{next}
	} else if destination != "" {
		which, order, args = `AND domain >= $5 AND domain <= $5 AND next = ''`, `domain, due_at`, []any{destination}
	}
	total, last := 0, time.Time{}
	for {
		released := 0
		var until *time.Time
		err := s.sendUnflushed(ctx, func(b *pgx.Batch) {
			b.Queue(releaseWaiting(which, order), append([]any{s.channel(), s.released(destination), releaseBatch, last}, args...)...).
				QueryRow(func(row pgx.Row) error { return row.Scan(&released, &until, nil) })
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
		last = *until
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

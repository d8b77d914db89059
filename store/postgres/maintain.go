package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// maintainBatch bounds what one call removes of each kind.
const maintainBatch = 1000

// removals are the steps of Maintain: each removes at most $1 of what has not
// been touched for $2 seconds. Locked rows are in use, or another node's to
// remove.
func removals(r store.Retention) []struct {
	what, sql string
	age       float64
} {
	return []struct {
		what, sql string
		age       float64
	}{
		{"acceptances", `
			DELETE FROM acceptances WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM acceptances WHERE accepted_at < now() - $2 * interval '1 second'
				ORDER BY accepted_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, seconds(r.Acceptances)},
		{"open transfers", `
			WITH t AS (
				DELETE FROM transfers WHERE ctid = ANY (ARRAY(
					SELECT ctid FROM transfers WHERE touched_at < now() - $2 * interval '1 second' LIMIT $1 FOR UPDATE SKIP LOCKED))
				RETURNING content_id
			), c AS (
				DELETE FROM content c USING t WHERE c.content_id = t.content_id
			)
			SELECT FROM t`, seconds(r.Transfers)},
		{"unfinished content", `
			WITH u AS (
				DELETE FROM uploads WHERE ctid = ANY (ARRAY(
					SELECT ctid FROM uploads WHERE touched_at < now() - $2 * interval '1 second' LIMIT $1 FOR UPDATE SKIP LOCKED))
				RETURNING content_id
			), c AS (
				DELETE FROM content c USING u WHERE c.content_id = u.content_id
			)
			SELECT FROM u`, seconds(r.Transfers)},
		{"content of dropped messages", `
			WITH m AS (
				UPDATE messages SET dropped_at = NULL, body = CASE WHEN finished_at IS NULL THEN body END
				WHERE id = ANY (ARRAY(
					SELECT id FROM messages WHERE dropped_at < now() - $2 * interval '1 second'
					ORDER BY dropped_at LIMIT $1 FOR UPDATE SKIP LOCKED))
				RETURNING content_id, finished_at
			), c AS (
				DELETE FROM content c USING m WHERE m.finished_at IS NOT NULL AND c.content_id = m.content_id
			)
			SELECT FROM m`, seconds(r.Dropped)},
		{"finished messages", `
			WITH m AS (
				DELETE FROM messages WHERE id = ANY (ARRAY(
					SELECT id FROM messages WHERE finished_at < now() - $2 * interval '1 second' AND dropped_at IS NULL
					ORDER BY finished_at LIMIT $1 FOR UPDATE SKIP LOCKED))
				RETURNING id
			), d AS (
				DELETE FROM deliveries d USING m WHERE d.message_id = m.id
			), a AS (
				DELETE FROM attempts a USING m WHERE a.message_id = m.id
			), e AS (
				DELETE FROM events e USING m WHERE e.message_id = m.id
			)
			SELECT FROM m`, seconds(r.Traces)},
		{"expired policies", `
			DELETE FROM policies WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM policies WHERE expires_at <= now() - $2 * interval '1 second'
				ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, 0},
		{"expired grants", `
			DELETE FROM grants WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM grants WHERE expires_at <= now() - $2 * interval '1 second'
				ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, 0},
		{"tls results", `
			DELETE FROM tls_results WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM tls_results WHERE day < to_char((now() - $2 * interval '1 second') AT TIME ZONE 'UTC', 'YYYY-MM-DD')
				LIMIT $1 FOR UPDATE SKIP LOCKED))`, seconds(r.TLSReports)},
		{"tls reports", `
			DELETE FROM tls_reports WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM tls_reports WHERE day < to_char((now() - $2 * interval '1 second') AT TIME ZONE 'UTC', 'YYYY-MM-DD')
				LIMIT $1 FOR UPDATE SKIP LOCKED))`, seconds(r.TLSReports)},
		{"expired return paths", `
			DELETE FROM return_paths WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM return_paths WHERE expires_at <= now() - $2 * interval '1 second'
				ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, 0},
		{"expired uses", `
			DELETE FROM uses WHERE ctid = ANY (ARRAY(
				SELECT ctid FROM uses WHERE expires_at <= now() - $2 * interval '1 second'
				ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))`, 0},
	}
}

// Maintain implements store.Store. What cannot be removed keeps nothing else from
// it, unless the server is gone.
func (s *Store) Maintain(ctx context.Context, r store.Retention) (more bool, err error) {
	for _, step := range removals(r) {
		full, failure := s.remove(ctx, step.sql, step.age)
		if failure != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", step.what, failed(failure)))
		}
		if lost(failure) {
			break
		}
		more = more || full
	}
	return more && err == nil, err
}

// remove runs one of the removals, and reports whether it may have left some. A
// thousand contents may be so long that the server's time for a statement does not
// suffice; it would never suffice for the same ones, so that it is tried with fewer.
func (s *Store) remove(ctx context.Context, sql string, age float64) (full bool, err error) {
	for batch := int64(maintainBatch); ; batch /= 10 {
		faults.Point("store.remove.before-commit")
		tag, err := s.pool.Exec(ctx, sql, batch, age)
		if err != nil && (!tookTooLong(err) || batch < 10) {
			return false, err
		}
		if err == nil {
			faults.Point("store.remove.after-commit")
			return tag.RowsAffected() >= batch, nil
		}
	}
}

// tookTooLong reports whether the server has ended a statement for its time.
func tookTooLong(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "57014" // query_canceled
}

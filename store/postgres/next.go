package postgres

import (
	"context"
	"fmt"
	"time"
)

// nextWindow is how many entries of each index NextDue looks at.
const nextWindow = 256

// NextDue implements store.Store. Where busy destinations fill a window, its
// end is when to look again.
func (s *Store) NextDue(ctx context.Context, busy []string) (wait time.Duration, ok bool, err error) {
	if busy == nil {
		busy = []string{}
	}
	const window = `SELECT due_at, CASE WHEN next = '' THEN domain ELSE '>' || next END <> ALL ($1::text[]) AS free FROM deliveries WHERE `
	var next *time.Duration
	err = s.pool.QueryRow(ctx, `
		WITH leased AS (
			`+window+`state = 'leased' ORDER BY due_at LIMIT $2
		), due AS (
			`+window+`state IN ('due', 'deferred') AND due_at <= now() ORDER BY due_at LIMIT $2
		), later AS (
			`+window+`state IN ('due', 'deferred') AND due_at > now() ORDER BY due_at LIMIT $2
		), redirected AS (
			`+nextHops+`
			SELECT (SELECT d.due_at FROM deliveries d WHERE d.state IN ('due', 'deferred') AND d.next <> '' AND d.next >= h.next AND d.next <= h.next
				ORDER BY d.next, d.due_at LIMIT 1) AS due_at FROM hops h WHERE '>' || h.next <> ALL ($1::text[])
		), ends AS (
			SELECT min(due_at) FILTER (WHERE free) AS at FROM leased UNION ALL
			SELECT max(due_at) FROM leased HAVING count(*) = $2 UNION ALL
			SELECT min(due_at) FILTER (WHERE free) FROM due UNION ALL
			SELECT min(due_at) FILTER (WHERE free) FROM later UNION ALL
			SELECT max(due_at) FROM later HAVING count(*) = $2 UNION ALL
			SELECT min(due_at) FROM redirected
		)
		SELECT (extract(epoch FROM min(at) - now()) * 1e9)::bigint FROM ends`, busy, nextWindow).Scan(&next)
	if err != nil {
		return 0, false, fmt.Errorf("next due delivery: %w", failed(err))
	}
	if next == nil {
		return 0, false, nil
	}
	return max(0, *next), true, nil
}

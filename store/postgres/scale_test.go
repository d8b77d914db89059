package postgres

import (
	"testing"
	"time"

	"mailxmppd/store"
)

// TestLongQueue: with a long queue of deferred and of due deliveries, a message
// on its way reads a few index entries, not the queue.
func TestLongQueue(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	name := newSchema()
	node(t, name, "a").Close()
	const each = 20000
	for i, due := range []string{"+ interval '1 hour'", "- interval '1 hour'"} {
		exec(t, name, `WITH m AS (
			INSERT INTO messages SELECT lpad(i::text, 26, '0'), 't', '{"recipients":[{"address":"x@slow.example"}]}', '{}', '{}', '', 10, '', NULL, NULL, 1, now(), NULL
			FROM generate_series($1::int + 1, $1 + $2) i RETURNING id)
			INSERT INTO deliveries SELECT id, 0, 'x@slow.example', 'slow.example', 'deferred', now() `+due+`, now() + interval '5 days', '', 1, 1, 0,
				false, false, 'no', now(), now(), '{}' FROM m`, i*each, each)
	}

	// Counts reach the statistics when a connection ends.
	read := func() int {
		return count(t, name, `SELECT coalesce(sum(idx_tup_read), 0)::int FROM pg_stat_user_indexes WHERE schemaname = $1`, name)
	}
	updates := func() int {
		return count(t, name, `SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'deliveries'`, name)
	}
	run := func(messages int) int {
		s := node(t, name, "a")
		before, written := read(), updates()
		for range messages {
			if _, err := s.PutMessage(ctx, newMessage(t, 100, "romeo@montague.example")); err != nil {
				t.Fatal(err)
			}
			leases, err := s.Claim(ctx, 10, time.Hour, []string{"montague.example"}, 0)
			if err != nil || len(leases) != 10 {
				t.Fatalf("%d leases, %v", len(leases), err)
			}
			if lost, err := s.Renew(ctx, leases, time.Hour); err != nil || len(lost) != 0 {
				t.Fatal(lost, err)
			}
			for _, l := range leases {
				l, err := s.BeginAttempt(ctx, l, store.WayXMPP)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Settle(ctx, results(l, store.Result{State: store.Delivered})); err != nil {
					t.Fatal(err)
				}
			}
			if _, _, err := s.NextDue(ctx, nil); err != nil {
				t.Fatal(err)
			}
		}
		s.Close()
		waitFor(t, "the statistics", func() bool { return updates() >= written+40*messages })
		return read() - before
	}
	opening := run(0)
	const messages = 5
	if n := run(messages) - opening; n > 1000*messages {
		t.Errorf("%d index entries read for %d messages and %d claimed deliveries, in a queue of %d", n, messages, 10*messages, 2*each)
	} else {
		t.Logf("%d index entries read for %d messages and %d claimed deliveries", n, messages, 10*messages)
	}
}

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

// TestLongRedirected: with much mail redirected to a next hop that is busy, a claim
// passes it in a step.
func TestLongRedirected(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	name := newSchema()
	node(t, name, "a").Close()
	const waiting, claims = 20000, 5
	exec(t, name, `WITH m AS (
		INSERT INTO messages SELECT lpad(i::text, 26, '0'), 't', '{"recipients":[{"address":"x@slow.example"}]}', '{}', '{}', '', 10, '', NULL, NULL, 1, now(), NULL
		FROM generate_series(1, $1::int) i RETURNING id)
		INSERT INTO deliveries (message_id, n, rcpt, domain, state, due_at, expires_at, node, token, attempt, unsettled, in_doubt, delayed, last_text, next)
		SELECT id, 0, 'x@slow.example', 'slow.example', 'deferred', now() - interval '1 hour', now() + interval '5 days', '', 1, 1, 0, false, false, 'no',
			CASE WHEN id > lpad($2::int::text, 26, '0') THEN 'smtp://z.example:25' ELSE 'smtp://m.example:25' END FROM m`, waiting, waiting-claims)
	read := func() int {
		return count(t, name, `SELECT coalesce(sum(idx_tup_read), 0)::int FROM pg_stat_user_indexes WHERE schemaname = $1`, name)
	}
	s := node(t, name, "a")
	before := read()
	busy := []string{store.Destination("", "smtp://m.example:25")}
	for range claims {
		if wait, ok, err := s.NextDue(ctx, busy); wait != 0 || !ok || err != nil {
			t.Fatalf("next due in %v, %v, %v", wait, ok, err)
		}
		leases, err := s.Claim(ctx, 1, time.Hour, busy, 0)
		if err != nil || len(leases) != 1 || leases[0].Next != "smtp://z.example:25" {
			t.Fatalf("%d leases, %v", len(leases), err)
		}
	}
	s.Close()
	waitFor(t, "the statistics", func() bool {
		return count(t, name, `SELECT n_tup_upd FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'deliveries'`, name) >= claims
	})
	if n := read() - before; n > 2000*claims {
		t.Errorf("%d index entries read for %d claims beside %d redirected deliveries", n, claims, waiting)
	} else {
		t.Logf("%d index entries read for %d claims", n, claims)
	}
}

package postgres

import (
	"os"
	"testing"
	"time"

	"mailxmppd/store"
)

// fill puts deferred deliveries into a schema: to each of domains as many as
// messages holds for it, a tenth of them due; and a backlog of overdue ones to
// one dead domain.
func fill(t *testing.T, name string, messages, domains, dead int) {
	t.Helper()
	exec(t, name, `WITH m AS (
		INSERT INTO messages (id, tid, envelope, origin, facts, trace, size, sha256, open, created_at)
		SELECT lpad(i::text, 26, '0'), 't', '{"sender":"juliet@capulet.example","recipients":[{"address":"x@d.example"}]}', '{}', '{}', '', 10, '', 1, now() - i % 3000 * interval '1 minute'
		FROM generate_series(1, $1::int) i RETURNING id, created_at)
		INSERT INTO deliveries (message_id, n, rcpt, domain, state, due_at, expires_at, node, token, attempt, unsettled, in_doubt, delayed,
			last_text, began_at, ended_at, outcome, created_at)
		SELECT id, 0, 'x@d' || id::int % $2 || '.example', CASE WHEN id::int <= $3 THEN 'dead.example' ELSE 'd' || id::int % $2 || '.example' END,
			'deferred', now() + CASE WHEN id::int <= $3 THEN interval '-2 hours' WHEN id::int % 10 = 0 THEN interval '-1 minute' ELSE id::int % 240 * interval '1 minute' + interval '1 minute' END,
			now() + interval '5 days', '', 1, 1, 0, false, false, '4.4.1 no answer', now(), now(), '{}', created_at FROM m`, messages, domains, dead)
	exec(t, name, `ANALYZE deliveries`)
}

// TestDeadBacklog: what a claim reads does not grow with what waits for a
// destination that is left out.
func TestDeadBacklog(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	read := func(dead int) int {
		name := newSchema()
		node(t, name, "a").Close()
		fill(t, name, dead+2000, 40, dead)
		reads := func() int {
			return count(t, name, `SELECT coalesce(sum(idx_tup_read), 0)::int FROM pg_stat_user_indexes WHERE schemaname = $1`, name)
		}
		opened := reads()
		s := node(t, name, "a")
		for range 20 {
			leases, err := s.Claim(ctx, 4, time.Hour, []string{"dead.example", "d1.example"}, 1)
			if err != nil || len(leases) != 4 {
				t.Fatalf("%d leases, %v", len(leases), err)
			}
			for _, l := range leases {
				if l.Domain == "dead.example" || l.Domain == "d1.example" {
					t.Fatalf("claimed %s", l.Domain)
				}
			}
			if _, _, err := s.NextDue(ctx, []string{"dead.example"}); err != nil {
				t.Fatal(err)
			}
		}
		before := count(t, name, `SELECT count(*) FROM deliveries WHERE state = 'leased'`)
		s.Close()
		if before != 80 {
			t.Errorf("%d leased, want 80", before)
		}
		waitFor(t, "the statistics", func() bool { return reads() > opened+80 })
		return reads() - opened
	}
	short, long := read(1000), read(21000)
	t.Logf("%d index entries read with a backlog of 1,000, %d with one of 21,000", short, long)
	if long > 3*short {
		t.Error("claims read the backlog")
	}
}

// TestMillion measures the store's calls in a queue of a million deferred
// deliveries over 10,000 domains, 100,000 more being overdue for a dead one.
func TestMillion(t *testing.T) {
	if os.Getenv("MAILXMPPD_LONG") == "" {
		t.Skip("long form only")
	}
	ctx := t.Context()
	name := newSchema()
	node(t, name, "a").Close()
	began := time.Now()
	fill(t, name, 1_100_000, 10_000, 100_000)
	t.Logf("filled in %v", time.Since(began).Round(time.Second))
	exec(t, name, `VACUUM (ANALYZE) deliveries`)
	began = time.Now()
	s := node(t, name, "a")
	t.Logf("%-34s %v", "open", time.Since(began).Round(time.Millisecond))
	measure := func(what string, times int, do func() (int, error)) {
		t.Helper()
		var longest, sum time.Duration
		n := 0
		for range times {
			began := time.Now()
			got, err := do()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			took := time.Since(began)
			n, longest, sum = got, max(longest, took), sum+took
		}
		t.Logf("%-34s mean %8v  longest %8v  (%d)", what, (sum / time.Duration(times)).Round(10*time.Microsecond), longest.Round(10*time.Microsecond), n)
	}
	claim := func(busy ...string) func() (int, error) {
		return func() (int, error) {
			l, err := s.Claim(ctx, 8, time.Hour, busy, 1)
			return len(l), err
		}
	}
	measure("claim of 8", 50, claim())
	measure("claim of 8, dead domain busy", 50, claim("dead.example"))
	measure("next due, dead domain busy", 50, func() (int, error) {
		_, _, err := s.NextDue(ctx, []string{"dead.example"})
		return 0, err
	})
	measure("put", 50, func() (int, error) {
		_, err := s.PutMessage(ctx, newMessage(t, 1000, "romeo@live.example"))
		return 1, err
	})
	list := func(f store.Filter) func() (int, error) {
		return func() (int, error) {
			e, err := s.List(ctx, f)
			return len(e), err
		}
	}
	measure("list of one domain", 10, list(store.Filter{Domain: "d77.example"}))
	measure("list of the dead domain", 5, list(store.Filter{Domain: "dead.example"}))
	measure("list, first page", 10, list(store.Filter{Limit: 100}))
	measure("list by words that are nowhere", 1, list(store.Filter{Text: "xyz"}))
	measure("totals", 3, func() (int, error) {
		tot, err := s.Totals(ctx, store.Filter{}, 20)
		return tot.All.Deliveries, err
	})
	measure("release of one domain", 10, func() (int, error) { return s.Release(ctx, "d78.example") })
	measure("hold of one domain", 1, func() (int, error) {
		return s.Hold(ctx, store.Selection{Filter: store.Filter{Domain: "d79.example"}})
	})
	measure("release of everything", 1, func() (int, error) { return s.Release(ctx, "") })
	busy := []string{"dead.example"}
	for i := range 1000 {
		busy = append(busy, "d"+string(rune('0'+i%10))+".example")
	}
	measure("claim of 8, all due, 1,001 busy", 50, claim(busy...))
}

package sqlite

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mailxmppd/store"
)

// fill puts deferred deliveries, a tenth of them due, and a backlog of overdue
// ones to a dead domain.
func fill(t *testing.T, s *Store, messages, domains, dead int) {
	t.Helper()
	err := s.writer.do(t.Context(), plain, 0, func(c *conn) error {
		now := s.now()
		for i := range messages {
			num := s.num.Add(1)
			domain, due := fmt.Sprintf("d%d.example", i%domains), now+int64(i%240+1)*60_000
			switch {
			case i < dead:
				domain, due = "dead.example", now-7_200_000
			case i%10 == 0:
				due = now - 60_000
			}
			_, err := c.exec(insertMessage, num, fmt.Sprintf("%026d", num), "t", `{"sender":"juliet@capulet.example","recipients":[{"address":"x@`+domain+`"}]}`, "{}", nil, 10,
				make([]byte, 32), 1, 0, 0, now-int64(i%3000)*60_000, now+5*24*3_600_000)
			if err == nil {
				_, err = c.exec(insertDelivery, deliveryKey(num, 0), domain, "x@"+domain, stateDeferred, due, 1, 1, 0, false, 0,
					now, now, stateDeferred, "4.4.1", "no answer", "", "", "", "", "smtp", "")
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLongQueue measures the store's calls in a long queue: 100,000 deferred
// deliveries over 10,000 domains and as many overdue ones to a dead one. The
// short form shows that they work on it.
func TestLongQueue(t *testing.T) {
	messages, domains, dead, rounds := 3000, 400, 1500, 2
	if os.Getenv("MAILXMPPD_LONG") != "" {
		messages, domains, dead, rounds = 200_000, 10_000, 100_000, 10
	}
	path := filepath.Join(t.TempDir(), "mail.db")
	s := open(t, path)
	fill(t, s, messages, domains, dead)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s = open(t, path)
	defer s.Close()
	t.Logf("%-34s %v", "open", time.Since(began).Round(time.Millisecond))
	ctx := t.Context()
	measure := func(what string, times int, do func() (int, error)) (n int) {
		t.Helper()
		var longest, sum time.Duration
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
		return n
	}
	claim := func(busy ...string) func() (int, error) {
		return func() (int, error) {
			l, err := s.Claim(ctx, 8, time.Hour, busy, 1)
			return len(l), err
		}
	}
	if n := measure("claim of 8", rounds, claim()); n != 8 && n != 1 {
		t.Errorf("claimed %d", n)
	}
	if n := measure("claim of 8, dead domain busy", rounds, claim("dead.example")); n != 8 {
		t.Errorf("claimed %d, want 8", n)
	}
	measure("next due, dead domain busy", rounds, func() (int, error) {
		_, _, err := s.NextDue(ctx, []string{"dead.example"})
		return 0, err
	})
	measure("list of one domain", rounds, func() (int, error) {
		e, err := s.List(ctx, store.Filter{Domain: "d77.example"})
		return len(e), err
	})
	measure("list, first page", rounds, func() (int, error) {
		e, err := s.List(ctx, store.Filter{Limit: 100})
		return len(e), err
	})
	if n := measure("totals", 1, func() (int, error) {
		tot, err := s.Totals(ctx, store.Filter{}, 20)
		return tot.All.Deliveries, err
	}); n != messages {
		t.Errorf("totals of %d deliveries, want %d", n, messages)
	}
	measure("release of one domain", rounds, func() (int, error) { return s.Release(ctx, "d78.example") })
	measure("hold of one domain", 1, func() (int, error) {
		return s.Hold(ctx, store.Selection{Filter: store.Filter{Domain: "d79.example"}})
	})
	measure("release of everything", 1, func() (int, error) { return s.Release(ctx, "") })
}

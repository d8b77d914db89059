package sqlite

import (
	"context"
	"time"

	"mailxmppd/store"
)

// AddTLS implements store.TLSReports.
func (s *Store) AddTLS(ctx context.Context, days []store.TLSDay) error {
	size := 0
	for _, d := range days {
		for _, count := range d.Counts {
			size += len(count.Policy) + len(count.Result)
		}
	}
	return s.writer.do(ctx, plain, size, func(c *conn) error {
		for _, d := range days {
			if err := addTLSDay(c, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func addTLSDay(c *conn, d store.TLSDay) error {
	due := d.Due.UnixMilli()
	if _, err := c.exec("INSERT INTO tls_reports (day, domain, first_due, due) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
		d.Day, d.Domain, due, due); err != nil {
		return err
	}
	for _, count := range d.Counts {
		_, err := c.exec(`INSERT INTO tls_results (day, domain, key, policy, result, sessions) SELECT ?1, ?2, ?3, ?4, ?5, ?6
			WHERE (SELECT count(*) FROM tls_results WHERE day = ?1 AND domain = ?2) < ?7
				OR EXISTS (SELECT 1 FROM tls_results WHERE day = ?1 AND domain = ?2 AND key = ?3)
			ON CONFLICT (day, domain, key) DO UPDATE SET sessions = sessions + excluded.sessions`,
			d.Day, d.Domain, count.Key(), count.Policy, count.Result, count.Sessions, store.MaxTLSCounts)
		if err != nil {
			return err
		}
	}
	return nil
}

// TLSDays implements store.TLSReports.
func (s *Store) TLSDays(ctx context.Context, day, domain string) (days []store.TLSDay, err error) {
	err = s.read(ctx, func(c *conn) error {
		days = nil
		err := c.query("SELECT domain, state, id, token, said FROM tls_reports WHERE day = ? AND (domain = ? OR ? = '') ORDER BY domain",
			[]any{day, domain, domain}, func(r row) error {
				days = append(days, store.TLSDay{
					Day: day, Domain: r.text(0), State: store.TLSState(r.text(1)), ID: r.text(2), Tries: int(r.int(3)), Said: r.text(4),
				})
				return nil
			})
		for i := range days {
			if err == nil {
				days[i].Counts, err = tlsCounts(c, day, days[i].Domain)
			}
		}
		return err
	})
	return days, err
}

func tlsCounts(c *conn, day, domain string) (counts []store.TLSCount, err error) {
	err = c.query("SELECT policy, result, sessions FROM tls_results WHERE day = ? AND domain = ? ORDER BY policy, result",
		[]any{day, domain}, func(r row) error {
			counts = append(counts, store.TLSCount{Policy: r.text(0), Result: r.text(1), Sessions: r.int(2)})
			return nil
		})
	return counts, err
}

// ClaimTLSReport implements store.TLSReports. The claims so far are the token.
func (s *Store) ClaimTLSReport(ctx context.Context, id string, lease time.Duration) (d store.TLSDay, ok bool, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		now := s.now()
		r, err := c.first("SELECT day, domain, token, id, said, first_due FROM tls_reports WHERE due <= ? ORDER BY due LIMIT 1", now)
		if ok = r != nil; err != nil || !ok {
			return err
		}
		d = store.TLSDay{Day: r.text(0), Domain: r.text(1), State: store.TLSWaiting, Token: r.int(2) + 1, ID: r.text(3), Said: r.text(4)}
		d.Tries, d.Waited = int(d.Token), time.Duration(now-r.int(5))*time.Millisecond
		if d.ID == "" {
			d.ID = id
		}
		if _, err = c.exec("UPDATE tls_reports SET due = ?, token = ?, id = ? WHERE day = ? AND domain = ?",
			now+millis(lease), d.Token, d.ID, d.Day, d.Domain); err != nil {
			return err
		}
		d.Counts, err = tlsCounts(c, d.Day, d.Domain)
		return err
	})
	return d, ok && err == nil, err
}

// SettleTLSReport implements store.TLSReports.
func (s *Store) SettleTLSReport(ctx context.Context, d store.TLSDay, state store.TLSState, said string, delay time.Duration) error {
	return s.writer.do(ctx, plain, 0, func(c *conn) error {
		var due any
		if state == store.TLSWaiting {
			due = s.now() + millis(delay)
		}
		n, err := c.exec("UPDATE tls_reports SET due = ?, state = ?, said = ? WHERE day = ? AND domain = ? AND token = ? AND due IS NOT NULL",
			due, string(state), said, d.Day, d.Domain, d.Token)
		if err == nil && n == 0 {
			return store.ErrLeaseLost
		}
		return err
	})
}

// expireTLS removes whole days.
func (s *Store) expireTLS(ctx context.Context, before int64) (more bool, err error) {
	day := time.UnixMilli(before).UTC().Format(time.DateOnly)
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		more = false
		for _, del := range []string{
			"DELETE FROM tls_results WHERE (day, domain, key) IN (SELECT day, domain, key FROM tls_results WHERE day < ? LIMIT ?)",
			"DELETE FROM tls_reports WHERE (day, domain) IN (SELECT day, domain FROM tls_reports WHERE day < ? LIMIT ?)",
		} {
			n, err := c.exec(del, day, maintainStep)
			if err != nil {
				return err
			}
			more = more || n == maintainStep
		}
		return nil
	})
	return more, err
}

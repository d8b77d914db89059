package sqlite

import (
	"context"

	"mailxmppd/store"
)

// maintainStep is how many rows of each kind one call looks at.
const maintainStep = 500

// Maintain implements store.Store.
func (s *Store) Maintain(ctx context.Context, r store.Retention) (more bool, err error) {
	now := s.now()
	for _, step := range []func() (bool, error){
		func() (bool, error) { return s.expireAcceptances(ctx, now-millis(r.Acceptances)) },
		func() (bool, error) { return s.expireTransfers(ctx, now-millis(r.Transfers)) },
		func() (bool, error) { return s.expireDropped(ctx, now-millis(r.Dropped)) },
		func() (bool, error) { return s.expireTraces(ctx, now-millis(r.Traces)) },
		func() (bool, error) { return s.expirePolicies(ctx, now) },
		func() (bool, error) { return s.expireGrants(ctx, now) },
		func() (bool, error) { return s.expireTLS(ctx, now-millis(r.TLSReports)) },
		func() (bool, error) { return s.expireReturnPaths(ctx, now) },
		func() (bool, error) { return s.expireUses(ctx, now) },
		func() (bool, error) { return s.sweepLoose(ctx) },
	} {
		left, err := step()
		if err != nil {
			return false, err
		}
		more = more || left
	}
	return more, nil
}

// expireAcceptances looks at the oldest ones only: their keys are in the order
// of time.
func (s *Store) expireAcceptances(ctx context.Context, before int64) (more bool, err error) {
	err = s.writer.do(ctx, removing, 0, func(c *conn) error {
		n, err := c.exec(`DELETE FROM acceptances WHERE delivery IN
			(SELECT delivery FROM acceptances ORDER BY delivery LIMIT ?) AND at < ?`, maintainStep, before)
		more = n == maintainStep
		return err
	})
	return more, err
}

func (s *Store) expireTransfers(ctx context.Context, before int64) (more bool, err error) {
	err = s.writer.do(ctx, removing, 0, func(c *conn) error {
		var old []store.TransferKey
		err := c.query("SELECT domain, local, tid FROM transfers WHERE touched < ? LIMIT ?", []any{before, maintainStep}, func(r row) error {
			old = append(old, store.TransferKey{Domain: r.text(0), Local: r.text(1), ID: r.text(2)})
			return nil
		})
		if err != nil {
			return err
		}
		for _, k := range old {
			o, err := findOpen(c, k)
			if err != nil {
				return err
			}
			if _, err := o.end(c, k, true); err != nil { // what is left is loose: sweepLoose follows
				return err
			}
		}
		more = len(old) == maintainStep
		return nil
	})
	return more, err
}

// expireDropped gives up the content of messages that were dropped, where
// nothing else of them is open.
func (s *Store) expireDropped(ctx context.Context, before int64) (more bool, err error) {
	err = s.writer.do(ctx, removing, 0, func(c *conn) error {
		var old [][3]int64
		err := c.query("SELECT num, content, size FROM messages WHERE dropped > 0 AND dropped < ? ORDER BY dropped LIMIT ?",
			[]any{before, maintainStep}, func(r row) error {
				old = append(old, [3]int64{r.int(0), r.int(1), r.int(2)})
				return nil
			})
		if err != nil {
			return err
		}
		for _, m := range old {
			if _, err := c.exec("UPDATE messages SET dropped = 0 WHERE num = ?", m[0]); err != nil {
				return err
			}
			if _, err := discardIfDone(c, m[0], m[1], m[2]); err != nil { // what is left is loose: sweepLoose follows
				return err
			}
		}
		more = len(old) == maintainStep
		return nil
	})
	return more, err
}

const oldMessages = `SELECT num, NOT EXISTS
		(SELECT 1 FROM deliveries WHERE key BETWEEN num << 16 AND num << 16 | 65535 AND (due IS NOT NULL OR settled >= ?))
		AND dropped = 0
	FROM messages WHERE num > ? AND created < ? ORDER BY num LIMIT ?`

// expireTraces walks over the messages from the oldest on, a stretch a call,
// and begins anew at the end: no index has to tell when each was finished, and
// the few that are kept although old are passed over.
func (s *Store) expireTraces(ctx context.Context, before int64) (more bool, err error) {
	var at int64
	err = s.writer.do(ctx, removing, 0, func(c *conn) error {
		var old []int64
		at = 0
		looked := 0
		err := c.query(oldMessages, []any{before, s.traces.Load(), before, maintainStep}, func(r row) error {
			looked++
			at = r.int(0)
			if r.bool(1) {
				old = append(old, at)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if more = looked == maintainStep; !more {
			at = 0
		}
		for _, num := range old {
			first, last := deliveryKeys(num)
			if _, err := c.exec("DELETE FROM events WHERE num = ?", num); err != nil {
				return err
			}
			for _, del := range []string{"DELETE FROM attempts WHERE delivery BETWEEN ? AND ?", "DELETE FROM deliveries WHERE key BETWEEN ? AND ?"} {
				if _, err := c.exec(del, first, last); err != nil {
					return err
				}
			}
			if _, err := c.exec("DELETE FROM messages WHERE num = ?", num); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.traces.Store(at)
	}
	return more, err
}

// sweepLoose removes contents that nothing refers to: left by a process that
// died, or by a call that failed.
func (s *Store) sweepLoose(ctx context.Context) (more bool, err error) {
	var loose []int64
	err = s.read(ctx, func(c *conn) error {
		return c.query("SELECT content FROM loose LIMIT ?", []any{maintainStep}, func(r row) error {
			if _, busy := s.staging.Load(r.int(0)); !busy {
				loose = append(loose, r.int(0))
			}
			return nil
		})
	})
	if err != nil {
		return false, err
	}
	for _, content := range loose {
		if !s.sweep(ctx, content) {
			return false, ctx.Err()
		}
	}
	return len(loose) == maintainStep, nil
}

package sqlite

import (
	"context"
	"fmt"
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const (
	verbStep  = 500              // deliveries that one op of a verb changes
	tellEvery = 10 * time.Second // while a verb is under way
)

// verb is what an operator does to deliveries.
type verb struct {
	name   string
	of     []store.State // what it changes
	only   string        // a further condition
	args   []any         // of it
	change func(c *conn, key, now int64) (int64, error)
	closes func(c *conn, num, now int64) error // for each message after that
	detail string
	wakes  bool // makes deliveries due
}

const (
	// What a running attempt leaves behind when its lease is taken away.
	cutShort = `in_doubt = in_doubt OR (began > 0 AND ended = 0),
		doubt_way = CASE WHEN began > 0 AND ended = 0 AND doubt_way <> 'xmpp' THEN way ELSE doubt_way END,
		ended = CASE WHEN began > 0 AND ended = 0 THEN -1 ELSE ended END`
	holdOne = `UPDATE deliveries SET state = 7, due = ?, token = token + 1, parked = ?, ` + cutShort + ` WHERE key = ?`
	// A held one counts as parked since it was held.
	dropOne = `UPDATE deliveries SET state = 6, due = NULL, token = token + 1, parked = CASE WHEN parked > 0 THEN parked ELSE ? END, settled = ?, ` + cutShort + ` WHERE key = ?`
	// Takes a delivery out of where an operator had put it.
	openOne = `UPDATE deliveries SET state = CASE WHEN attempt = 0 THEN 0 ELSE 1 END, due = ?, extra = extra + max(0, ? - parked),
		parked = 0, settled = 0 WHERE key = ?`
	contentThere = `(m.dropped > 0 OR EXISTS (SELECT 1 FROM deliveries e WHERE e.key BETWEEN m.num << 16 AND m.num << 16 | 65535 AND e.due IS NOT NULL))`
)

func reopen(c *conn, key, now int64) (int64, error) { return c.exec(openOne, now, now, key) }

// Retry implements store.Queue.
func (s *Store) Retry(ctx context.Context, sel store.Selection) (int, error) {
	return s.act(ctx, sel, verb{name: "retry", of: []store.State{store.Due, store.Deferred}, wakes: true,
		change: func(c *conn, key, now int64) (int64, error) {
			return c.exec("UPDATE deliveries SET due = min(due, ?) WHERE key = ?", now, key)
		}})
}

// Hold implements store.Queue.
func (s *Store) Hold(ctx context.Context, sel store.Selection) (int, error) {
	return s.act(ctx, sel, verb{name: "hold", of: []store.State{store.Due, store.Deferred, store.Leased},
		change: func(c *conn, key, now int64) (int64, error) { return c.exec(holdOne, neverDue, now, key) }})
}

// Unhold implements store.Queue.
func (s *Store) Unhold(ctx context.Context, sel store.Selection) (int, error) {
	return s.act(ctx, sel, verb{name: "unhold", of: []store.State{store.Held}, wakes: true, change: reopen})
}

// Redirect implements store.Queue.
func (s *Store) Redirect(ctx context.Context, sel store.Selection, next string) (int, error) {
	return s.act(ctx, sel, verb{name: "redirect", of: openStates(), detail: next, wakes: true,
		only: "d.next <> ?", args: []any{next},
		change: func(c *conn, key, _ int64) (int64, error) {
			return c.exec("UPDATE deliveries SET next = ? WHERE key = ?", next, key)
		}})
}

// Drop implements store.Queue.
func (s *Store) Drop(ctx context.Context, sel store.Selection) (int, error) {
	return s.act(ctx, sel, verb{name: "drop", of: openStates(),
		change: func(c *conn, key, now int64) (int64, error) { return c.exec(dropOne, now, now, key) },
		closes: func(c *conn, num, now int64) error {
			_, err := c.exec("UPDATE messages SET dropped = ? WHERE num = ?", now, num)
			return err
		}})
}

// Restore implements store.Queue.
func (s *Store) Restore(ctx context.Context, sel store.Selection) (int, error) {
	n, err := s.act(ctx, sel, verb{name: "restore", of: []store.State{store.Dropped}, only: contentThere, wakes: true, change: reopen,
		closes: func(c *conn, num, _ int64) error {
			first, last := deliveryKeys(num)
			_, err := c.exec(`UPDATE messages SET dropped = 0 WHERE num = ? AND NOT EXISTS
				(SELECT 1 FROM deliveries WHERE key BETWEEN ? AND ? AND state = 6)`, num, first, last)
			return err
		}})
	if err != nil || n > 0 || sel.ID == "" {
		return n, err
	}
	err = s.read(ctx, func(c *conn) error {
		_, first, last, err := findDeliveries(c, sel.ID, sel.N)
		if err != nil {
			return err
		}
		r, err := c.first("SELECT 1 FROM deliveries WHERE key BETWEEN ? AND ? AND state = 6", first, last)
		if err == nil && r != nil {
			err = fmt.Errorf("%w: the content of dropped message %s has been removed", store.ErrNotFound, sel.ID)
		}
		return err
	})
	return 0, err
}

// act runs a verb on a selection.
func (s *Store) act(ctx context.Context, sel store.Selection, v verb) (total int, err error) {
	if v.of, err = narrowed(sel, v.of); err != nil || len(v.of) == 0 {
		return 0, err
	}
	at, told := int64(-1), time.Now()
	for more := true; more; {
		if time.Since(told) > tellEvery {
			told = time.Now()
			s.log.Info("queue verb under way", "verb", v.name, "by", sel.By, "deliveries", total)
		}
		var keys []int64
		err := s.writer.do(ctx, plain, 0, func(c *conn) (err error) {
			if keys, err = chosen(c, sel, v, at, s.now()); err == nil {
				err = s.change(c, sel, v, keys)
			}
			return err
		})
		if err != nil {
			return total, err
		}
		if total += len(keys); len(keys) > 0 && v.wakes {
			s.signal()
		}
		if more = sel.ID == "" && len(keys) == verbStep; more {
			at = keys[len(keys)-1]
		}
	}
	return total, nil
}

// narrowed are the states of a verb that the selection's filter asks for.
func narrowed(sel store.Selection, of []store.State) ([]store.State, error) {
	if sel.ID != "" || len(sel.Filter.States) == 0 {
		return of, nil
	}
	asked, err := statesOf(sel.Filter)
	return slices.DeleteFunc(slices.Clone(of), func(s store.State) bool { return !slices.Contains(asked, s) }), err
}

// chosen finds the next keys of a selection: in their order, so that all steps
// together read the queue once.
func chosen(c *conn, sel store.Selection, v verb, at, now int64) (keys []int64, err error) {
	f, limit := sel.Filter, int64(verbStep)
	if sel.ID != "" {
		f, limit = store.Filter{}, maxRecipients
	}
	w := filtered(f, now)
	w.of(v.of)
	w.and("d.key > ?", at)
	if sel.ID != "" {
		_, first, last, err := findDeliveries(c, sel.ID, sel.N)
		if err != nil {
			return nil, err
		}
		w.and("d.key BETWEEN ? AND ?", first, last)
	}
	if v.only != "" {
		w.and(v.only, v.args...)
	}
	err = c.query("SELECT d.key FROM "+w.from+w.where()+" ORDER BY d.key LIMIT ?", append(w.args, limit), func(r row) error {
		keys = append(keys, r.int(0))
		return nil
	})
	return keys, err
}

// change does the verb, and notes it: once for a message that was named whole.
func (s *Store) change(c *conn, sel store.Selection, v verb, keys []int64) error {
	now := s.now()
	for i, key := range keys {
		if _, err := v.change(c, key, now); err != nil {
			return err
		}
		num, n := key>>16, int(key&(maxRecipients-1))
		lastOf := i == len(keys)-1 || keys[i+1]>>16 != num
		whole := sel.ID != "" && sel.N < 0
		if whole {
			n = -1
		}
		if !whole || lastOf {
			if err := note(c, num, n, now, v.name, sel.By, v.detail); err != nil {
				return err
			}
		}
		if lastOf && v.closes != nil {
			if err := v.closes(c, num, now); err != nil {
				return err
			}
		}
	}
	return nil
}

func note(c *conn, num int64, n int, now int64, verb, by, detail string) error {
	_, err := c.exec(`INSERT INTO events (num, seq, n, at, verb, by, detail)
		VALUES (?, 1 + coalesce((SELECT seq FROM events WHERE num = ? ORDER BY seq DESC LIMIT 1), 0), ?, ?, ?, ?, ?)`, num, num, n, now, verb, by, detail)
	return err
}

// Seize implements store.Queue.
func (s *Store) Seize(ctx context.Context, id mail.ID, n int, by string, lease time.Duration) (leases []store.Lease, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		leases = nil
		m, first, last, err := findDeliveries(c, id, n)
		if err != nil {
			return err
		}
		now := s.now()
		// Due now, which a claim of the message's groups then takes.
		opened, err := c.exec(`UPDATE deliveries SET due = ?, extra = extra + CASE WHEN parked > 0 THEN max(0, ? - parked) ELSE 0 END
			WHERE key BETWEEN ? AND ? AND due IS NOT NULL`, now, now, first, last)
		if err != nil || opened == 0 {
			return err
		}
		var groups []group
		err = c.query("SELECT DISTINCT key >> 16, domain, next FROM deliveries WHERE key BETWEEN ? AND ? AND due IS NOT NULL",
			[]any{first, last}, func(r row) error {
				groups = append(groups, group{r.int(0), r.text(1), r.text(2)})
				return nil
			})
		if err != nil {
			return err
		}
		if leases, err = claimWithin(c, groups, now, now+millis(lease), first, last); err != nil {
			return err
		}
		return note(c, m.int(0), max(n, -1), now, "fail", by, "")
	})
	return leases, err
}

// findDeliveries returns num, content and size of a message, and the range of
// its deliveries, or of the one numbered n if n >= 0.
func findDeliveries(c *conn, id mail.ID, n int) (m row, first, last int64, err error) {
	m, err = c.first("SELECT num, content, size FROM messages WHERE id = ?", string(id))
	if err != nil {
		return nil, 0, 0, err
	}
	if m == nil || n >= maxRecipients {
		return nil, 0, 0, store.ErrNotFound
	}
	first, last = deliveryKeys(m.int(0))
	if n < 0 {
		return m, first, last, nil
	}
	key := deliveryKey(m.int(0), n)
	r, err := c.first("SELECT 1 FROM deliveries WHERE key = ?", key)
	if err == nil && r == nil {
		err = store.ErrNotFound
	}
	return m, key, key, err
}

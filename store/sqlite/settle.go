package sqlite

import (
	"context"
	"fmt"

	"mailxmppd/store"
)

const (
	// Ends a delivery's running attempt.
	settleAttempt = `UPDATE deliveries SET state = ?, due = min(?, max(?, ? + extra)), settled = ?, cut = 0,
		doubt_way = CASE WHEN ? AND doubt_way <> 'xmpp' THEN way ELSE doubt_way END,
		in_doubt = in_doubt OR ?, delayed = delayed OR ?,
		ended = ?, result = ?, status = ?, text = ?, remote = ?, remote_id = ?, proof = ?, tls = ?
		WHERE key = ? AND token = ? AND state = 2 AND began > 0 AND ended = 0`
	// Settles a delivery that no attempt was begun for under this lease, such
	// as one that has expired: the words of the last attempt stay, unless it
	// bounces, which then has a reason of its own. The attempt has gone among
	// the earlier ones before that, to keep its words.
	pushEnded     = pushAttempt + ` AND token = ? AND state = 2`
	settleUntried = `UPDATE deliveries SET state = ?, due = min(?, max(?, ? + extra)), settled = ?, cut = 0,
		in_doubt = in_doubt OR ?, delayed = delayed OR ?, text = CASE WHEN text = '' OR ? THEN ? ELSE text END,
		began = CASE WHEN ? THEN 0 ELSE began END
		WHERE key = ? AND token = ? AND state = 2`
	stillWanted = `SELECT 1 FROM deliveries WHERE key BETWEEN ? AND ? AND due IS NOT NULL UNION ALL
		SELECT 1 FROM messages WHERE num = ? AND dropped > 0 LIMIT 1`
)

// Settle implements store.Store.
func (s *Store) Settle(ctx context.Context, set store.Settlement) error {
	if len(set.Results) != len(set.Lease.Deliveries) {
		return fmt.Errorf("settlement with %d results for %d deliveries", len(set.Results), len(set.Lease.Deliveries))
	}
	drafts := make([]*draft, 0, len(set.DSNs))
	defer func() {
		for _, d := range drafts {
			s.unstage(d)
		}
	}()
	size := 512 * len(set.Results)
	for _, m := range set.DSNs {
		m.Lease = store.Own{} // nobody would be told of the lease
		d, err := s.draft(m)
		if err != nil {
			return err
		}
		if err := s.stage(ctx, d); err != nil {
			return err
		}
		drafts = append(drafts, d)
		size += len(d.inline) + 1024
	}
	kind := settling
	if len(drafts) > 0 {
		kind = reporting
	}
	var left int64
	err := s.writer.do(ctx, kind, size, func(c *conn) (err error) {
		left, err = s.settle(c, set, drafts)
		return err
	})
	if err != nil {
		return err
	}
	if len(drafts) > 0 || waits(set.Results) {
		s.signal()
	}
	s.sweep(ctx, left)
	return nil
}

// waits reports whether a delivery has become due at another time than
// anybody who sleeps until NextDue knows of.
func waits(results []store.Result) bool {
	for _, r := range results {
		if r.State == store.Deferred {
			return true
		}
	}
	return false
}

// settle returns the content that is left to sweep.
func (s *Store) settle(c *conn, set store.Settlement, drafts []*draft) (left int64, err error) {
	m, err := c.first("SELECT num, expires, content, size FROM messages WHERE id = ?", string(set.Lease.ID))
	if err != nil {
		return 0, err
	}
	if m == nil {
		return 0, store.ErrLeaseLost
	}
	num, now, closed := m.int(0), s.now(), false
	for i, r := range set.Results {
		end, err := s.settleOne(c, deliveryKey(num, set.Lease.Deliveries[i].N), set.Lease.Deliveries[i].Token, r, now, m.int(1))
		if err != nil {
			return 0, err
		}
		closed = closed || end
	}
	for _, d := range drafts {
		if _, _, err := s.insert(c, d, nil); err != nil {
			return 0, err
		}
	}
	if !closed {
		return 0, nil
	}
	return discardIfDone(c, num, m.int(2), m.int(3))
}

// settleOne settles one delivery and reports whether that was its end.
func (s *Store) settleOne(c *conn, key, token int64, r store.Result, now, expires int64) (end bool, err error) {
	state, err := stateNumber(r.State)
	if err != nil {
		return false, err
	}
	if state == stateDue || state == stateLeased || state == stateDropped || state == stateHeld {
		return false, fmt.Errorf("settlement that leaves a delivery %s", r.State)
	}
	// A delivery becomes due when it expires at the latest, for its DSN.
	var due any = now + millis(r.Delay)
	var settled int64
	if end = state != stateDeferred; end {
		due, settled = nil, now
	}
	o := recordOf(r.Outcome)
	n, err := c.exec(settleAttempt, state, due, now, expires, settled, r.InDoubt, r.InDoubt, r.Delayed,
		now, state, o.status, o.text, o.remote, o.remoteID, o.proof, o.tls, key, token)
	if err == nil && n == 0 {
		if state == stateBounced {
			if _, err := c.exec(pushEnded, key, token); err != nil {
				return false, err
			}
		}
		n, err = c.exec(settleUntried, state, due, now, expires, settled, r.InDoubt, r.Delayed, state == stateBounced, o.text, state == stateBounced, key, token)
	}
	if err == nil && n == 0 {
		err = store.ErrLeaseLost
	}
	return end, err
}

// discardIfDone removes a message's content when no delivery is open any more,
// nor one was dropped that an operator may want back.
func discardIfDone(c *conn, num, content, size int64) (left int64, err error) {
	first, last := deliveryKeys(num)
	wanted, err := c.first(stillWanted, first, last, num)
	if err != nil || wanted != nil {
		return 0, err
	}
	return discard(c, content, size)
}

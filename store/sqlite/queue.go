package sqlite

import (
	"context"
	"encoding/hex"
	"sort"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const (
	defaultList = 1000
	releaseStep = 1000 // deliveries made due by one op, so that nobody waits long
)

const (
	waitsForDomain = "due > ? AND state <> 2 AND domain = ?"
	waitsForAny    = "due > ? AND state <> 2"
)

// Release implements store.Store.
func (s *Store) Release(ctx context.Context, domain string) (total int, err error) {
	now := s.now()
	where, args := waitsForAny, []any{now, now}
	if domain != "" {
		where, args = waitsForDomain, []any{now, now, domain}
	}
	query := "UPDATE deliveries SET due = ? WHERE key IN (SELECT key FROM deliveries WHERE " + where + " LIMIT ?)"
	args = append(args, releaseStep)
	for n := int64(releaseStep); n == releaseStep; {
		err := s.writer.do(ctx, lazy, 0, func(c *conn) (err error) {
			n, err = c.exec(query, args...)
			return err
		})
		if err != nil {
			return total, err
		}
		total += int(n)
		if n > 0 {
			s.signal()
		}
	}
	return total, nil
}

// Retry implements store.Queue.
func (s *Store) Retry(ctx context.Context, id mail.ID, n int) (count int, err error) {
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		_, first, last, err := findDeliveries(c, id, n)
		if err != nil {
			return err
		}
		changed, err := c.exec("UPDATE deliveries SET due = min(due, ?) WHERE key BETWEEN ? AND ? AND due IS NOT NULL AND state <> 2",
			s.now(), first, last)
		count = int(changed)
		return err
	})
	if err != nil {
		return 0, err
	}
	s.signal()
	return count, nil
}

// Drop implements store.Queue. A running attempt has lost its lease since its
// delivery is leased no more.
func (s *Store) Drop(ctx context.Context, id mail.ID, n int) (count int, err error) {
	var left int64
	err = s.writer.do(ctx, plain, 0, func(c *conn) error {
		m, first, last, err := findDeliveries(c, id, n)
		if err != nil {
			return err
		}
		changed, err := c.exec(`UPDATE deliveries SET state = 6, due = NULL, settled = ?,
			ended = CASE WHEN began > 0 AND ended = 0 THEN -1 ELSE ended END
			WHERE key BETWEEN ? AND ? AND due IS NOT NULL`, s.now(), first, last)
		if err != nil {
			return err
		}
		count, left = int(changed), 0
		if count > 0 {
			left, err = discardIfDone(c, m.int(0), m.int(1), m.int(2))
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	s.sweep(ctx, left)
	return count, nil
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

const entryColumns = `m.id, d.key & 65535, d.state, d.due, m.envelope, d.rcpt, d.domain, m.size, d.attempt, m.created,
	d.in_doubt, d.text, d.key, d.began, d.ended, d.result, d.status, d.remote, d.remote_id, d.proof, d.tls, d.doubt_way, d.way`

// List implements store.Queue.
func (s *Store) List(ctx context.Context, f store.Filter) ([]store.Entry, error) {
	query := "SELECT " + entryColumns + " FROM deliveries d JOIN messages m ON m.num = d.key >> 16 WHERE "
	var args []any
	if f.Closed {
		query += "1"
	} else {
		// By way of the index, however many finished ones there are.
		query += "d.key IN (SELECT key FROM deliveries WHERE due IS NOT NULL)"
	}
	if f.Domain != "" {
		query += " AND d.domain = ?"
		args = append(args, f.Domain)
	}
	limit := f.Limit
	if limit <= 0 {
		limit = defaultList
	}
	query += " ORDER BY d.key DESC LIMIT ?"
	args = append(args, limit)
	var out []store.Entry
	err := s.read(ctx, func(c *conn) error {
		now := s.now()
		return c.query(query, args, func(r row) error {
			e, err := entryOf(r, now)
			out = append(out, e)
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	// Newest message first, but within a message in the order of recipients.
	place := map[mail.ID]int{}
	for i, e := range out {
		if _, ok := place[e.ID]; !ok {
			place[e.ID] = i
		}
	}
	sort.SliceStable(out, func(i, j int) bool {
		a, b := out[i], out[j]
		return place[a.ID] < place[b.ID] || a.ID == b.ID && a.N < b.N
	})
	return out, nil
}

// entryOf reads what an entry has of entryColumns.
func entryOf(r row, now int64) (store.Entry, error) {
	m, err := scanEnvelope(r.text(4))
	if err != nil {
		return store.Entry{}, err
	}
	e := store.Entry{
		ID: mail.ID(r.text(0)), N: int(r.int(1)), State: stateOf(r.int(2)), Sender: m.Sender.String(), Rcpt: r.text(5),
		Domain: r.text(6), Size: r.int(7), Attempts: int(r.int(8)), Age: duration(max(0, now-r.int(9))),
		InDoubt: r.bool(10), Last: r.text(11), DoubtWay: store.Way(r.text(21)),
	}
	e.AgeSecs = int64(e.Age / time.Second)
	if r[3] != nil {
		e.DueSecs = (r.int(3) - now) / 1000
		if e.State == store.Leased && r.int(3) <= now { // the lease has run out: nobody tries it
			e.State = store.Deferred
			if e.Attempts == 0 {
				e.State = store.Due
			}
		}
	}
	return e, nil
}

// Show implements store.Queue.
func (s *Store) Show(ctx context.Context, id mail.ID) (rec store.Record, err error) {
	err = s.snapshot(ctx, func(c *conn) error {
		m, err := findMessage(c, id)
		if err != nil {
			return err
		}
		rec = store.Record{
			ID: m.id, Transfer: m.tid, Envelope: m.envelope, Size: m.facts.Size,
			SHA256: hex.EncodeToString(m.facts.SHA256[:]), Origin: m.origin, Trace: string(m.trace),
		}
		first, last := deliveryKeys(m.num)
		err = c.query(`SELECT delivery & 65535, number, began, ended, result, status, text, remote, remote_id, proof, tls, way
			FROM attempts WHERE delivery BETWEEN ? AND ?`, []any{first, last}, func(r row) error {
			rec.Attempts = append(rec.Attempts, tryOf(r))
			return nil
		})
		if err != nil {
			return err
		}
		now := s.now()
		return c.query("SELECT "+entryColumns+` FROM deliveries d JOIN messages m ON m.num = d.key >> 16
			WHERE d.key BETWEEN ? AND ? ORDER BY d.key`, []any{first, last}, func(r row) error {
			e, err := entryOf(r, now)
			rec.Deliveries = append(rec.Deliveries, e)
			if began := r.int(13); began > 0 {
				rec.Attempts = append(rec.Attempts, tryOf(row{r[1], r[8], r[13], r[14], r[15], r[16], r[11], r[17], r[18], r[19], r[20], r[22]}))
			}
			return err
		})
	})
	sort.SliceStable(rec.Attempts, func(i, j int) bool {
		a, b := rec.Attempts[i], rec.Attempts[j]
		return a.N < b.N || a.N == b.N && a.Number < b.Number
	})
	return rec, err
}

// tryOf reads an attempt. One without an end has no words of its own yet.
func tryOf(r row) store.Try {
	t := store.Try{
		N: int(r.int(0)), Number: int(r.int(1)), Began: time.UnixMilli(r.int(2)).UTC(), Status: r.text(5),
		Remote: r.text(7), RemoteID: r.text(8), Proof: r.text(9), TLS: r.text(10), Way: store.Way(r.text(11)),
	}
	if ended := r.int(3); ended > 0 {
		t.Ended, t.Result, t.Text = time.UnixMilli(ended).UTC(), stateOf(r.int(4)), r.text(6)
	}
	return t
}

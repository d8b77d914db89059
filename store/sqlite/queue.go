package sqlite

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"sort"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const defaultList = 1000

// entryColumns are those that entryOf and Show read.
const entryColumns = `m.id, d.key & 65535, d.state, d.due, m.envelope, d.rcpt, d.domain, m.size, d.attempt, m.created,
	d.in_doubt, d.text, d.key, d.began, d.ended, d.result, d.status, d.remote, d.remote_id, d.proof, d.tls, d.doubt_way, d.way,
	d.next, d.settled`

// List implements store.Queue. Keys are in the order of storing, the newest
// last; those of one message are turned round again.
func (s *Store) List(ctx context.Context, f store.Filter) (out []store.Entry, err error) {
	states, err := statesOf(f)
	if err != nil {
		return nil, err
	}
	w := filtered(f, s.now())
	w.listed(states, f.Domain)
	limit := f.Limit
	if limit <= 0 {
		limit = defaultList
	}
	err = s.snapshot(ctx, func(c *conn) error {
		out = nil
		if f.After != "" {
			if err := w.after(c, f.After, f.AfterN); err != nil {
				return err
			}
		}
		now := s.now()
		var message []store.Entry
		flush := func() {
			slices.Reverse(message)
			out, message = append(out, message...), message[:0]
		}
		err := c.query("SELECT "+entryColumns+" FROM "+w.from+w.where()+" ORDER BY d.key DESC", w.args, func(r row) error {
			e := entryOf(r, now)
			if len(message) > 0 && message[0].ID != e.ID {
				if flush(); len(out) >= limit {
					return errEnough
				}
			}
			message = append(message, e)
			return nil
		})
		flush()
		return err
	})
	return out[:min(len(out), limit)], err
}

// entryOf reads what an entry has of entryColumns.
func entryOf(r row, now int64) store.Entry {
	e := store.Entry{
		ID: mail.ID(r.text(0)), N: int(r.int(1)), State: stateOf(r.int(2)), Sender: senderOf(r.text(4)), Rcpt: r.text(5),
		Domain: r.text(6), Size: r.int(7), Attempts: int(r.int(8)), Age: duration(max(0, now-r.int(9))),
		InDoubt: r.bool(10), Last: r.text(11), DoubtWay: store.Way(r.text(21)), Next: r.text(23),
	}
	if settled := r.int(24); settled > 0 {
		e.Settled = time.UnixMilli(settled).UTC()
	}
	e.AgeSecs = int64(e.Age / time.Second)
	if r[3] != nil && e.State != store.Held {
		e.DueSecs = (r.int(3) - now) / 1000
		if e.State == store.Leased && r.int(3) <= now { // the lease has run out: nobody tries it
			e.State = store.Deferred
			if e.Attempts == 0 {
				e.State = store.Due
			}
		}
	}
	return e
}

// Show implements store.Queue.
func (s *Store) Show(ctx context.Context, id mail.ID) (rec store.Record, err error) {
	err = s.snapshot(ctx, func(c *conn) error {
		m, err := findMessage(c, id)
		if err != nil && !errors.Is(err, store.ErrUnreadable) {
			return err
		}
		rec = store.Record{
			ID: m.id, Transfer: m.tid, Envelope: m.envelope, Size: m.facts.Size,
			SHA256: hex.EncodeToString(m.facts.SHA256[:]), Origin: m.origin, Trace: string(m.trace), Stored: time.UnixMilli(m.created).UTC(),
		}
		if err != nil {
			rec.Unreadable = err.Error()
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
		err = c.query("SELECT n, at, verb, by, detail FROM events WHERE num = ? ORDER BY seq", []any{m.num}, func(r row) error {
			rec.Events = append(rec.Events, store.Event{
				N: int(r.int(0)), At: time.UnixMilli(r.int(1)).UTC(), Verb: r.text(2), By: r.text(3), Detail: r.text(4),
			})
			return nil
		})
		if err != nil {
			return err
		}
		now := s.now()
		return c.query("SELECT "+entryColumns+` FROM deliveries d JOIN messages m ON m.num = d.key >> 16
			WHERE d.key BETWEEN ? AND ? ORDER BY d.key`, []any{first, last}, func(r row) error {
			rec.Deliveries = append(rec.Deliveries, entryOf(r, now))
			if began := r.int(13); began > 0 {
				rec.Attempts = append(rec.Attempts, tryOf(row{r[1], r[8], r[13], r[14], r[15], r[16], r[11], r[17], r[18], r[19], r[20], r[22]}))
			}
			return nil
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

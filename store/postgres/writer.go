package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Group commit: callers hand their writes to the writer, which takes what is
// waiting, sends it as one transaction in one round trip, and releases all
// callers with its commit. Measured with 16 callers storing and settling 10 KB
// messages on two cores, per message: one writer 0.27 ms of processor time of
// both sides, two writers 0.37, three 0.48, a transaction for each call over
// eight connections 0.80; messages per second in the same order, most with one.
const (
	batchOps    = 128
	batchOctets = 4 << 20 // of content; see work_mem in connect.go
)

// op is one caller's write: exactly one of put, accept, settle, begin is set.
type op struct {
	put    *messageRow
	accept *acceptOp
	settle *store.Settlement
	begin  *beginOp

	octets int         // of content
	taken  atomic.Bool // by the writer, or back by a caller that gave up
	done   chan struct{}
	err    error
}

// submit hands o to the writer and waits for its end. A context that ends while
// o waits takes it back, after that the commit decides: the caller must know
// what happened.
func (s *Store) submit(ctx context.Context, o *op) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	o.done = make(chan struct{})
	select {
	case <-s.closing:
		return errClosed
	default:
	}
	select {
	case s.ops <- o:
	case <-s.closing:
		return errClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		if o.taken.CompareAndSwap(false, true) {
			return ctx.Err()
		}
		<-o.done // bounded by commitTimeout
		return o.err
	}
}

// writeLoop is the writer. An op that does not fit into the group at hand
// starts the next one.
func (s *Store) writeLoop() {
	var over *op
	for {
		first := over
		over = nil
		if first == nil {
			select {
			case first = <-s.ops:
			case <-s.closing:
				return
			}
		}
		var group []*op
		group, over = s.collect(first)
		s.commit(group)
	}
}

// collect takes what is waiting, within the bounds of a group. Two accepts
// under one key cannot share a group: the second must see the first.
func (s *Store) collect(first *op) (group []*op, over *op) {
	octets, keys := 0, map[store.TransferKey]bool{}
	take := func(o *op) bool {
		if len(group) > 0 && octets+o.octets > batchOctets || o.accept != nil && keys[o.accept.key.Name()] {
			return false
		}
		if o.taken.CompareAndSwap(false, true) {
			group, octets = append(group, o), octets+o.octets
			if o.accept != nil {
				keys[o.accept.key.Name()] = true
			}
		}
		return true
	}
	take(first)
	for len(group) < batchOps {
		select {
		case o := <-s.ops:
			if !take(o) {
				return group, o
			}
		default:
			return group, nil
		}
	}
	return group, nil
}

// commit runs a group, and each of its ops alone where the server refused the
// group: what one of them did wrong must not fail the others. After a lost
// connection nothing is tried again here, the callers know better whether it
// is worth it.
func (s *Store) commit(group []*op) {
	if len(group) == 0 {
		return
	}
	err := s.transact(group)
	if lost(err) {
		s.pool.Reset() // what has happened to one connection may have to all
	}
	if err != nil && !lost(err) && len(group) > 1 {
		for _, o := range group {
			s.commit([]*op{o})
		}
		return
	}
	due := false
	for _, o := range group {
		if err != nil {
			o.err = failed(err)
		}
		due = due || o.err == nil && o.makesDue()
		close(o.done)
	}
	if due {
		s.wakeSelf()
	}
}

// makesDue reports whether the op left a delivery for anybody to claim.
func (o *op) makesDue() bool {
	switch {
	case o.put != nil:
		return o.put.claimable()
	case o.accept != nil:
		return o.accept.row != nil && o.accept.row.claimable()
	}
	return false
}

// transact runs a group in one transaction. Without accepts that is one round
// trip; accepts need an answer before they know what to write.
func (s *Store) transact(group []*op) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
	defer cancel()
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()

	for _, o := range group {
		o.err = nil
	}
	accepts := chosen(group, func(o *op) bool { return o.accept != nil })
	if len(accepts) > 0 {
		if err := recall(ctx, conn, accepts); err != nil {
			rollback(ctx, conn)
			return err
		}
	}
	points := passedPoints(group)
	b := &pgx.Batch{}
	s.queueGroup(b, group, accepts)
	for _, p := range points {
		faults.Point(p + ".before-commit")
	}
	if len(accepts) > 0 {
		b.Queue(`COMMIT`)
	}
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		rollback(ctx, conn)
		return err
	}
	for _, p := range points {
		faults.Point(p + ".after-commit")
	}
	return nil
}

// queueGroup puts the group's statements into one batch, which the server runs
// as one transaction.
func (s *Store) queueGroup(b *pgx.Batch, group, accepts []*op) {
	var rows []*messageRow
	notify := false
	for _, o := range group {
		switch {
		case o.put != nil:
			rows = append(rows, o.put.all()...)
		case o.accept != nil && o.err == nil && o.accept.row != nil:
			rows = append(rows, o.accept.row.all()...)
		}
		notify = notify || o.err == nil && o.makesDue()
	}
	queueMessages(b, rows)
	queueAcceptances(b, accepts)
	queueSettlements(b, chosen(group, func(o *op) bool { return o.settle != nil }))
	queueBegins(b, chosen(group, func(o *op) bool { return o.begin != nil }))
	if notify {
		b.Queue(`SELECT pg_notify($1, $2)`, s.channel(), s.node)
	}
}

// rollback ends an explicit transaction after an error; where that fails too,
// the pool drops the connection, and the server what it had begun.
func rollback(ctx context.Context, conn *pgxpool.Conn) {
	if conn.Conn().PgConn().TxStatus() != 'I' {
		conn.Exec(ctx, `ROLLBACK`)
	}
}

// passedPoints names what the group does, for the tests that kill the process.
func passedPoints(group []*op) []string {
	var names []string
	for _, k := range []struct {
		name string
		is   func(*op) bool
	}{
		{"store.put", func(o *op) bool { return o.put != nil }},
		{"store.accept", func(o *op) bool { return o.accept != nil }},
		{"store.settle", func(o *op) bool { return o.settle != nil }},
		{"store.begin", func(o *op) bool { return o.begin != nil }},
	} {
		if len(chosen(group, k.is)) > 0 {
			names = append(names, k.name)
		}
	}
	return names
}

func chosen(group []*op, is func(*op) bool) []*op {
	var out []*op
	for _, o := range group {
		if is(o) {
			out = append(out, o)
		}
	}
	return out
}

// lockKey makes a key for an advisory lock out of words.
func lockKey(words ...string) int64 {
	h := sha256.New()
	for _, w := range words {
		h.Write([]byte(w))
		h.Write([]byte{0})
	}
	return int64(binary.BigEndian.Uint64(h.Sum(nil)))
}

// seconds is how durations go to the database.
func seconds(d time.Duration) float64 { return d.Seconds() }

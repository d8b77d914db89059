package sqlite

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Bounds of one group, so that no caller waits long for others.
const (
	maxGroup       = 128
	maxGroupOctets = 8 << 20
)

// writer is the one connection that writes, with the one goroutine that uses
// it. It takes all calls that wait, runs them in one transaction, flushes once
// and then answers them all: the cost of a flush is shared by as many as are
// there (group commit).
type writer struct {
	c        *conn
	mu       sync.RWMutex // held for reading while sending to ops, so that none is sent after closing
	closed   bool
	ops      chan *op
	done     chan struct{}
	level    string       // synchronous setting in force
	short    atomic.Bool  // of room; afterRun is to look for some
	octets   int          // written, roughly, since afterRun last looked; the goroutine's and afterRun's
	room     func() error // whether there is any for more mail
	afterRun func()       // called between groups, when nobody waits for its answer
}

// op is one call's work.
type op struct {
	kind  kind
	size  int               // octets it will write, roughly
	run   func(*conn) error // may run again after a roll-back, so it sets its results afresh
	phase atomic.Int32
	err   error
	done  chan struct{}
}

const (
	waiting int32 = iota
	running
	cancelled
)

// kind says what an op's callers may expect, and at which points the tests may
// stop it.
type kind int

const (
	plain     kind = iota
	lazy           // need not be durable before the next op that is not lazy
	staging        // lazy too: pieces of content that nothing refers to yet
	receiving      // lazy too: an open transfer and its chunks
	sweeping       // lazy too: pieces of content that nothing refers to any more
	putting        // these take or end responsibility for a message
	taking
	settling
	reporting // settling, with a DSN
	renewing
	claiming
	beginning // an attempt
	removing  // what has outlived its time
)

// durable reports whether a kind's commits must be flushed before they are
// answered.
func (k kind) durable() bool { return k == plain || k > sweeping }

// brings reports whether a kind's ops bring mail that is not there yet.
func (k kind) brings() bool { return k == staging || k == receiving || k == putting || k == taking }

// points names the stop points around the commit of an op; "" for none.
func (k kind) points() (before, after string) {
	switch k {
	case staging:
		return "store.stage.before-commit", "store.stage.after-commit"
	case receiving:
		return "store.transfer.before-commit", "store.transfer.after-commit"
	case sweeping:
		return "store.sweep.before-commit", "store.sweep.after-commit"
	case putting:
		return "store.put.before-commit", "store.put.after-commit"
	case taking:
		return "store.accept.before-commit", "store.accept.after-commit"
	case settling:
		return "store.settle.before-commit", "store.settle.after-commit"
	case reporting:
		return "store.report.before-commit", "store.report.after-commit"
	case renewing:
		return "store.renew.before-commit", "store.renew.after-commit"
	case claiming:
		return "store.claim.before-commit", "store.claim.after-commit"
	case beginning:
		return "store.begin.before-commit", "store.begin.after-commit"
	case removing:
		return "store.remove.before-commit", "store.remove.after-commit"
	}
	return "", ""
}

func startWriter(c *conn, room func() error, afterRun func()) *writer {
	w := &writer{c: c, room: room, ops: make(chan *op, maxGroup), done: make(chan struct{}), afterRun: afterRun}
	go w.loop()
	return w
}

// do runs an op and returns when it is committed. ctx counts until the writer
// takes the op up; from then on the answer is waited for, so that it is
// always definite.
func (w *writer) do(ctx context.Context, k kind, size int, run func(*conn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if k.brings() {
		if err := w.room(); err != nil {
			return err
		}
	}
	o := &op{kind: k, size: size, run: run, done: make(chan struct{})}
	if err := w.send(ctx, o); err != nil {
		return err
	}
	select {
	case <-o.done:
	case <-ctx.Done():
		if o.phase.CompareAndSwap(waiting, cancelled) {
			return ctx.Err()
		}
		<-o.done
	}
	return o.err
}

func (w *writer) send(ctx context.Context, o *op) error {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if w.closed {
		return errClosed
	}
	select {
	case w.ops <- o:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close runs what has been sent, then ends the goroutine and the connection.
func (w *writer) close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		<-w.done
		return nil
	}
	w.closed = true
	close(w.ops)
	w.mu.Unlock()
	<-w.done
	return w.c.close()
}

func (w *writer) loop() {
	defer close(w.done)
	group := make([]*op, 0, maxGroup)
	for first := range w.ops {
		group = w.gather(append(group[:0], first))
		w.runGroup(group)
		for _, o := range group {
			w.octets += o.size
			close(o.done)
		}
		clear(group)
		w.afterRun()
	}
}

// gather adds what else waits, leaving out what was cancelled. The callers of
// the last group have just been released: yielding once lets them bring their
// next call into this one.
func (w *writer) gather(group []*op) []*op {
	runtime.Gosched()
	octets := group[0].size
	for len(group) < maxGroup && octets < maxGroupOctets {
		select {
		case o, ok := <-w.ops:
			if !ok {
				return w.take(group)
			}
			group = append(group, o)
			octets += o.size
			continue
		default:
		}
		break
	}
	return w.take(group)
}

func (w *writer) take(group []*op) []*op {
	live := group[:0]
	for _, o := range group {
		if o.phase.CompareAndSwap(waiting, running) {
			live = append(live, o)
		}
	}
	return live
}

// runGroup commits the ops together. One that fails after it has changed
// something spoils the transaction, and a full disk may have been filled by
// one of several: then each runs in a transaction of its own, so that it fails
// or succeeds alone. Any other failure to commit is everyone's.
func (w *writer) runGroup(group []*op) {
	if len(group) == 0 {
		return
	}
	spoilt, err := w.transaction(group)
	if len(group) > 1 && (spoilt || errors.Is(err, store.ErrFull)) {
		for i := range group {
			w.runGroup(group[i : i+1])
		}
		return
	}
	for _, o := range group {
		if o.err == nil {
			o.err = err
		}
		if errors.Is(o.err, store.ErrFull) {
			w.short.Store(true)
		}
	}
}

// transaction runs all ops and commits. spoilt: one of them has failed half
// done, its error is in place and everything is rolled back. err: nothing was
// committed for a reason that concerns them all.
func (w *writer) transaction(group []*op) (spoilt bool, err error) {
	for _, o := range group {
		o.err = nil
	}
	if err := w.setLevel(group); err != nil {
		return false, err
	}
	if _, err := w.c.exec("BEGIN IMMEDIATE"); err != nil {
		return false, err
	}
	for _, o := range group {
		w.c.wrote = false
		if o.err = o.run(w.c); o.err != nil && (w.c.wrote || w.rolledBack()) {
			w.c.exec("ROLLBACK") // which SQLite may have done already
			return true, nil
		}
	}
	pass(group, false)
	if _, err := w.c.exec("COMMIT"); err != nil {
		w.c.exec("ROLLBACK")
		return false, err
	}
	pass(group, true)
	return false, nil
}

// rolledBack reports whether SQLite has ended the transaction by itself. It may
// do so at any statement that finds no room or cannot read or write, a query
// that has to spill its cache included (sqlite.org/lang_transaction.html section
// 3.1); the statements of later ops would be committed one by one.
func (w *writer) rolledBack() bool {
	_, err := w.c.exec("BEGIN") // which fails within a transaction; else the caller ends it
	return err == nil
}

// pass passes the stop points on one side of a group's commit, once for each
// kind of op in it.
func pass(group []*op, committed bool) {
	var seen [removing + 1]bool
	for _, o := range group {
		if o.err != nil || seen[o.kind] {
			continue
		}
		seen[o.kind] = true
		point, after := o.kind.points()
		if committed {
			point = after
		}
		if point != "" {
			faults.Point(point)
		}
	}
}

// setLevel has the commit flushed unless nobody needs that. Under NORMAL a
// commit only appends to the write-ahead log, whose next flush covers it.
func (w *writer) setLevel(group []*op) error {
	flushed, level := levels()
	for _, o := range group {
		if o.kind.durable() {
			level = flushed
		}
	}
	if level == w.level {
		return nil
	}
	if err := w.c.pragma("synchronous=" + level); err != nil {
		return err
	}
	w.level = level
	return nil
}

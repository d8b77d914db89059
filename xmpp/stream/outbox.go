package stream

import (
	"context"
	"errors"
	"slices"
	"sync"
)

const (
	piece      = 64 << 10 // octets handed to the connection at once
	smallBatch = 8 << 10  // a buffer beyond this goes back to the pool when idle
)

var (
	errFull  = errors.New("writer's queue is full")
	errEnded = errors.New("link is closing")
)

// outbox is the writer's queue: whole stanzas, one after the other in one
// buffer, so that many leave at once. Stanzas are counted by position, the
// octets put in before them.
type outbox struct {
	pool *sync.Pool // of *[]byte, spare buffers of all links

	// One of those who wait for room tries at a time, in the order of their
	// coming: else small stanzas would keep a large one out for ever.
	requests, answers chan struct{}

	mu      sync.Mutex
	pending []byte
	flying  int           // octets taken and not yet written
	put     int64         // position of the end of pending
	stanzas uint32        // put in so far, modulo 2^32
	begun   int64         // position up to which octets may have left
	ended   bool          // the closing tag is in: nothing more is taken in
	dead    bool          // nothing more leaves
	room    chan struct{} // closed, and made anew, when room was made
	wake    chan struct{} // holds one token for the writer
}

func newOutbox(pool *sync.Pool) *outbox {
	return &outbox{
		pool: pool, requests: make(chan struct{}, 1), answers: make(chan struct{}, 1),
		room: make(chan struct{}), wake: make(chan struct{}, 1),
	}
}

// try puts a stanza in, given in parts, if no more than limit octets are
// queued then. A stanza larger than the limit goes through an empty queue.
// On errFull, room is closed once trying again makes sense.
func (o *outbox) try(limit int, parts ...[]byte) (at int64, room <-chan struct{}, err error) {
	return o.enter(limit, 1, parts)
}

// nonza is try for what is no stanza, and is not counted as one.
func (o *outbox) nonza(limit int, b []byte) error {
	_, _, err := o.enter(limit, 0, [][]byte{b})
	return err
}

func (o *outbox) enter(limit int, stanzas uint32, parts [][]byte) (at int64, room <-chan struct{}, err error) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	queued := len(o.pending) + o.flying
	switch {
	case o.ended || o.dead:
		return 0, nil, errEnded
	case queued > 0 && queued+n > limit:
		return 0, o.room, errFull
	}
	o.stanzas += stanzas
	return o.append(n, parts), nil, nil
}

// stanzasPut counts the stanzas put in so far, modulo 2^32.
func (o *outbox) stanzasPut() uint32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.stanzas
}

// now is try, unless somebody waits in the line already; then it is full too.
func (o *outbox) now(line chan struct{}, limit int, parts ...[]byte) (at int64, err error) {
	select {
	case line <- struct{}{}:
	default:
		return 0, errFull
	}
	at, _, err = o.try(limit, parts...)
	<-line
	return at, err
}

// wait is try until there is room, in the line of requests or of answers.
func (o *outbox) wait(ctx context.Context, line chan struct{}, limit int, parts ...[]byte) (at int64, err error) {
	select {
	case line <- struct{}{}:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	defer func() { <-line }()
	for {
		at, room, err := o.try(limit, parts...)
		if err != errFull {
			return at, err
		}
		select {
		case <-room:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// end puts the last octets in, beyond any limit. Only the first call counts.
func (o *outbox) end(last []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended && !o.dead {
		o.append(len(last), [][]byte{last})
		o.ended = true
		o.madeRoom()
	}
}

// kill gives up what is queued and frees whoever waits.
func (o *outbox) kill() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dead = true
	o.pending = nil
	o.madeRoom()
	o.signal()
}

func (o *outbox) append(n int, parts [][]byte) (at int64) {
	if cap(o.pending) == 0 && n+len(o.pending) > smallBatch {
		if b, ok := o.pool.Get().(*[]byte); ok {
			o.pending = (*b)[:0]
		}
	}
	o.pending = slices.Grow(o.pending, n)
	for _, p := range parts {
		o.pending = append(o.pending, p...)
	}
	at = o.put
	o.put += int64(n)
	o.signal()
	return at
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *outbox) madeRoom() {
	close(o.room)
	o.room = make(chan struct{})
}

// take waits for something to write and hands it out, in exchange for the
// batch taken before. last says that nothing follows; nil means that the
// queue was killed.
func (o *outbox) take(done []byte) (batch []byte, last bool) {
	for {
		o.mu.Lock()
		if o.dead {
			o.mu.Unlock()
			return nil, true
		}
		if len(o.pending) > 0 {
			batch, o.pending = o.pending, done[:0]
			o.flying = len(batch)
			last = o.ended
			o.mu.Unlock()
			return batch, last
		}
		o.release(done)
		o.release(o.pending)
		done, o.pending = nil, nil
		o.mu.Unlock()
		<-o.wake
	}
}

// release keeps a large buffer for whichever link needs one next, so that an
// idle link holds none.
func (o *outbox) release(b []byte) {
	if cap(b) > smallBatch {
		o.pool.Put(&b)
	}
}

// leaving says that n more octets of the batch are about to leave, left that
// they have. false: the queue was killed, and they must not, since neverLeft
// may have said so.
func (o *outbox) leaving(n int) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead {
		return false
	}
	o.begun += int64(n)
	return true
}

func (o *outbox) left(n int) {
	o.mu.Lock()
	o.flying -= n
	o.madeRoom()
	o.mu.Unlock()
}

// neverLeft reports whether certainly no octet from that position on has left
// or ever will.
func (o *outbox) neverLeft(at int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dead && o.begun <= at
}

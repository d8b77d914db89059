package transfer

import (
	"context"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// maxOpenOctets bounds the envelopes of all open transfers together, so that
// many offers with many recipients cost a bounded memory.
const maxOpenOctets = 64 << 20

// A domain has an eighth of the octets at most, and the last quarter of them
// is for domains that take but little, as that of the places is.
const (
	domainOctets  = maxOpenOctets / 8
	reserveOctets = maxOpenOctets / 4
	littleOctets  = maxOpenOctets / 64
)

// open is an offered message whose content comes in chunks. It lives in this
// process only: a sender that finds it gone offers again, and goes on from
// what the store holds (xep-draft section 5.4).
type open struct {
	offer   *offer
	rcpts   []verdict     // from the offer
	pending []int         // recipients that may be accepted
	scan    *mail.Scanner // of the octets that the store holds
	turn    int64         // fencing token of the store
	cost    int
}

// slot serialises the requests for one transfer.
type slot struct {
	key   store.TransferKey
	turn  chan struct{} // holds one token; whoever took it owns what follows
	open  *open
	moved chan struct{} // closed when chunks that wait should look again

	refs int       // guarded by table.mu
	cost int       // counted for open; guarded by table.mu
	used time.Time // last progress of open; guarded by table.mu
}

// table holds the slots of transfers that are open or being asked about.
type table struct {
	perDomain, most int
	idle            time.Duration
	tally           *tally

	mu     sync.Mutex
	slots  map[store.TransferKey]*slot
	open   int
	octets int
	domain map[string]share
	swept  time.Time
}

// share is what one domain has open.
type share struct{ open, octets int }

func newTable(perDomain, most int, idle time.Duration, t *tally) *table {
	return &table{perDomain: perDomain, most: most, idle: idle, tally: t,
		slots: map[store.TransferKey]*slot{}, domain: map[string]share{}}
}

// take returns the slot of a transfer, once it is this request's turn. The
// requests that wait are bounded by the stream's handlers.
func (t *table) take(ctx context.Context, k store.TransferKey) (*slot, *mail.Failure) {
	t.mu.Lock()
	s := t.slots[k]
	if s == nil {
		s = &slot{key: k, turn: make(chan struct{}, 1), moved: make(chan struct{})}
		s.turn <- struct{}{}
		t.slots[k] = s
	}
	s.refs++
	t.mu.Unlock()
	if err := s.wait(ctx); err != nil {
		t.leave(s)
		return nil, mail.AsFailure(err)
	}
	return s, nil
}

func (s *slot) wait(ctx context.Context) error {
	select {
	case <-s.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// held is the key of the open transfer with its fencing token. Only in the
// slot's turn, while it is open.
func (s *slot) held() store.TransferKey {
	k := s.key
	k.Turn = s.open.turn
	return k
}

func (s *slot) pass() { s.turn <- struct{}{} }

// wake lets waiting chunks look again. Only in the slot's turn.
func (s *slot) wake() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// done ends a request's turn.
func (t *table) done(s *slot) {
	s.pass()
	t.leave(s)
}

func (t *table) leave(s *slot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.refs--
	t.drop(s)
}

// drop forgets a slot that nobody is in and that holds nothing.
func (t *table) drop(s *slot) {
	if s.refs == 0 && s.cost == 0 {
		delete(t.slots, s.key)
	}
}

// start opens the transfer of a slot in its turn, or says that there are too
// many.
func (t *table) start(s *slot, o *open) *mail.Failure {
	o.cost = o.offer.cost()
	t.mu.Lock()
	defer t.mu.Unlock()
	used := time.Now()
	if s.cost > 0 {
		used = s.used // an offer repeated is no progress
	}
	t.forget(s)
	t.sweep()
	if !t.room(s.key.Domain, o.cost) {
		t.relieve(s.key.Domain, o.cost)
	}
	switch {
	case t.full(s.key.Domain, o.cost):
		return mail.Fail(mail.ResourceShort, "too many open transfers from your domain", nil)
	case !t.room(s.key.Domain, o.cost):
		return mail.Fail(mail.ResourceShort, "too many open transfers", nil)
	}
	t.open++
	t.octets += o.cost
	has := t.domain[s.key.Domain]
	t.domain[s.key.Domain] = share{has.open + 1, has.octets + o.cost}
	s.open, s.cost, s.used = o, o.cost, used
	return nil
}

// progressed notes that an open transfer has grown.
func (t *table) progressed(s *slot) {
	t.mu.Lock()
	s.used = time.Now()
	t.mu.Unlock()
}

// full reports whether a domain has all that one may have.
func (t *table) full(domain string, cost int) bool {
	has := t.domain[domain]
	return has.open >= t.perDomain || has.octets+cost > domainOctets
}

// room reports whether a domain may open one more. The last quarter of the
// places and of the octets is for domains that have but a few, so that some domains that open
// all they may leave room for the others.
func (t *table) room(domain string, cost int) bool {
	const few = 4
	has := t.domain[domain]
	return !t.full(domain, cost) && t.open < t.most && t.octets+cost <= maxOpenOctets &&
		(has.open < few || t.open < t.most-t.most/4) &&
		(has.octets+cost <= littleOctets || t.octets+cost <= maxOpenOctets-reserveOctets)
}

// relieve drops the transfer that has rested longest: of the domain that asks
// where it has all it may, else of anybody's. It must have rested for some
// minutes (xep-draft section 9.4); its octets stay in the store, and an offer
// takes them up again.
func (t *table) relieve(domain string, cost int) {
	full := t.full(domain, cost)
	var longest *slot
	for _, s := range t.slots {
		if s.refs > 0 || s.cost == 0 || full && s.key.Domain != domain {
			continue
		}
		if longest == nil || s.used.Before(longest.used) {
			longest = s
		}
	}
	if longest != nil && time.Since(longest.used) >= min(restBeforeDrop, t.idle) {
		t.forget(longest)
		t.drop(longest)
		t.tally.add(countDropped)
	}
}

// restBeforeDrop is how long a transfer has to make no progress before it
// makes room for another.
const restBeforeDrop = 5 * time.Minute

// end closes the transfer of a slot in its turn.
func (t *table) end(s *slot) {
	t.mu.Lock()
	t.forget(s)
	t.mu.Unlock()
	s.wake()
}

func (t *table) forget(s *slot) {
	if s.cost == 0 {
		return
	}
	t.open--
	t.octets -= s.cost
	has := t.domain[s.key.Domain]
	if t.domain[s.key.Domain] = (share{has.open - 1, has.octets - s.cost}); has.open == 1 {
		delete(t.domain, s.key.Domain)
	}
	s.open, s.cost = nil, 0
}

// sweep forgets what has made no progress for too long; at most four times in
// that span, so that its cost does not grow with the offers.
func (t *table) sweep() {
	if time.Since(t.swept) < t.idle/4 {
		return
	}
	t.swept = time.Now()
	for _, s := range t.slots {
		if s.refs == 0 && time.Since(s.used) > t.idle {
			if s.cost > 0 {
				t.tally.add(countDropped)
			}
			t.forget(s)
			t.drop(s)
		}
	}
}

// cost estimates the memory that an offer's envelope takes, in octets.
func (o *offer) cost() int {
	n := 512 + len(o.trace) + len(o.env.EnvelopeID)
	for _, r := range o.rcpts {
		n += 256 + 2*len(r.to) + len(r.Original)
	}
	return n
}

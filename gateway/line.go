package gateway

import (
	"context"
	"slices"
	"time"

	"mailxmppd/mail"
)

// New mail for a destination that takes mail fast, but has no place at this
// moment, waits for one in memory, its content at hand and its attempt recorded:
// by the store it would cost two more durable writes and a read, and come later.
// As many may wait as the destination has places, so that each waits about as
// long as one attempt takes, and everyone who waits has one of the scheduler's
// slots. The line is closed while older mail waits in the store: the order among
// senders is the store's.

// lineFor is how long attempts at a destination may take for mail to wait in
// line; slower ones have their waiting mail in the store, where it holds no slot.
const lineFor = 250 * time.Millisecond

// room is how many attempts may be under way to a destination, those in line
// included.
func (d *dest) room() int {
	if d.moves() {
		return 2 * d.limit()
	}
	return d.limit()
}

// flowDelay bounds the wait of new mail for room in the line. Where mail comes
// faster than it leaves, its senders are slowed down as much as that, which costs
// less than to store what cannot leave yet; where that does not help the store
// has to take it, at once, until it has caught up.
const flowDelay = 100 * time.Millisecond

// moves reports whether places at a destination become free all the time.
func (d *dest) moves() bool {
	return !d.behind && d.pace > 0 && d.pace <= lineFor && d.outages == 0
}

// awaitRoom waits until a destination that is full, but moves, has room for one
// more. s.mu is held, but not during the wait.
func (s *scheduler) awaitRoom(ctx context.Context, name string) {
	d := s.dests[name]
	if d == nil || !d.moves() || s.places(d, d.room()) > 0 {
		return
	}
	timer := time.NewTimer(flowDelay)
	defer timer.Stop()
	for over := false; !over && d.moves() && !s.stopping && s.places(d, d.room()) <= 0; {
		call := make(chan struct{})
		d.outside = append(d.outside, call)
		s.mu.Unlock()
		select {
		case <-call:
		case <-timer.C:
			over = true
		case <-ctx.Done():
			over = true
		}
		s.mu.Lock()
		d.outside = slices.DeleteFunc(d.outside, func(other chan struct{}) bool { return other == call })
	}
}

// callIn tells those who wait first that there may be room. s.mu is held.
func (s *scheduler) callIn(d *dest) {
	if len(d.outside) == 0 {
		return
	}
	n := min(len(d.outside), max(0, s.places(d, d.room())))
	for _, call := range d.outside[:n] {
		close(call)
	}
	d.outside = slices.Delete(d.outside, 0, n)
}

// arrive waits for an attempt's place at the destination that its mail turned out
// to go to, whose share of places it moves to. If that is dead or full, it says
// why and for how long the attempt is to be put off.
func (s *scheduler) arrive(ctx context.Context, h *held, name string) *putOff {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.dest(name)
	if name != h.site {
		s.depart(h)
		s.settleDown(h.lease.Destination(), name)
		d = s.dest(name)
		if off := s.offOf(d, h.lease.Age, d.runs >= d.limit()); off != nil {
			return off
		}
		d.runs++
		h.site = name
	}
	if d.working < d.limit() {
		d.working++
		h.works = true
		return nil
	}
	h.turn = make(chan struct{})
	d.line = append(d.line, h)
	s.mu.Unlock()
	select {
	case <-h.turn:
	case <-ctx.Done():
	}
	s.mu.Lock()
	if !h.works {
		d.line = slices.DeleteFunc(d.line, func(other *held) bool { return other == h })
		return &putOff{0, false, mail.Fail(mail.Unreachable, "all places at the next hop are taken", ctx.Err())}
	}
	off := s.offOf(d, h.lease.Age, false) // it may have died meanwhile
	if off != nil {
		s.depart(h)
	}
	return off
}

// depart frees an attempt's place, or that on the way to one. Who is next in line
// gets it. s.mu is held.
func (s *scheduler) depart(h *held) {
	if h.site == "" {
		return
	}
	d := s.dest(h.site)
	d.runs--
	if h.works {
		h.works = false
		d.working--
	}
	for len(d.line) > 0 && d.working < d.limit() {
		next := d.line[0]
		d.line = slices.Delete(d.line, 0, 1)
		d.working++
		next.works = true
		close(next.turn)
	}
	s.callIn(d)
	s.forget(h.site)
	h.site = ""
}

// leave frees an attempt's place once the destination has answered: what was
// said is still to be settled, but asks nothing more of the destination.
func (s *scheduler) leave(h *held) {
	s.mu.Lock()
	s.depart(h)
	wanting := s.wanting
	s.mu.Unlock()
	if wanting {
		s.poke()
	}
}

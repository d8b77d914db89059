package gateway

import (
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Deliveries are claimed in the order in which they became due. Fairness is in
// that order: a new delivery is due earlier than now by a head start, which is
// shorter the more its sender has put to that destination lately. So a fresh
// sender's message comes before the backlog of one that floods, and backlogs of
// several take turns; priority lengthens or shortens the head start. What has
// been due for longer than the longest head start comes before all new mail, so
// that nothing starves.
//
// What a sender has put is counted where it was accepted: a sender that spreads
// its mail over n nodes has n counts. The order is that of the store, hence the
// same for all nodes.

const (
	headStart    = 10 * time.Minute // of a sender's first message
	turnStep     = time.Second      // what each message costs its sender, and in which time that is forgotten
	priorityStep = time.Minute      // of MT-PRIORITY, -9 to 9
	floodFrom    = 10 * turnStep    // from where a sender counts as flooding
	mixedFor     = time.Minute      // how long a destination counts as shared by senders after the last change
	maxTurns     = 20_000           // senders remembered

	everywhere = "" // stands for all destinations of a sender
)

// turnKey is a sender at a destination.
type turnKey struct{ sender, site string }

// senderOf is who counts as one sender: the user who submitted a message, or
// the domain of its reverse-path, or of the peer that it came from.
func senderOf(m *mail.Message) string {
	switch {
	case m.Origin.User != "":
		return "user " + m.Origin.User
	case m.Envelope.Sender.Domain != "":
		return m.Envelope.Sender.Domain
	}
	return "null from " + m.Origin.Peer
}

// priorityOf is the priority that counts here: one above 0 only where the client
// has proven who it is (RFC 6710 section 4.1).
func priorityOf(m *mail.Message) int {
	if m.Envelope.Priority == nil {
		return 0
	}
	p := max(-9, min(*m.Envelope.Priority, 9))
	if m.Origin.User == "" && m.Origin.Peer == "" {
		return min(p, 0)
	}
	return p
}

// firstTurns says when each delivery of a message is first due. first has those
// that were tried before, which keep their times.
func (s *scheduler) firstTurns(m *mail.Message, first []store.First) []store.First {
	out := make([]store.First, len(m.Envelope.Recipients))
	copy(out, first)
	sender, priority := senderOf(m), time.Duration(priorityOf(m))
	delays := map[string]time.Duration{}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for i, r := range m.Envelope.Recipients {
		switch f := out[i]; {
		case f.Done:
			continue
		case f.Delay > 0:
			out[i].Delay = noLaterThanNotice(f.Delay, m.Envelope, i)
			continue
		case f.Outcome.Failure != nil:
			continue
		}
		delay, known := delays[r.Address.Domain]
		if !known {
			name := s.siteOf(r.Address.Domain)
			penalty := s.penalty(sender, name, now)
			delay = -max(0, headStart+priority*priorityStep-penalty)
			if d := s.dests[name]; d != nil && d.dead(now) {
				delay = s.offOf(d, 0, false).wait
			}
			delays[r.Address.Domain] = delay
		}
		out[i].Delay = delay
		if delay > 0 {
			out[i].Delay = noLaterThanNotice(delay, m.Envelope, i)
		}
	}
	return out
}

// penalty counts a message at its destination, and among all of its sender's: a
// list of thousands of destinations that take their time would else have every slot
// until it has been through. That alone leaves half of the head start, so that a
// sender whose mail is most of what there is stays before old retries. s.mu is held.
func (s *scheduler) penalty(sender, site string, now time.Time) time.Duration {
	there, anywhere := s.count(sender, site, now), s.count(sender, everywhere, now)
	return max(there, min(anywhere-floodFrom, headStart/2))
}

// count adds a message to what a sender has put to a destination, and returns the
// penalty for those before it. s.mu is held.
func (s *scheduler) count(sender, site string, now time.Time) (penalty time.Duration) {
	key := turnKey{sender, site}
	at, known := s.turns[key]
	if !known && len(s.turns) >= maxTurns {
		s.forgetTurns(now)
	}
	if at.Before(now) {
		at = now
	}
	s.turns[key] = at.Add(turnStep)
	return at.Sub(now)
}

// forgetTurns drops, of 16 senders in the map's own random order, those that
// have no penalty left, or else one. s.mu is held.
func (s *scheduler) forgetTurns(now time.Time) {
	looked, freed := 0, false
	for key, at := range s.turns {
		if looked++; at.Before(now) || looked == 16 && !freed {
			delete(s.turns, key)
			freed = true
		}
		if looked == 16 {
			return
		}
	}
}

// floods reports whether a sender has put much to a destination that others send
// to as well. s.mu is held.
func (s *scheduler) floods(sender, site string, now time.Time) bool {
	d := s.dest(site)
	if d.sender != sender {
		d.sender, d.mixed = sender, now
	}
	return now.Sub(d.mixed) < mixedFor && s.turns[turnKey{sender, site}].Sub(now) > floodFrom
}

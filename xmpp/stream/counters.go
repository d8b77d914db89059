package stream

import "sync/atomic"

// counters count since the manager was made.
type counters struct {
	accepted, turnedAway, dialled, dialFailures, negotiationFailures, ready atomic.Int64
	unproven, authFailures, streamErrors, stanzaErrors                      atomic.Int64
	strayAnswers, foreignStanzas                                            atomic.Int64
	requestsSent, requestsReceived, requestsShed                            atomic.Int64
	dialbackResults, dialbackVerifies, redirects, answersLost, ackErrors    atomic.Int64
}

// Snapshot is the state of a manager's counters; all but Live and OneWay only grow.
type Snapshot struct {
	Live                int   // links in use now
	OneWay              int   // streams with ordinary servers that are open now
	Accepted            int64 // connections accepted
	TurnedAway          int64 // connections over MaxStreams or MaxPerAddress
	Dialled             int64 // addresses dialled
	DialFailures        int64 // of those, without a link
	NegotiationFailures int64 // accepted connections without a link
	Ready               int64 // links that came to be
	Unproven            int64 // connecting peers whose certificate did not prove their domain
	AuthFailures        int64 // refused by us
	StreamErrors        int64 // sent by us
	StanzaErrors        int64 // sent by us for stanzas that are wrong or served by nobody
	StrayAnswers        int64 // answers nobody waits for, or from the wrong party
	ForeignStanzas      int64 // from a domain that the stream does not speak for
	RequestsSent        int64
	RequestsReceived    int64 // handed to Handle
	RequestsShed        int64 // refused because too many were in hand
	DialbackResults     int64 // db:result, all refused
	DialbackVerifies    int64 // db:verify, all answered as invalid
	Redirects           int64 // see-other-host followed
	AnswersLost         int64 // to ordinary servers, for want of a stream to them
	AckErrors           int64 // streams that ended because the peer counted more stanzas than were sent
}

// Snapshot reads the counters.
func (m *Manager) Snapshot() Snapshot {
	m.mu.Lock()
	live, oneWay := 0, 0
	for _, r := range m.routes {
		live += len(r.links)
		oneWay += len(r.inward) + len(r.outward)
	}
	m.mu.Unlock()
	c := &m.counters
	return Snapshot{
		Live: live, OneWay: oneWay,
		Accepted: c.accepted.Load(), TurnedAway: c.turnedAway.Load(),
		Dialled: c.dialled.Load(), DialFailures: c.dialFailures.Load(),
		NegotiationFailures: c.negotiationFailures.Load(), Ready: c.ready.Load(),
		Unproven: c.unproven.Load(), AuthFailures: c.authFailures.Load(),
		StreamErrors: c.streamErrors.Load(), StanzaErrors: c.stanzaErrors.Load(),
		StrayAnswers: c.strayAnswers.Load(), ForeignStanzas: c.foreignStanzas.Load(),
		RequestsSent: c.requestsSent.Load(), RequestsReceived: c.requestsReceived.Load(),
		RequestsShed:    c.requestsShed.Load(),
		DialbackResults: c.dialbackResults.Load(), DialbackVerifies: c.dialbackVerifies.Load(),
		Redirects: c.redirects.Load(), AnswersLost: c.answersLost.Load(), AckErrors: c.ackErrors.Load(),
	}
}

package component

import "sync/atomic"

type counters struct {
	connected, refused, strays, dropped, bounced, unasserted, shed, lost atomic.Int64
	requestsSent, requestsReceived                                       atomic.Int64
}

// Snapshot is the state of a component's counters; all but Live and Links only
// grow.
type Snapshot struct {
	Live             bool  // connected now
	Links            int   // peers in use now
	Connected        int64 // connections that the server took
	Refused          int64 // those that ended for a name in use, a wrong secret and the like
	StrayAnswers     int64 // answers nobody waits for, or from the wrong party
	Dropped          int64 // stanzas that are not as XMPP wants them
	Bounced          int64 // requests that a server on the way sent back
	Unasserted       int64 // mail requests refused for want of the operator's assertion
	RequestsShed     int64 // refused because too many were in hand
	AnswersLost      int64 // because the server does not read, or would not take them
	RequestsSent     int64
	RequestsReceived int64 // handed to Handle
}

// Snapshot reads the counters.
func (c *Component) Snapshot() Snapshot {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	links := 0
	if s != nil {
		s.mu.Lock()
		links = len(s.links)
		s.mu.Unlock()
	}
	n := &c.counters
	return Snapshot{
		Live: s != nil, Links: links, Connected: n.connected.Load(), Refused: n.refused.Load(), StrayAnswers: n.strays.Load(),
		Dropped: n.dropped.Load(), Bounced: n.bounced.Load(), Unasserted: n.unasserted.Load(), RequestsShed: n.shed.Load(),
		AnswersLost: n.lost.Load(), RequestsSent: n.requestsSent.Load(), RequestsReceived: n.requestsReceived.Load(),
	}
}

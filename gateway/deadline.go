package gateway

import (
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// lifetime is how long a message is tried for: no longer than until the time
// by which its sender wants it delivered or back (RFC 2852 section 4.1.4).
func (g *Gateway) lifetime(env mail.Envelope) time.Duration {
	if by := env.DeliverBy; by != nil && by.Mode == 'R' {
		return max(min(g.Lifetime, time.Until(by.Deadline)), time.Second)
	}
	return g.Lifetime
}

// mostDelay is how long a delivery may be put off: until its lifetime ends, or the
// time comes at which its sender wants to hear that it is late.
func (g *Gateway) mostDelay(l store.Lease, d store.Delivery) time.Duration {
	most := max(d.Left, time.Second)
	if left, ok := untilNotice(l.Envelope, d.N); ok && !d.Delayed && left > 0 {
		most = min(most, left)
	}
	return most
}

// noLaterThanNotice cuts the delay of a first attempt short where the recipient's
// sender wants to hear within it.
func noLaterThanNotice(delay time.Duration, env mail.Envelope, n int) time.Duration {
	if left, ok := untilNotice(env, n); ok {
		return min(delay, max(left, time.Millisecond))
	}
	return delay
}

// tellsDelay reports whether it is time to tell a delivery's sender that it is
// late: after DelayNotice where that was not declined, or at the deadline that
// the sender has set.
func (g *Gateway) tellsDelay(l store.Lease, d store.Delivery) bool {
	if left, ok := untilNotice(l.Envelope, d.N); ok {
		return left <= 0
	}
	return l.Age > g.DelayNotice && l.Envelope.Recipients[d.N].WantsDelay()
}

// untilNotice is how long until a recipient that is not delivered counts as late
// by the sender's own word: by-mode N, which asks for the notice whatever NOTIFY
// says, NEVER excepted (RFC 2852 section 4.1.1).
func untilNotice(env mail.Envelope, n int) (left time.Duration, ok bool) {
	by := env.DeliverBy
	if by == nil || by.Mode != 'N' || env.Recipients[n].Notify == mail.NotifyNever {
		return 0, false
	}
	return time.Until(by.Deadline), true
}

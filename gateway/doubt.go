package gateway

import (
	"context"
	"sync/atomic"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// What a peer may have taken over XMPP goes on over XMPP, whose transfer id
// keeps it from becoming a twin (xep-draft section 9.3). Where the domain is a
// peer no more, or cannot be reached, it waits until it expires; the operator
// may let it go by SMTP instead, where nothing binds the domain to XMPP. Then it
// may be delivered twice, so it is marked and counted.

// doubts counts what became of deliveries in doubt.
type doubts struct{ waited, otherwise atomic.Int64 }

// Snapshot returns what has been counted since the start.
func (g *Gateway) Snapshot() map[string]int64 {
	return map[string]int64{
		"in-doubt-waited":     g.doubts.waited.Load(),    // attempts that SMTP was kept from
		"in-doubt-other-path": g.doubts.otherwise.Load(), // deliveries handed to SMTP all the same
	}
}

// doubtful reports whether a peer may have taken a delivery over XMPP. What
// came into doubt by SMTP may become a twin anyhow, and needs no care.
func doubtful(d store.Delivery) bool {
	return d.InDoubt && d.DoubtWay != store.WaySMTP && d.DoubtWay != store.WayLocal
}

// mayGoOtherwise reports whether deliveries to a domain may take another path
// while they are in doubt.
func (g *Gateway) mayGoOtherwise(ctx context.Context, domain string) bool {
	return g.DoubtOtherPath && !g.Peers.HeldToXMPP(ctx, domain)
}

// errWaits is what a delivery in doubt gets instead of SMTP.
func errWaits(domain string) *mail.Failure {
	f := mail.Fail(mail.Doubtful, "message may have been taken over XMPP and does not go by SMTP; the domain takes none over XMPP now", nil)
	f.Remote = domain
	return f
}

// leaveDoubt hands to SMTP what has been tried over XMPP once more in vain and
// may still have been taken, where that is allowed.
func (g *Gateway) leaveDoubt(ctx context.Context, l store.Lease, content mail.Content, t *trial) {
	left := l
	left.Deliveries = nil
	for i, d := range l.Deliveries {
		if f := t.outcomes[i].Failure; doubtful(d) && f != nil && f.Class == mail.InDoubt {
			left.Deliveries = append(left.Deliveries, d)
		}
	}
	if len(left.Deliveries) == 0 || !g.mayGoOtherwise(ctx, l.Domain) {
		return
	}
	if err := g.Store.SetWay(ctx, left, store.WaySMTP); err != nil {
		return // without the record of it, not at all
	}
	outcomes := g.hand(ctx, left, content, route{toLegacy, g.Legacy(l.Domain), true}, "", l.Envelope.Sender)
	g.mark(left, outcomes)
	merge(l, left, t.outcomes, outcomes)
	t.way = toLegacy
}

// mark marks what became of deliveries that went by SMTP while they were in
// doubt: in the log, in the record of the attempt, and by counting them.
func (g *Gateway) mark(l store.Lease, outcomes []mail.Outcome) {
	const mark = "sent by SMTP though it may have been taken over XMPP: "
	for i, d := range l.Deliveries {
		if !doubtful(d) || i >= len(outcomes) {
			continue
		}
		g.doubts.otherwise.Add(1)
		g.Log.Warn("sent by another path while in doubt", "id", l.ID, "n", d.N, "dir", "out", "transport", string(toLegacy),
			"from", l.Envelope.Sender, "rcpt", l.Envelope.Recipients[d.N].Address, "domain", l.Domain, "attempt", d.Attempt)
		o := &outcomes[i]
		if o.Failure != nil {
			f := *o.Failure
			f.Text = mail.Sanitise(mark + f.Text)
			o.Failure = &f
		}
		if o.Failure == nil || o.Text != "" { // else it would hide the failure's own words
			o.Text = mail.Sanitise(mark + o.Text)
		}
	}
}

// split takes from a lease the deliveries that are in doubt over XMPP.
func split(l store.Lease) (sure, doubted store.Lease) {
	sure, doubted = l, l
	sure.Deliveries, doubted.Deliveries = nil, nil
	for _, d := range l.Deliveries {
		if doubtful(d) {
			doubted.Deliveries = append(doubted.Deliveries, d)
		} else {
			sure.Deliveries = append(sure.Deliveries, d)
		}
	}
	return sure, doubted
}

// merge puts the outcomes of a lease's parts into the lease's order.
func merge(l, part store.Lease, whole, outcomes []mail.Outcome) {
	for i, d := range l.Deliveries {
		for j, p := range part.Deliveries {
			if p.N == d.N && j < len(outcomes) {
				whole[i] = outcomes[j]
			}
		}
	}
}

package gateway

import (
	"context"
	"fmt"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// routeOf is the route of a lease: by its domain, or to the next hop that an
// operator redirected it to, whose transport answers for its own TLS.
func (g *Gateway) routeOf(ctx context.Context, local string, l store.Lease) (route, *mail.Failure) {
	if l.Next == "" {
		return g.route(ctx, local, l.Domain)
	}
	if g.Hop == nil {
		return route{}, mail.Fail(mail.Internal, "mail cannot be redirected here", nil)
	}
	t, err := g.Hop(l.Next)
	if err != nil {
		return route{}, mail.Fail(mail.Internal, "the next hop that this was redirected to cannot be used", err)
	}
	return route{toLegacy, t, true}, nil
}

// likelyWayOf is likelyWay for a lease.
func (g *Gateway) likelyWayOf(l store.Lease) store.Way {
	if l.Next != "" {
		return store.WaySMTP
	}
	return g.likelyWay(l.Envelope.Sender, l.Origin, l.Domain)
}

// Fail ends open deliveries of a message, or the n-th one if n >= 0, as an
// operator asks: they bounce, and their sender gets a DSN with the text ("" for
// one of ours), in one transaction for each destination. Running attempts lose
// their leases. It says how many deliveries ended, with an error if that is not
// all of them: what did not is due again when the lease runs out.
func (g *Gateway) Fail(ctx context.Context, id mail.ID, n int, by, text string) (int, error) {
	leases, err := g.Store.Seize(ctx, id, n, by, leaseTime)
	if err != nil {
		return 0, err
	}
	if text == "" {
		text = "delivery was given up by the operator of this mail system"
	}
	ended, open := 0, 0
	for _, l := range leases {
		open += len(l.Deliveries)
		content := storedContent{ctx, g.Store, l.ID, l.Facts.Size}
		ended += g.settle(l, content, trial{outcomes: mail.AllFailed(len(l.Deliveries), mail.Fail(mail.Rejected, text, nil))}, 0)
	}
	if ended < open {
		return ended, fmt.Errorf("%d of %d deliveries could not be ended, the gateway's log says why; they are due again in %s at the latest", open-ended, open, leaseTime)
	}
	return ended, nil
}

package gateway

import (
	"context"
	"io"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// attempt tries the deliveries of one lease and settles them. content nil
// reads it from the store; begun says that the attempt is recorded already.
func (g *Gateway) attempt(ctx context.Context, l store.Lease, content mail.Content, begun bool) reach {
	if content == nil {
		content = storedContent{ctx, g.Store, l.ID, l.Facts.Size}
	}
	if late := expired(l); len(late.Deliveries) > 0 {
		g.settle(late, content, g.expiredOutcomes(late))
		if l.Deliveries = remaining(l); len(l.Deliveries) == 0 {
			return unknown
		}
	}
	if !begun {
		var err error
		if l, err = g.Store.BeginAttempt(ctx, l); err != nil {
			g.Log.Error("attempt not begun", "id", l.ID, "domain", l.Domain, "err", err)
			return unknown
		}
	}
	faults.Point("deliver.begun")
	outcomes := g.try(ctx, l, content)
	faults.Point("deliver.tried")
	g.settle(l, content, outcomes)
	return reachOf(outcomes)
}

// try picks the transport and carries one attempt through it.
func (g *Gateway) try(ctx context.Context, l store.Lease, content mail.Content) []mail.Outcome {
	local, ours := g.speaker(l.Envelope.Sender, l.Origin)
	rt, failure := g.route(ctx, local, l.Domain)
	if failure == nil && rt.way == toPeer && !ours {
		failure = errForeignSender(l.Envelope.Sender, l.Domain)
	}
	if failure != nil {
		return mail.AllFailed(len(l.Deliveries), failure)
	}
	outcomes := rt.transport.Deliver(ctx, mail.Attempt{
		ID:       l.ID,
		Transfer: l.Transfer,
		Number:   l.Deliveries[0].Attempt,
		Envelope: partOf(l),
		Content:  content,
		Facts:    l.Facts,
		Trace:    l.Trace,
		Domain:   l.Domain,
		Local:    local,
		InDoubt:  slices.ContainsFunc(l.Deliveries, func(d store.Delivery) bool { return d.InDoubt }),
	})
	if rt.way == toPeer && reachOf(outcomes) == unreachable {
		g.Peers.Expect(local, l.Domain)
	}
	return outcomes
}

// partOf is the message's envelope with the lease's recipients only.
func partOf(l store.Lease) mail.Envelope {
	env := l.Envelope
	env.Recipients = make([]mail.Recipient, len(l.Deliveries))
	for i, d := range l.Deliveries {
		env.Recipients[i] = l.Envelope.Recipients[d.N]
	}
	return env
}

// reachOf tells whether the destination answered for any recipient.
func reachOf(outcomes []mail.Outcome) reach {
	for _, o := range outcomes {
		if o.Delivered() {
			return reached
		}
		switch o.Failure.Kind {
		case mail.Unreachable, mail.Doubtful, mail.Internal:
		default:
			return reached
		}
	}
	return unreachable
}

// expired is the part of a lease whose lifetime is over.
func expired(l store.Lease) store.Lease {
	l.Deliveries = slices.DeleteFunc(slices.Clone(l.Deliveries), func(d store.Delivery) bool { return !d.Expired })
	return l
}

// remaining are the deliveries of a lease that may still be tried.
func remaining(l store.Lease) []store.Delivery {
	return slices.DeleteFunc(slices.Clone(l.Deliveries), func(d store.Delivery) bool { return d.Expired })
}

// expiredOutcomes says of deliveries whose time is over what they last heard.
func (g *Gateway) expiredOutcomes(l store.Lease) []mail.Outcome {
	out := make([]mail.Outcome, len(l.Deliveries))
	for i, d := range l.Deliveries {
		text := "could not be delivered in time"
		if d.LastText != "" {
			text += "; the last answer was: " + d.LastText
		}
		out[i] = mail.Outcome{Failure: mail.Fail(mail.Expired, text, nil)}
	}
	return out
}

// storedContent reads a message's content from the store.
type storedContent struct {
	ctx   context.Context
	store Store
	id    mail.ID
	size  int64
}

func (c storedContent) Open() (io.ReadCloser, error) { return c.store.OpenContent(c.ctx, c.id) }
func (c storedContent) Size() int64                  { return c.size }

package gateway

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// attempt tries the deliveries of one lease and settles them, or puts them off.
// content nil reads it from the store; begun says that the attempt is recorded
// already.
func (g *Gateway) attempt(ctx context.Context, h *held, content mail.Content, begun bool) trial {
	l := h.lease
	if content == nil {
		content = storedContent{ctx, g.Store, l.ID, l.Facts.Size}
	}
	if late := expired(l); len(late.Deliveries) > 0 {
		if l.Deliveries = remaining(l); len(l.Deliveries) > 0 {
			g.sched.narrow(h, l)
		}
		g.settle(late, content, trial{outcomes: g.expiredOutcomes(late)}, patience)
		if len(l.Deliveries) == 0 {
			return trial{}
		}
	}
	if h.off != nil {
		t := putOffTrial(l, h.off)
		g.sched.settles(h)
		g.settle(l, content, t, patience)
		return t
	}
	if !begun {
		var err error
		switch l, err = g.Store.BeginAttempt(ctx, l, g.likelyWayOf(l)); {
		case errors.Is(err, store.ErrLeaseLost):
			g.Log.Warn("lease lost", "id", l.ID, "domain", l.Domain)
			return trial{}
		case err != nil:
			g.Log.Error("attempt not begun", "id", l.ID, "domain", l.Domain, "err", err)
			return trial{}
		}
	}
	faults.Point("deliver.begun")
	t := g.try(ctx, h, l, content)
	faults.Point("deliver.tried")
	g.sched.settles(h)
	g.settle(l, content, t, patience)
	return t
}

// trial is what an attempt came to.
type trial struct {
	way      way
	outcomes []mail.Outcome // one for each delivery of the lease
	site     string         // the destination that was asked; "" for none
	reach    reach
	why      *mail.Failure // that reach goes by
	took     time.Duration
	cut      bool    // the program's end cut it short
	off      *putOff // nobody was asked
}

// putOffTrial is what comes of a lease that is not tried. Its deliveries keep the
// words of their own last attempts, where they have any.
func putOffTrial(l store.Lease, off *putOff) trial {
	t := trial{off: off, outcomes: mail.AllFailed(len(l.Deliveries), off.why)}
	for i, d := range l.Deliveries {
		if d.LastText != "" {
			t.outcomes[i].Failure = mail.Fail(off.why.Kind, d.LastText, nil)
		}
	}
	return t
}

// try picks the transport and carries one attempt through it.
func (g *Gateway) try(ctx context.Context, h *held, l store.Lease, content mail.Content) trial {
	// For a domain of ours nobody speaks: its own reverse-path stays.
	local, as, ours := l.Domain, l.Envelope.Sender, true
	if _, here := g.domains[l.Domain]; !here || l.Next != "" {
		local, as, ours = g.speaker(l.Envelope.Sender, l.Origin)
	}
	rt, failure := g.routeOf(ctx, local, l)
	switch {
	case failure == nil && rt.way == toLegacy:
		as = g.reversePath(l.Envelope.Sender, l.Origin)
	case failure != nil || rt.way != toPeer:
		as = l.Envelope.Sender
	case !ours:
		failure = errForeignSender(l.Envelope.Sender, l.Domain)
	}
	if failure != nil {
		return trial{way: rt.way, outcomes: mail.AllFailed(len(l.Deliveries), failure), cut: stopped(ctx)}
	}
	sure, doubted := split(l)
	otherwise := rt.way != toPeer && len(doubted.Deliveries) > 0
	if otherwise && l.Next == "" && !g.mayGoOtherwise(ctx, l.Domain) { // a redirection is the operator's word
		g.doubts.waited.Add(int64(len(doubted.Deliveries)))
		waits := mail.AllFailed(len(l.Deliveries), errWaits(l.Domain))
		if len(sure.Deliveries) == 0 {
			return trial{way: toPeer, outcomes: waits, cut: stopped(ctx)}
		}
		t := g.carry(ctx, h, sure, content, rt, local, as)
		merge(l, sure, waits, t.outcomes)
		t.outcomes = waits
		return t
	}
	t := g.carry(ctx, h, l, content, rt, local, as)
	switch {
	case otherwise && t.off == nil:
		g.mark(l, t.outcomes)
	case rt.way == toPeer && t.reach == unreachable && !t.cut:
		g.Peers.Expect(local, l.Domain)
		g.leaveDoubt(ctx, l, content, &t)
	}
	return t
}

// carry hands the deliveries of a lease to a transport, under the reverse-path
// as, once their destination has room.
func (g *Gateway) carry(ctx context.Context, h *held, l store.Lease, content mail.Content, rt route, local string, as mail.Address) trial {
	if off := g.sched.arrive(ctx, h, destinationOf(rt.transport, l.Domain)); off != nil {
		return putOffTrial(l, off)
	}
	if l.Way != store.Way(rt.way) {
		// Recorded before the mail can have been taken, so that a crash leaves
		// behind by which way.
		if err := g.Store.SetWay(ctx, l, store.Way(rt.way)); err != nil {
			return trial{way: rt.way, outcomes: mail.AllFailed(len(l.Deliveries), mail.AsFailure(err)), cut: stopped(ctx)}
		}
	}
	start := time.Now()
	outcomes := g.hand(ctx, l, content, rt, local, as)
	g.sched.leave(h)
	t := trial{way: rt.way, outcomes: outcomes, took: time.Since(start), cut: stopped(ctx)}
	t.site = destinationOf(rt.transport, l.Domain) // known better now
	t.reach, t.why = reachOf(outcomes)
	return t
}

// hand gives a message to a transport, with tags where it is finally delivered.
func (g *Gateway) hand(ctx context.Context, l store.Lease, content mail.Content, rt route, local string, as mail.Address) []mail.Outcome {
	give := func(l store.Lease, content mail.Content) []mail.Outcome {
		return g.give(ctx, l, content, rt, local, as)
	}
	if rt.way == toLocal && g.Judge != nil {
		return g.handTagged(l, content, give)
	}
	return give(l, content)
}

// give is one attempt of a transport. Recipients in doubt are handed to a peer
// apart from the others: a peer that cannot be asked about them leaves them all
// in doubt, and what it was never offered would wait with them (xep-draft
// section 9.3).
func (g *Gateway) give(ctx context.Context, l store.Lease, content mail.Content, rt route, local string, as mail.Address) []mail.Outcome {
	if sure, doubted := split(l); rt.way == toPeer && len(sure.Deliveries) > 0 && len(doubted.Deliveries) > 0 {
		outcomes := make([]mail.Outcome, len(l.Deliveries))
		for _, part := range []store.Lease{doubted, sure} {
			merge(l, part, outcomes, g.give(ctx, part, content, rt, local, as))
		}
		return outcomes
	}
	env := partOf(l)
	env.Sender = as
	trace := g.marked(l.ID, l.Envelope.Sender, l.Origin, l.Domain, len(env.Recipients), l.Trace)
	if rt.mta {
		trace = append(g.loops.field(env.Recipients), trace...)
	}
	return g.oneEach(ctx, rt.transport, mail.Attempt{
		ID:       l.ID,
		Transfer: l.Transfer,
		Number:   l.Deliveries[0].Attempt,
		Envelope: env,
		Content:  content,
		Facts:    l.Facts,
		Trace:    trace,
		Domain:   l.Domain,
		Local:    local,
		InDoubt:  slices.ContainsFunc(l.Deliveries, doubtful),
	})
}

// oneEach has a transport carry an attempt, and holds it to one outcome for each
// recipient: who has none is not delivered to, and tried again.
func (g *Gateway) oneEach(ctx context.Context, t Transport, a mail.Attempt) []mail.Outcome {
	out, want := t.Deliver(ctx, a), len(a.Envelope.Recipients)
	if len(out) == want {
		return out
	}
	g.Log.Error("wrong number of outcomes", "id", a.ID, "domain", a.Domain, "want", want, "got", len(out))
	return mail.AllFailed(want, mail.Fail(mail.Internal, "", nil))
}

func stopped(ctx context.Context) bool { return errors.Is(context.Cause(ctx), errStopped) }

// partOf is the message's envelope with the lease's recipients only.
func partOf(l store.Lease) mail.Envelope {
	env := l.Envelope
	env.Recipients = make([]mail.Recipient, len(l.Deliveries))
	for i, d := range l.Deliveries {
		env.Recipients[i] = l.Envelope.Recipients[d.N]
	}
	return env
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

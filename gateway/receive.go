package gateway

import (
	"context"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Check judges a peer's recipients before there is content (xep-draft section
// 4): per recipient nil or why not. That they are of domains whose mail comes
// to the local name of the stream, and that the sender belongs to the peer, has
// been shown before.
func (g *Gateway) Check(ctx context.Context, _ mail.Binding, env mail.Envelope) []*mail.Failure {
	out := make([]*mail.Failure, len(env.Recipients))
	ask, at := map[string][]mail.Recipient{}, map[string][]int{} // by domain
	for i, r := range env.Recipients {
		domain := r.Address.Domain
		if _, ours := g.domains[domain]; !ours {
			out[i] = mail.Failf(mail.NoSuchDomain, "%s is not served here", domain)
			continue
		}
		r, returned, failure := g.meant(r)
		if out[i] = failure; failure == nil && !returned {
			ask[domain], at[domain] = append(ask[domain], r), append(at[domain], i)
		}
	}
	for domain, rcpts := range ask {
		for j, f := range g.verifyLocal(ctx, g.domains[domain], env.Sender, env.SMTPUTF8, rcpts) {
			out[at[domain][j]] = f
		}
	}
	return out
}

// Accept takes responsibility for a peer's message (xep-draft section 5): it
// is durable, with its acceptances, when ids come back. m.Content nil stands
// for what the open transfer k holds. One id or one failure per recipient.
func (g *Gateway) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, b mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	m.ID = mail.NewID()
	m.Envelope.Recipients = slices.Clone(m.Envelope.Recipients)
	for i, r := range m.Envelope.Recipients {
		m.Envelope.Recipients[i], _, _ = g.meant(r) // judged by Check
	}
	if m.Facts.Received+receivedFields(m.Trace) > g.Hops {
		return make([]mail.ID, len(m.Envelope.Recipients)), g.refusePeer(b, m, mail.Fail(mail.Loop, "", nil))
	}
	m.Trace = append(g.received(m, true), m.Trace...)
	faults.Point("receive.before-accept")

	in := incoming{m, k.ID}
	res := g.sched.reserve(senderOf(m), domainsOf(m.Envelope))
	res.own.Ways = g.likelyWays(in, res.own.Domains)
	ids, leases, err := g.Store.Accept(ctx, k, h, g.newMessage(in, nil, res.own))
	if err != nil {
		g.sched.giveBack(res)
		return make([]mail.ID, len(m.Envelope.Recipients)), g.refusePeer(b, m, g.storeFailure(err))
	}
	if slices.Contains(ids, m.ID) {
		g.logAccepted(m)
	} else {
		g.Log.Info("accepted before, answered from memory", "id", ids[0], "dir", "in", "transport", "xmpp",
			"from", m.Envelope.Sender, "peer", b.Remote)
	}
	g.sched.start(leases, res, m.Content)
	return ids, make([]*mail.Failure, len(ids))
}

func domainsOf(env mail.Envelope) map[string]bool {
	out := map[string]bool{}
	for _, r := range env.Recipients {
		out[r.Address.Domain] = true
	}
	return out
}

// refusePeer gives every recipient of a peer's message the same failure.
func (g *Gateway) refusePeer(b mail.Binding, m *mail.Message, f *mail.Failure) []*mail.Failure {
	g.Log.Info("refused", "id", m.ID, "dir", "in", "transport", "xmpp", "from", m.Envelope.Sender,
		"peer", b.Remote, "status", f.Status(), "err", f)
	failures := make([]*mail.Failure, len(m.Envelope.Recipients))
	for i := range failures {
		failures[i] = f
	}
	return failures
}

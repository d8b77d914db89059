package gateway

import (
	"context"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Check judges a peer's recipients before there is content (xep-draft section
// 4): per recipient nil or why not. That they are of the local domain of the
// stream, and that the sender belongs to the peer, has been shown before.
func (g *Gateway) Check(ctx context.Context, b mail.Binding, env mail.Envelope) []*mail.Failure {
	d, ours := g.domains[b.Local]
	if !ours {
		out := make([]*mail.Failure, len(env.Recipients))
		for i := range out {
			out[i] = mail.Failf(mail.NoSuchDomain, "%s is not served here", b.Local)
		}
		return out
	}
	out := make([]*mail.Failure, len(env.Recipients))
	var ask []mail.Recipient
	var at []int
	for i, r := range env.Recipients {
		r, returned, failure := g.meant(r)
		if out[i] = failure; failure == nil && !returned {
			ask, at = append(ask, r), append(at, i)
		}
	}
	if len(ask) > 0 {
		for j, f := range g.verifyLocal(ctx, d, env.Sender, env.SMTPUTF8, ask) {
			out[at[j]] = f
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
	m.Trace = append(g.received(m, true), m.Trace...)
	faults.Point("receive.before-accept")

	res := g.sched.reserve(senderOf(m), map[string]bool{b.Local: true})
	res.own.Ways = map[string]store.Way{b.Local: store.WayLocal}
	ids, leases, err := g.Store.Accept(ctx, k, h, g.newMessage(incoming{m, k.ID}, nil, res.own))
	if err != nil {
		g.sched.giveBack(res)
		f := g.storeFailure(err)
		g.Log.Info("refused", "id", m.ID, "dir", "in", "transport", "xmpp", "from", m.Envelope.Sender,
			"peer", b.Remote, "status", f.Status(), "err", f)
		failures := make([]*mail.Failure, len(m.Envelope.Recipients))
		for i := range failures {
			failures[i] = f
		}
		return make([]mail.ID, len(failures)), failures
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

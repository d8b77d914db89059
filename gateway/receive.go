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
func (g *Gateway) Check(ctx context.Context, b mail.Binding, env mail.Envelope) []*mail.Failure {
	out := make([]*mail.Failure, len(env.Recipients))
	ask, at := map[string][]mail.Recipient{}, map[string][]int{} // by domain
	for i, r := range env.Recipients {
		domain := r.Address.Domain
		if _, ours := g.domains[domain]; !ours {
			out[i] = mail.Failf(mail.NoSuchDomain, "%s is not served here", domain)
			continue
		}
		r, returned, failure := g.meant(ctx, r)
		if out[i] = failure; failure == nil && !returned {
			ask[domain], at[domain] = append(ask[domain], r), append(at[domain], i)
		}
	}
	for domain, rcpts := range ask {
		for j, f := range g.verifyLocal(ctx, g.domains[domain], env.Sender, env.SMTPUTF8, rcpts) {
			if g.Judge != nil {
				_, f = g.Judge.Recipient(ctx, mail.Source{Binding: b}, env.Sender, rcpts[j], f)
			}
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
	meant := g.meantAll(ctx, m)
	if m.Facts.Received+receivedFields(m.Trace) > g.Hops {
		return make([]mail.ID, len(m.Envelope.Recipients)), g.refusePeer(b, m, mail.Fail(mail.Loop, "", nil))
	}
	content := m.Content
	if content == nil {
		content = transferContent{ctx, g.Store, k, h.Size}
	}
	judged, found := g.judge(ctx, mail.Source{Binding: b}, m, content, meant)
	m.Trace = append(g.vouch(ctx, mail.Source{Binding: b}, m, content, found), m.Trace...)
	m.Trace = append(g.received(m, true), m.Trace...)
	faults.Point("receive.before-accept")

	ids, failures := make([]mail.ID, len(m.Envelope.Recipients)), make([]*mail.Failure, len(m.Envelope.Recipients))
	refused, kept, f := turnedAway(judged)
	if len(refused) == 0 {
		return g.acceptFrom(ctx, k, h, b, m)
	}
	g.Log.Info("refused", "id", m.ID, "dir", "in", "transport", "xmpp", "from", m.Envelope.Sender,
		"peer", b.Remote, "rcpts", len(refused), "status", f.Status(), "err", f)
	for _, i := range refused {
		failures[i] = judged[i].Refusal
	}
	if len(kept) == 0 {
		return ids, failures
	}
	m.Envelope = only(m.Envelope, kept)
	taken, failed := g.acceptFrom(ctx, k, h, b, m)
	for n, i := range kept {
		ids[i], failures[i] = taken[n], failed[n]
	}
	return ids, failures
}

// acceptFrom makes a peer's message durable for the recipients that it has. The
// memory of acceptances holds the mailboxes behind aliases.
func (g *Gateway) acceptFrom(ctx context.Context, k store.TransferKey, h store.ContentHash, b mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	original, content := m.Envelope, m.Content
	if content == nil {
		content = transferContent{ctx, g.Store, k, h.Size}
	}
	in := incoming{Message: m, transfer: k.ID}
	x, f := g.unalias(m, content)
	if f == nil {
		m.Envelope = x.env
		f = g.keepReturnPath(ctx, m)
	}
	if f == nil {
		in.reports, f = g.expandedNow(ctx, k, m, content, original, x)
	}
	defer closeMessages(in.reports)
	if f == nil {
		var ids []mail.ID
		if ids, f = g.acceptExpanded(ctx, k, h, b, in); f == nil {
			return x.back(ids), make([]*mail.Failure, len(original.Recipients))
		}
	}
	m.Envelope = original
	return make([]mail.ID, len(original.Recipients)), g.refusePeer(b, m, f)
}

// expandedNow are the reports about those aliases whose mailboxes this transfer
// has not brought the message before: of the others the sender has heard.
func (g *Gateway) expandedNow(ctx context.Context, k store.TransferKey, m *mail.Message, content mail.Content, original mail.Envelope, x expansion) ([]store.NewMessage, *mail.Failure) {
	if len(x.expanded) == 0 {
		return nil, nil
	}
	t, err := g.Store.Lookup(ctx, k)
	if err != nil {
		return nil, g.storeFailure(err)
	}
	var fresh []int
	for _, i := range x.expanded {
		if _, before := t.Accepted[x.env.Recipients[x.at[i]].Address]; !before {
			fresh = append(fresh, i)
		}
	}
	return g.expandedReports(m, content, original, fresh)
}

// acceptExpanded returns one id per recipient that the message has.
func (g *Gateway) acceptExpanded(ctx context.Context, k store.TransferKey, h store.ContentHash, b mail.Binding, in incoming) ([]mail.ID, *mail.Failure) {
	m := in.Message
	res := g.sched.reserve(ctx, senderOf(m), domainsOf(m.Envelope))
	res.own.Ways = g.likelyWays(in, res.own.Domains)
	ids, leases, err := g.Store.Accept(ctx, k, h, g.newMessage(in, nil, res.own))
	if err != nil {
		g.sched.giveBack(res)
		return nil, g.storeFailure(err)
	}
	if slices.Contains(ids, m.ID) {
		g.logAccepted(in)
	} else {
		g.Log.Info("accepted before, answered from memory", "id", ids[0], "dir", "in", "transport", "xmpp",
			"from", m.Envelope.Sender, "peer", b.Remote)
	}
	g.sched.start(leases, res, m.Content)
	return ids, nil
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

package gateway

import (
	"context"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// tryCutThrough hands a message on while its client waits, when every
// recipient sits behind one peer whose stream is up. done is false where that
// is not so and nothing was tried.
func (g *Gateway) tryCutThrough(ctx context.Context, m incoming, perRecipient bool) (verdicts []mail.Verdict, done bool) {
	domain, local, ok := g.cutThroughPeer(ctx, m)
	if !ok {
		return nil, false
	}
	ups, ok := g.sched.enterCut(domain)
	if !ok {
		return nil, false
	}
	start := time.Now()
	outcomes := g.handOver(ctx, m, local, domain)
	faults.Point("accept.handed-over")
	g.logCutThrough(m, domain, outcomes, time.Since(start))
	verdicts = g.answerCutThrough(ctx, m, outcomes, perRecipient)
	r, why := reachOf(outcomes)
	due := g.sched.leaveCut(domain, ups, r, why)
	if r == unreachable {
		g.Peers.Expect(local, domain)
	}
	if due {
		// Once the rest is in the spool: what the stream's return released
		// before that has passed it over.
		g.sched.releaseBeside(domain, peerBack)
	}
	return verdicts, true
}

// cutThroughPeer finds the one live peer behind all recipients.
func (g *Gateway) cutThroughPeer(ctx context.Context, m incoming) (domain, local string, ok bool) {
	if !g.CutThrough {
		return "", "", false
	}
	domain = m.Envelope.Recipients[0].Address.Domain
	for _, r := range m.Envelope.Recipients {
		if r.Address.Domain != domain {
			return "", "", false
		}
	}
	local, _, ours := g.speaker(m.Envelope.Sender, m.Origin)
	if !ours || !g.Peers.Live(local, domain) {
		return "", "", false
	}
	rt, failure := g.route(ctx, local, domain)
	return domain, local, failure == nil && rt.way == toPeer
}

func (g *Gateway) handOver(ctx context.Context, m incoming, local, domain string) []mail.Outcome {
	ctx, cancel := context.WithTimeout(ctx, g.CutThroughDeadline)
	defer cancel()
	env := m.Envelope
	_, env.Sender, _ = g.speaker(env.Sender, m.Origin)
	return g.oneEach(ctx, g.Peers, mail.Attempt{
		ID:       m.ID,
		Transfer: m.transfer,
		Envelope: env,
		Content:  m.Content,
		Facts:    m.Facts,
		Trace:    g.marked(m.ID, m.Envelope.Sender, m.Origin, domain, len(env.Recipients), m.Trace),
		Domain:   domain,
		Local:    local,
	})
}

// answerCutThrough turns the peer's verdicts into the client's. SMTP has one
// reply for all recipients, so what it cannot say becomes a DSN, and what is
// undecided is spooled durably before the 250 (RFC 5321 section 4.2.5).
func (g *Gateway) answerCutThrough(ctx context.Context, m incoming, outcomes []mail.Outcome, perRecipient bool) []mail.Verdict {
	var accepted, refused, undecided []int
	for i, o := range outcomes {
		switch {
		case o.Delivered():
			accepted = append(accepted, i)
		case o.Failure.Class == mail.Permanent:
			refused = append(refused, i)
		default:
			undecided = append(undecided, i)
		}
	}
	settled := len(undecided) == 0
	switch {
	case perRecipient:
		return g.answerEach(ctx, m, outcomes, settled)
	case settled && len(accepted) == 0:
		return refusal(outcomes[refused[0]].Failure)
	case settled && len(refused) == 0:
		return []mail.Verdict{takenBy(outcomes[0])}
	}
	first, bounce := g.afterCutThrough(outcomes)
	verdicts, ok := g.spoolRest(ctx, m, first, bounce, outcomes)
	if ok && settled {
		return []mail.Verdict{takenBy(outcomes[accepted[0]])}
	}
	return verdicts
}

// answerEach is answerCutThrough for LMTP, where every recipient has a reply
// of its own: refusals are said, not sent as DSNs.
func (g *Gateway) answerEach(ctx context.Context, m incoming, outcomes []mail.Outcome, settled bool) []mail.Verdict {
	verdicts := make([]mail.Verdict, len(outcomes))
	rest := mail.Verdict{}
	if !settled {
		first := make([]store.First, len(outcomes))
		for i, o := range outcomes {
			done := o.Delivered() || o.Failure.Class == mail.Permanent
			first[i] = g.afterAttempt(o)
			first[i].Done = done
		}
		rest = g.spool(ctx, m, first)[0]
	}
	for i, o := range outcomes {
		switch {
		case o.Delivered():
			verdicts[i] = takenBy(o)
		case o.Failure.Class == mail.Permanent:
			verdicts[i] = mail.Verdict{Failure: o.Failure}
		default:
			verdicts[i] = rest
		}
	}
	return verdicts
}

// afterCutThrough says how each delivery goes on in the spool, and which are
// to bounce at once.
func (g *Gateway) afterCutThrough(outcomes []mail.Outcome) (first []store.First, bounce bool) {
	first = make([]store.First, len(outcomes))
	for i, o := range outcomes {
		first[i] = g.afterAttempt(o)
		bounce = bounce || o.Failure != nil && o.Failure.Class == mail.Permanent
	}
	return first, bounce
}

// afterAttempt is how a delivery starts in the spool after a first attempt
// outside it. A refused one starts due: it is settled at once, by spoolRest.
func (g *Gateway) afterAttempt(o mail.Outcome) store.First {
	switch {
	case o.Delivered():
		return store.First{Done: true, Way: store.WayXMPP, Outcome: o}
	case o.Failure.Class == mail.Permanent:
		return store.First{Way: store.WayXMPP, Outcome: o}
	}
	return store.First{
		Delay:   max(g.retryDelay(1), o.Failure.RetryAfter),
		Way:     store.WayXMPP,
		InDoubt: o.Failure.Class == mail.InDoubt,
		Outcome: o,
	}
}

// spoolRest spools what cut-through left: deliveries to try again, and refused
// ones, which bounce in a settlement right after. A crash in between leaves
// them due, so that the peer's next refusal bounces them.
func (g *Gateway) spoolRest(ctx context.Context, m incoming, first []store.First, bounce bool, outcomes []mail.Outcome) ([]mail.Verdict, bool) {
	domain := m.Envelope.Recipients[0].Address.Domain
	own := store.Own{}
	if bounce {
		own = store.Own{Domains: []string{domain}, For: leaseTime, Ways: map[string]store.Way{domain: store.WayXMPP}}
	}
	leases, err := g.Store.PutMessage(ctx, g.newMessage(m, first, own))
	if err != nil {
		return refusal(g.storeFailure(err)), false
	}
	g.logAccepted(m)
	faults.Point("accept.spooled")
	for _, l := range leases {
		rest := make([]mail.Outcome, len(l.Deliveries))
		for i, d := range l.Deliveries {
			rest[i] = outcomes[d.N]
		}
		// The client waits, and the message is safe: one try, else it comes
		// out as after a crash.
		g.settle(l, m.Content, trial{way: toPeer, outcomes: rest}, 0)
	}
	return []mail.Verdict{{Text: "queued as " + string(m.ID)}}, true
}

// takenBy is the positive reply that passes on the peer's own queue id.
func takenBy(o mail.Outcome) mail.Verdict {
	return mail.Verdict{Text: "accepted by " + o.Remote + " as " + o.RemoteID}
}

func (g *Gateway) logCutThrough(m incoming, domain string, outcomes []mail.Outcome, took time.Duration) {
	for i, o := range outcomes {
		g.logOutcome(store.Lease{ID: m.ID, Envelope: m.Envelope, Facts: m.Facts, Domain: domain}, store.Delivery{N: i}, "cut-through",
			trial{way: toPeer, took: took}, o)
	}
}

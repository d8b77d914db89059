package gateway

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Entrance is the gateway as one SMTP or LMTP listener sees it.
type Entrance struct {
	*Gateway
	Trusted []netip.Prefix // clients that may send to any domain
	Local   bool           // it is a local socket: whoever may open it may, too
	Sign    bool           // what those send whose author is of a domain of ours is signed
	Beside  bool           // a mail server beside us asks about its own clients; only what it asks is answered
}

// Sender judges the reverse-path at MAIL.
func (e *Entrance) Sender(ctx context.Context, c mail.Client, env mail.Envelope) *mail.Failure {
	if s := env.Sender; !s.IsNull() && s.Domain == "" {
		return mail.Fail(mail.BadAddress, "sender address needs a domain", nil)
	}
	return e.mayUseSender(ctx, c.User, env.Sender)
}

// Recipient judges a recipient at RCPT: may this client send there, and does
// the mailbox exist as far as can be told now.
func (e *Entrance) Recipient(ctx context.Context, c mail.Client, env mail.Envelope, r mail.Recipient) *mail.Failure {
	if e.isAnswer(r.Address) {
		return e.expects(ctx, c, env.Sender, r.Address)
	}
	r, returned, failure := e.meant(ctx, r)
	if failure != nil {
		return failure
	}
	domain := r.Address.Domain
	if d, ours := e.domains[domain]; ours {
		return e.admits(ctx, c, env, r, e.verifyLocal(ctx, d, env.Sender, env.SMTPUTF8, []mail.Recipient{r})[0])
	}
	if !returned && !e.trusts(c) {
		return mail.Failf(mail.NotPermitted, "relaying to %s is not permitted from %s", domain, c.Addr.Addr())
	}
	local, as, ours := e.speaker(env.Sender, mail.Origin{})
	rt, failure := e.route(ctx, local, domain)
	switch {
	case failure != nil: // cannot be told now: the queue will find out
		return nil
	case rt.way != toPeer:
		return nil
	case !ours:
		return errForeignSender(env.Sender, domain)
	}
	return e.verifyPeer(ctx, local, domain, as, env.SMTPUTF8, r)
}

// trusts reports whether a client may relay.
func (e *Entrance) trusts(c mail.Client) bool {
	if c.User != "" {
		return true
	}
	if e.Local && !c.Addr.IsValid() {
		return true
	}
	addr := c.Addr.Addr().Unmap()
	for _, p := range e.Trusted {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// meant is the recipient that an address stands for: "postmaster" (RFC 5321
// section 4.5.1) gets the domain of ours that it belongs to, and an address that
// our SRS has made leads back to where it came from, which returned tells: for
// those we relay for anybody, since nobody else can make them.
func (g *Gateway) meant(ctx context.Context, r mail.Recipient) (out mail.Recipient, returned bool, failure *mail.Failure) {
	if r.Address.Domain == "" {
		r.Address.Domain = g.fallbackDomain()
	}
	if g.SRS == nil {
		return r, false, nil
	}
	switch a, err := g.SRS.Reverse(r.Address); {
	case errors.Is(err, ErrNotSRS):
		return r, false, nil
	case errors.Is(err, ErrSRSStored):
		return g.storedReturn(ctx, r, a)
	case err != nil:
		return r, false, mail.Fail(mail.NoSuchMailbox, "this forwarding address is not valid, or no longer", err)
	default:
		r.Address = a
		return r, true, nil
	}
}

// meanings are what became of a message's recipients, one entry for each.
type meanings struct {
	returned []bool
	failures []*mail.Failure // why it cannot be told whom the address leads to
}

// meantAll puts the recipients that are meant in the place of a message's. That
// they were found at RCPT does not say that they still are: the store may have
// failed since, or their time is over.
func (g *Gateway) meantAll(ctx context.Context, m *mail.Message) meanings {
	all := m.Envelope.Recipients
	out := meanings{make([]bool, len(all)), make([]*mail.Failure, len(all))}
	for i, r := range all {
		all[i], out.returned[i], out.failures[i] = g.meant(ctx, r)
	}
	return out
}

// refused adds what cannot be told to what was judged; nil where there is
// nothing of either.
func (m meanings) refused(judged []mail.Judged) []mail.Judged {
	for i, f := range m.failures {
		if f == nil {
			continue
		}
		if judged == nil {
			judged = make([]mail.Judged, len(m.failures))
		}
		judged[i].Refusal = f
	}
	return judged
}

// Accept takes responsibility for a message or refuses it (design: cut-through
// and spool). One verdict for all recipients, or one per recipient for LMTP.
func (e *Entrance) Accept(ctx context.Context, c mail.Client, m *mail.Message, perRecipient bool) []mail.Verdict {
	var verdicts []mail.Verdict
	if f := e.mayUseAuthors(ctx, c.User, m.Content); f != nil {
		verdicts = refusal(f)
	} else if f := e.sign(ctx, c, m); f != nil {
		verdicts = refusal(f)
	} else {
		verdicts = e.acceptAnswers(ctx, c, m, perRecipient, func(m *mail.Message) []mail.Verdict {
			return e.accept(ctx, e.source(c), m, perRecipient)
		})
	}
	for len(verdicts) < len(m.Envelope.Recipients) && perRecipient {
		verdicts = append(verdicts, verdicts[0])
	}
	for _, v := range verdicts {
		if v.Failure != nil {
			e.Log.Info("refused", "id", m.ID, "dir", "in", "transport", m.Origin.Transport,
				"from", m.Envelope.Sender, "remote", m.Origin.Remote, "size", m.Facts.Size, "status", v.Failure.Status(), "err", v.Failure)
			break
		}
	}
	return verdicts
}

// incoming is a message that is being accepted, with the id under which it
// travels to peers: made once, since it may be random.
type incoming struct {
	*mail.Message
	transfer string
	reports  []store.NewMessage // about it, to be stored with it
}

// accept ends with a call of the Judge's: it hears of what was taken.
func (g *Gateway) accept(ctx context.Context, src mail.Source, m *mail.Message, perRecipient bool) []mail.Verdict {
	m.ID = mail.NewID()
	meant := g.meantAll(ctx, m)
	if f := g.looping(m); f != nil {
		return refusal(f)
	}
	if m.Envelope.Sender.IsNull() {
		m.Origin.Local = g.fromDomain(m.Content)
	}
	judged, found := g.judge(ctx, src, m, m.Content, meant)
	m.Trace = append(g.vouch(ctx, src, m, m.Content, found), m.Trace...)
	trace := g.received(m, src.Client.ESMTP)
	m.Origin.Marked = g.Judge != nil && g.Judge.Marks(src, m.Envelope.Sender)
	m.Trace = append(trace, m.Trace...)
	faults.Point("accept.received")
	whole := m.Envelope
	verdicts := g.acceptJudged(ctx, m, judged, perRecipient)
	if g.Judge != nil && slices.ContainsFunc(verdicts, func(v mail.Verdict) bool { return v.Failure == nil }) {
		g.Judge.Accepted(ctx, src, m)
	}
	m.Envelope = whole
	return verdicts
}

// take hands a message on, or makes it durable.
func (g *Gateway) take(ctx context.Context, m *mail.Message, perRecipient bool) []mail.Verdict {
	original := m.Envelope
	x, f := g.unalias(m, m.Content)
	if f == nil {
		m.Envelope = x.env
		f = g.keepReturnPath(ctx, m)
	}
	if f != nil {
		return refusal(f)
	}
	in := incoming{Message: m, transfer: mail.TransferID(m.Envelope.Sender, m.Facts)}
	if len(x.aliases) > 0 {
		// One verdict for an address cannot be made of those for several.
		if in.reports, f = g.expandedReports(m, m.Content, original, x.expanded); f != nil {
			return refusal(f)
		}
		defer closeMessages(in.reports)
		return g.spool(ctx, in, nil)
	}
	if verdicts, done := g.tryCutThrough(ctx, in, perRecipient); done {
		return verdicts
	}
	return g.spool(ctx, in, nil)
}

// spool makes the message durable and starts what can start at once. first
// may say, per recipient, what an attempt before it came to.
func (g *Gateway) spool(ctx context.Context, m incoming, first []store.First) []mail.Verdict {
	domains := map[string]bool{}
	for i, r := range m.Envelope.Recipients {
		if first == nil || !first[i].Done && first[i].Delay == 0 {
			domains[r.Address.Domain] = true
		}
	}
	res := g.sched.reserve(ctx, senderOf(m.Message), domains)
	res.own.Ways = g.likelyWays(m, res.own.Domains)
	leases, err := g.Store.PutMessage(ctx, g.newMessage(m, first, res.own))
	if err != nil {
		g.sched.giveBack(res)
		return refusal(g.storeFailure(err))
	}
	g.logAccepted(m)
	g.sched.start(leases, res, m.Content)
	faults.Point("accept.spooled")
	return []mail.Verdict{{Text: "queued as " + string(m.ID)}}
}

func (g *Gateway) likelyWays(m incoming, domains []string) map[string]store.Way {
	ways := make(map[string]store.Way, len(domains))
	for _, domain := range domains {
		ways[domain] = g.likelyWay(m.Envelope.Sender, m.Origin, domain)
	}
	return ways
}

func (g *Gateway) newMessage(m incoming, first []store.First, own store.Own) store.NewMessage {
	return store.NewMessage{
		Message:  *m.Message,
		Transfer: m.transfer,
		Lifetime: g.lifetime(m.Envelope),
		First:    g.sched.firstTurns(m.Message, first),
		Lease:    own,
		Reports:  m.reports,
	}
}

func refusal(f *mail.Failure) []mail.Verdict { return []mail.Verdict{{Failure: f}} }

// storeFailure is what a client or peer hears when the store could not keep a
// message; the operator hears more.
func (g *Gateway) storeFailure(err error) *mail.Failure {
	if !errors.Is(err, store.ErrConflict) && !errors.Is(err, context.Canceled) {
		g.Log.Error("message not stored", "err", err)
	}
	switch {
	case errors.Is(err, store.ErrFull):
		return mail.Fail(mail.ResourceShort, "out of storage, try again later", err)
	case errors.Is(err, store.ErrConflict):
		return mail.Fail(mail.Conflict, "", err)
	}
	return mail.AsFailure(err)
}

// fromDomain finds the domain of the first From mailbox if it is ours: the one
// that a null reverse-path speaks for. "" if there is none.
func (g *Gateway) fromDomain(content mail.Content) string {
	for _, domain := range fromDomains(content) {
		if d, err := mail.ParseDomain(domain); err == nil {
			if _, ours := g.domains[d]; ours {
				return d
			}
		}
	}
	return ""
}

func (g *Gateway) logAccepted(m incoming) {
	rcpts := make([]string, 0, min(len(m.Envelope.Recipients), 10))
	for _, r := range m.Envelope.Recipients[:min(len(m.Envelope.Recipients), 10)] {
		rcpts = append(rcpts, r.Address.String())
	}
	g.Log.Info("accepted", "id", m.ID, "dir", "in", "transport", m.Origin.Transport, "from", m.Envelope.Sender,
		"rcpt", strings.Join(rcpts, ","), "rcpts", len(m.Envelope.Recipients), "peer", m.Origin.Peer,
		"remote", m.Origin.Remote, "size", m.Facts.Size, "tls", m.Origin.TLS)
	for _, r := range m.reports {
		g.Log.Info("dsn queued", "id", r.ID, "for", m.ID, "rcpt", r.Envelope.Recipients[0].Address)
	}
}

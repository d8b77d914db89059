package gateway

import (
	"context"
	"io"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Judge knows whom mail for our recipients is from, and whether they want it
// (package trust). Safe for concurrent use; it bounds its own waits. The
// gateway asks it about recipients of ours, and whether what goes back to those
// whose mail we have forwarded is forged.
type Judge interface {
	// Hides reports whether strangers must not learn which mailboxes of a
	// domain exist.
	Hides(domain string) bool
	// Recipient judges before there is content. missing is what is known of the
	// mailbox. undecided says that the content decides, also about mailboxes
	// that do not exist.
	Recipient(ctx context.Context, src mail.Source, sender mail.Address, r mail.Recipient, missing *mail.Failure) (undecided bool, f *mail.Failure)
	// Message judges a message whole: its recipients, with what is
	// known of each mailbox. It keeps nothing of m but for Vouch, which is asked
	// before the message goes anywhere, if at all.
	Message(ctx context.Context, src mail.Source, m *mail.Message, missing []*mail.Failure) mail.Judgement
	// Marks reports whether reports about a message that a sender of ours hands us
	// are to be known again.
	Marks(src mail.Source, sender mail.Address) bool
	// Mark returns the header field for that, CRLF-ended, of the copy for so many
	// recipients of a domain.
	Mark(id mail.ID, sender mail.Address, domain string, rcpts int) []byte
	// Accepted hears of every message of a client that was accepted. It keeps
	// nothing of m.
	Accepted(ctx context.Context, src mail.Source, m *mail.Message)
	// Clean takes what others have written in our name, or as our verdict, out
	// of trace and content. What it returns is as its arguments otherwise, and
	// the very same where there is nothing to take out.
	Clean(trace []byte, content mail.Content) ([]byte, mail.Content, error)
}

// source is a client of this entrance as the Judge sees it.
func (e *Entrance) source(c mail.Client) mail.Source {
	src := mail.Source{Client: c, Trusted: e.trusts(c)}
	if e.Beside {
		src.Client.User = "" // the mail server has authenticated somebody, whose addresses it may know; we do not
	}
	return src
}

// admits is the last word about a recipient of ours before there is content.
func (e *Entrance) admits(ctx context.Context, c mail.Client, env mail.Envelope, r mail.Recipient, missing *mail.Failure) *mail.Failure {
	if e.Judge == nil {
		return missing
	}
	src := e.source(c)
	undecided, f := e.Judge.Recipient(ctx, src, env.Sender, r, missing)
	if f != nil || !e.Beside || len(env.Recipients) == 0 {
		return f
	}
	// The mail server beside us will give one answer for all recipients, and we
	// cannot send a report about the rest: one whose answer may be another than
	// the others' goes alone (RFC 5321 section 4.5.3.1.10 has the client send
	// the others in another transaction). So does an address that leads to other
	// domains: forged mail for it is refused, whoever else takes it.
	undecided = undecided || !src.Trusted && e.leadsAbroad(r.Address)
	if !undecided {
		undecided = e.undecided(ctx, src, env)
	}
	if undecided {
		return mail.Fail(mail.ResourceShort, "one recipient at a time here, please", nil).WithStatus("4.5.3")
	}
	return nil
}

// undecided reports whether the first of the recipients so far waits for the
// content. The others do not: they would not have been let in beside it.
func (e *Entrance) undecided(ctx context.Context, src mail.Source, env mail.Envelope) bool {
	r, _, f := e.meant(ctx, env.Recipients[0])
	if d, ours := e.domains[r.Address.Domain]; f == nil && ours {
		missing := e.verifyLocal(ctx, d, env.Sender, env.SMTPUTF8, []mail.Recipient{r})[0]
		undecided, f := e.Judge.Recipient(ctx, src, env.Sender, r, missing)
		return undecided || f != nil || !src.Trusted && e.leadsAbroad(r.Address)
	}
	return false
}

// judge asks about a message's recipients of ours, and notes in m what they
// will be shown. It returns one entry per recipient. Those that an address of our
// SRS leads back to are judged too: anybody may send there, but nothing forged.
// Other recipients of other domains have nothing to be refused for; who cannot
// be told is refused. nil where there is nobody to refuse. vouch is the
// Judgement's; nil where nobody was asked.
func (g *Gateway) judge(ctx context.Context, src mail.Source, m *mail.Message, content mail.Content, meant meanings) (judged []mail.Judged, vouch func() []byte) {
	if g.Judge == nil || m.Origin.Transport == "local" { // our own
		return meant.refused(nil), nil
	}
	part, own := *m, []int(nil)
	part.Content, part.Envelope.Recipients = content, nil
	for i, r := range m.Envelope.Recipients {
		if _, ours := g.domains[r.Address.Domain]; meant.failures[i] == nil && (ours || meant.returned[i]) {
			own = append(own, i)
			part.Envelope.Recipients = append(part.Envelope.Recipients, r)
		}
	}
	out := make([]mail.Judged, len(m.Envelope.Recipients))
	if len(own) == 0 {
		return meant.refused(out), nil
	}
	j := g.Judge.Message(ctx, src, &part, g.missing(ctx, part.Envelope))
	m.Origin.Results = j.Results
	m.Envelope.Recipients = slices.Clone(m.Envelope.Recipients)
	for n, i := range own {
		out[i] = j.Recipients[n]
		r := &m.Envelope.Recipients[i]
		if _, ours := g.domains[r.Address.Domain]; ours {
			r.Verdict, r.Results = out[i].Verdict, out[i].Results
		}
		if out[i].Refusal == nil {
			out[i].Refusal = g.notForwarded(r.Address, out[i])
		}
	}
	return meant.refused(out), j.Vouch
}

// missing tells which recipients exist, once more, in domains where that could
// not be said before there was content.
func (g *Gateway) missing(ctx context.Context, env mail.Envelope) []*mail.Failure {
	out := make([]*mail.Failure, len(env.Recipients))
	ask, at := map[string][]mail.Recipient{}, map[string][]int{} // by domain
	for i, r := range env.Recipients {
		if domain := r.Address.Domain; g.Judge.Hides(domain) {
			ask[domain], at[domain] = append(ask[domain], r), append(at[domain], i)
		}
	}
	for domain, rcpts := range ask {
		for n, f := range g.verifyLocal(ctx, g.domains[domain], env.Sender, env.SMTPUTF8, rcpts) {
			out[at[domain][n]] = f
		}
	}
	return out
}

// turnedAway says which recipients are refused and which go on. all is the one
// answer where nobody is left.
func turnedAway(judged []mail.Judged) (refused, kept []int, all *mail.Failure) {
	for i, j := range judged {
		if j.Refusal == nil {
			kept = append(kept, i)
			continue
		}
		refused = append(refused, i)
		if all == nil || all.Class == mail.Permanent && j.Refusal.Class != mail.Permanent {
			all = j.Refusal // where one may come again, the message may
		}
	}
	return refused, kept, all
}

// only keeps some of an envelope's recipients.
func only(env mail.Envelope, kept []int) mail.Envelope {
	all := env.Recipients
	env.Recipients = make([]mail.Recipient, len(kept))
	for n, i := range kept {
		env.Recipients[n] = all[i]
	}
	return env
}

// acceptJudged takes a message for those recipients who want it.
func (g *Gateway) acceptJudged(ctx context.Context, m *mail.Message, judged []mail.Judged, perRecipient bool) []mail.Verdict {
	refused, kept, f := turnedAway(judged)
	switch {
	case len(refused) == 0:
		return g.take(ctx, m, perRecipient)
	case perRecipient:
		verdicts := make([]mail.Verdict, len(judged))
		for _, i := range refused {
			verdicts[i].Failure = judged[i].Refusal
		}
		if len(kept) == 0 {
			return verdicts
		}
		m.Envelope = only(m.Envelope, kept)
		taken := g.take(ctx, m, true)
		for n, i := range kept {
			verdicts[i] = taken[min(n, len(taken)-1)]
		}
		return verdicts
	case len(kept) == 0, f.Class != mail.Permanent:
		// A single answer for all: what might be taken later is not to be lost
		// by what is taken now.
		return refusal(f)
	}
	if err := g.reportRefused(ctx, m, judged, refused); err != nil {
		return refusal(g.storeFailure(err))
	}
	m.Envelope = only(m.Envelope, kept)
	return g.take(ctx, m, false)
}

// reportRefused queues the DSN that a client's single positive answer leaves us
// to send: before the message is taken, since a client that comes again gets
// the message twice otherwise. Nobody hears of a message that somebody else has
// sent in his name.
func (g *Gateway) reportRefused(ctx context.Context, m *mail.Message, judged []mail.Judged, refused []int) error {
	n := notice{action: "failed", content: m.Content, way: toLocal, lease: store.Lease{
		ID: m.ID, Envelope: m.Envelope, Facts: m.Facts, Trace: m.Trace, Origin: m.Origin, Domain: m.Envelope.Recipients[refused[0]].Address.Domain,
	}}
	for _, i := range refused {
		r := m.Envelope.Recipients[i]
		if judged[i].Forged || !r.WantsFailure() {
			g.Log.Info("refused without a report", "id", m.ID, "from", m.Envelope.Sender, "rcpt", r.Address, "forged", judged[i].Forged,
				"err", judged[i].Refusal)
			continue
		}
		n.reports = append(n.reports, report{r, store.Result{State: store.Bounced, Outcome: mail.Outcome{Failure: judged[i].Refusal}}, store.Delivery{N: i}})
	}
	dsn, err := g.dsn(n)
	if err != nil || dsn == nil {
		return err
	}
	defer closeDSNs(store.Settlement{DSNs: []store.NewMessage{*dsn}})
	if _, err := g.Store.PutMessage(ctx, *dsn); err != nil {
		return err
	}
	g.Log.Info("dsn queued", "id", dsn.ID, "for", m.ID, "rcpt", m.Envelope.Sender)
	return nil
}

// transferContent is what an open transfer of a peer holds.
type transferContent struct {
	ctx   context.Context
	store Store
	key   store.TransferKey
	size  int64
}

func (c transferContent) Open() (io.ReadCloser, error) { return c.store.OpenTransfer(c.ctx, c.key) }
func (c transferContent) Size() int64                  { return c.size }

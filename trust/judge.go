package trust

import (
	"context"
	"log/slog"
	"time"

	"mailxmppd/mail"
	"mailxmppd/trust/arc"
	"mailxmppd/trust/authres"
)

// JudgeConfig says what a Judge goes by.
type JudgeConfig struct {
	Evaluator *Evaluator
	Domains   map[string]DomainPolicy // ours, by A-labels
	Grants    []Permits               // count for authors who are proven otherwise
	Keys      []Permits               // of signatures, which prove their author by themselves
	Attester  Attester                // of the same keys; nil: their results are in the verdict alone
	Marks     *SentMarks              // nil: reports about mail of ours are mail like any other
	Granter   Granter                 // nil: nobody is granted anything for being written to
	Learner   Learner                 // nil: no keys are learnt
	OpenFor   time.Duration           // how long mail is put off for what cannot be told; 4 hours
	Known     []string                // domains that others could be taken for: ours
	Log       *slog.Logger

	// Sealer returns what seals forwarded mail now, ok false for nothing; nil: it
	// goes on unsealed.
	Sealer func() (s arc.Sealer, ok bool)
}

// Granter learns whom our users write to. Safe for concurrent use; it bounds
// its own waits.
type Granter interface {
	// Wrote is called once a message of a user has been accepted from a mailbox
	// whose policy wants the way back granted. The message is only lent. It
	// answers for leaving out automatic replies (RFC 3834 section 2).
	Wrote(ctx context.Context, mailbox mail.Address, m *mail.Message)
}

// defaultOpenFor is less than the day within which senders begin to give up.
const defaultOpenFor = 4 * time.Hour

// Judge decides for each recipient of ours what becomes of a message: it is
// what package gateway asks. Safe for concurrent use.
type Judge struct {
	cfg    JudgeConfig
	grants permits
	keys   permits
	open   *patience
}

// NewJudge makes a Judge.
func NewJudge(cfg JudgeConfig) *Judge {
	if cfg.OpenFor <= 0 {
		cfg.OpenFor = defaultOpenFor
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Judge{cfg: cfg, grants: cfg.Grants, keys: cfg.Keys, open: newPatience(cfg.OpenFor)}
}

// Hides reports whether strangers must not learn which mailboxes of a domain
// exist.
func (j *Judge) Hides(domain string) bool { return j.cfg.Domains[domain].Hides() }

// Recipient judges a recipient of ours before there is content. missing is what
// was found of the mailbox: nil, or why it does not exist. undecided says that
// the content decides; then a mailbox that does not exist is no refusal either,
// since strangers must not tell it from one that denies (xep-draft section
// 10.3).
func (j *Judge) Recipient(ctx context.Context, src mail.Source, sender mail.Address, r mail.Recipient, missing *mail.Failure) (undecided bool, f *mail.Failure) {
	d := j.cfg.Domains[r.Address.Domain]
	if !d.Hides() || !j.stranger(src) || missing != nil && missing.Class != mail.Permanent {
		return false, missing
	}
	if missing == nil && !d.Of(r.Address).Deny {
		return false, nil
	}
	may, err := j.mayPermit(ctx, sender, r)
	switch {
	case may:
		return true, nil
	case err != nil:
		j.cfg.Log.Warn("permits not read", "from", sender, "err", err)
		return false, notNow(err)
	}
	return false, d.denied()
}

// mayPermit reports whether anything under a reverse-path might be wanted.
func (j *Judge) mayPermit(ctx context.Context, sender mail.Address, r mail.Recipient) (bool, error) {
	if sender.IsNull() && j.cfg.Marks != nil {
		return true, nil // a report, maybe
	}
	ok, err := j.grants.MayPermit(ctx, sender, r)
	if ok {
		return true, nil
	}
	ok, errKeys := j.keys.MayPermit(ctx, sender, r)
	if err == nil {
		err = errKeys
	}
	return ok, err
}

// Message judges a message for each of its recipients, which are all ours.
// missing has what Recipient was told of each. Its content is read here, with
// DNS within the Evaluator's budget.
func (j *Judge) Message(ctx context.Context, src mail.Source, m *mail.Message, missing []*mail.Failure) mail.Judgement {
	ev := j.cfg.Evaluator.Evaluate(ctx, j.input(src, m))
	lent := *m
	out := mail.Judgement{
		Results:    j.cfg.Evaluator.AuthenticationResults(ev),
		Recipients: make([]mail.Judged, len(m.Envelope.Recipients)),
		Vouch:      func() []byte { return j.vouch(&lent, ev) },
	}
	for i, r := range m.Envelope.Recipients {
		out.Recipients[i] = j.recipient(ctx, src, m, &ev, r.Address, missing[i])
	}
	return out
}

func (j *Judge) recipient(ctx context.Context, src mail.Source, m *mail.Message, ev *Evidence, rcpt mail.Address, missing *mail.Failure) mail.Judged {
	d := j.cfg.Domains[rcpt.Domain]
	p := d.Of(rcpt)
	terms := j.terms(ctx, src, m, ev, p, rcpt)
	ruling := Rule(ev, terms)
	out := mail.Judged{Verdict: mail.Sanitise(ruling.String()), Forged: ruling.Verdict == Forged}
	out.Borrowed = j.borrowed(src, ev, rcpt, func() bool { return j.open.over(m, rcpt) })
	if j.cfg.Attester != nil && len(ev.From.Authors) == 1 {
		if m, ok := j.cfg.Attester.Attest(rcpt, ev.From.Authors[0].Address, ev); ok {
			out.Results = authres.Format(j.cfg.Evaluator.conf.Hostname, []authres.Method{m})
		}
	}
	if p.Deny || missing != nil {
		ruling.Open = ruling.Open || j.couldOpen(ctx, m, ev, rcpt, ruling)
	}
	switch stranger := j.stranger(src); {
	case missing != nil && missing.Class != mail.Permanent, missing != nil && !(stranger && d.Hides()):
		out.Refusal = missing
	case missing != nil:
		// As one that denies would be answered, by the same steps up to here.
		out.Refusal = d.refusal(Policy{Deny: true}, Ruling{Verdict: Unproven, Open: ruling.Open}, ruling.Open && j.open.over(m, rcpt))
	case stranger:
		out.Refusal = d.refusal(p, ruling, ruling.Open && j.open.over(m, rcpt))
	}
	if j.cfg.Learner != nil && missing == nil && (terms.Keyed.OK || terms.Granted.OK) && ruling.Verdict == Permitted {
		j.cfg.Learner.Permitted(ctx, rcpt, ev.From.Authors[0].Address, ev)
	}
	return out
}

// couldOpen reports whether mail that is denied is put off because its author
// cannot be told now. Whoever forges it can see to that (a signature of a domain
// whose DNS does not answer): so all who deny, and mailboxes that do not exist,
// put it off where anybody in the domain could have permitted the author, and
// nobody learns who has.
func (j *Judge) couldOpen(ctx context.Context, m *mail.Message, ev *Evidence, rcpt mail.Address, r Ruling) bool {
	if r.Verdict != Unproven || !ev.open() || len(ev.From.Authors) != 1 || !ev.readable() {
		return false
	}
	ok, err := j.grants.MayPermit(ctx, ev.From.Authors[0].Address, mail.Recipient{Address: rcpt})
	if err != nil {
		j.cfg.Log.Warn("permits not read", "id", m.ID, "err", err)
	}
	return ok || err != nil
}

// terms collects what a recipient has to say about a message.
func (j *Judge) terms(ctx context.Context, src mail.Source, m *mail.Message, ev *Evidence, p Policy, rcpt mail.Address) Terms {
	t := Terms{Recipient: rcpt, Forwarders: p.Forwarders}
	if m.Envelope.Sender.IsNull() && j.cfg.Marks != nil {
		switch ours, err := j.cfg.Marks.Find(ctx, m, rcpt, src.Binding.Remote); {
		case err != nil:
			j.cfg.Log.Warn("report not read", "id", m.ID, "err", err)
			t.Open = true
		case ours:
			t.Ours = "a report about mail that was sent from here"
		}
	}
	// A grant is for one author who stands alone (xep-draft section 10.3).
	if len(ev.From.Authors) != 1 || !ev.readable() {
		return t
	}
	author := ev.From.Authors[0].Address
	t.Granted = j.permit(ctx, j.grants, rcpt, author, ev)
	t.Keyed = j.permit(ctx, j.keys, rcpt, author, ev)
	return t
}

func (j *Judge) permit(ctx context.Context, from permits, rcpt, author mail.Address, ev *Evidence) Permit {
	reason, ok, err := from.Permits(ctx, rcpt, author, ev)
	if err != nil && !ok {
		j.cfg.Log.Warn("permits not read", "rcpt", rcpt, "err", err)
	}
	return Permit{Reason: reason, OK: ok, Open: err != nil && !ok}
}

// Marks reports whether a message of a sender is to leave with a Mark. Only
// mailboxes that deny mail need to know the reports about theirs again.
func (j *Judge) Marks(src mail.Source, sender mail.Address) bool {
	return j.cfg.Marks != nil && !j.stranger(src) && !sender.IsNull() && j.cfg.Domains[sender.Domain].Of(sender).Deny
}

// Mark returns the header field that a message leaves with to so many recipients
// of a domain.
func (j *Judge) Mark(id mail.ID, sender mail.Address, domain string, rcpts int) []byte {
	if j.cfg.Marks == nil {
		return nil
	}
	return j.cfg.Marks.Field(id, sender, domain, rcpts)
}

// Accepted is to be called when a message has been accepted for delivery.
func (j *Judge) Accepted(ctx context.Context, src mail.Source, m *mail.Message) {
	sender := m.Envelope.Sender
	if j.cfg.Granter == nil || src.Client.User == "" || sender.IsNull() || !j.cfg.Domains[sender.Domain].Of(sender).AutoGrant {
		return
	}
	j.cfg.Granter.Wrote(ctx, sender, m)
}

// stranger reports whether mail from a source is judged: users of ours and
// neighbours that may relay are known to the operator.
func (j *Judge) stranger(src mail.Source) bool {
	a := j.input(src, &mail.Message{}).Arrival
	return a == BySMTP || a == ByXMPP
}

// input tells the Evaluator what is known of where a message came from. Of a
// neighbour's mail the neighbour's own client is judged, where it tells of it
// (XFORWARD), unless the neighbour has made the mail itself.
func (j *Judge) input(src mail.Source, m *mail.Message) Input {
	in := Input{Sender: m.Envelope.Sender, Content: m.Content, Trace: m.Trace, Known: j.cfg.Known}
	c := src.Client
	switch {
	case src.Binding.Remote != "":
		in.Arrival, in.Binding = ByXMPP, src.Binding
		return in
	case c.User != "":
		in.Arrival, in.User = BySubmission, c.User
		return in
	case c.Forwarded != nil:
		if c.Forwarded.Local() || !c.Forwarded.Addr.Addr().IsValid() {
			return in
		}
		in.Client, in.Helo, in.ClientName = c.Forwarded.Addr.Addr(), c.Forwarded.Helo, c.Forwarded.Name
	default:
		in.Client, in.Helo, in.ClientName = c.Addr.Addr(), c.Helo, c.Name
		if !in.Client.IsValid() || src.Trusted && j.cfg.Evaluator.secondary(Input{Arrival: BySMTP}, in.Client.Unmap().WithZone("")) == nil {
			return in
		}
	}
	in.Arrival = BySMTP
	return in
}

package gateway

import (
	"context"

	"mailxmppd/mail"
)

// Answers takes mail that answers a question of our own, at addresses that only
// we can make. Safe for concurrent use; it bounds its own waits.
type Answers interface {
	// IsAnswer tells by its form alone whether an address is one of those.
	IsAnswer(to mail.Address) bool
	// Expects reports whether an answer of that sender to that address is
	// waited for: nil, or why not.
	Expects(ctx context.Context, from, to mail.Address) *mail.Failure
	// Answer does what the sender has answered, whose mail it is. Once.
	Answer(ctx context.Context, from, to mail.Address, content mail.Content) *mail.Failure
}

// isAnswer reports whether a recipient is an address of a domain of ours to
// which questions of our own are answered.
func (g *Gateway) isAnswer(a mail.Address) bool {
	_, ours := g.domains[a.Domain]
	return ours && g.Answers != nil && g.Answers.IsAnswer(a)
}

// expects judges such a recipient at RCPT. The reverse-path of an answer has to
// be its sender's: that of a user of ours, who may use only their own, or one
// that a neighbour vouches for, who may relay.
func (e *Entrance) expects(ctx context.Context, c mail.Client, sender, to mail.Address) *mail.Failure {
	if !e.trusts(c) {
		return mail.Fail(mail.NoSuchMailbox, "", nil)
	}
	return e.Answers.Expects(ctx, sender, to)
}

// acceptAnswers takes the answers among a message's recipients for itself and
// has accept take the message for the others: first, so that a client that has
// to send it again finds its answer waited for still.
func (e *Entrance) acceptAnswers(ctx context.Context, c mail.Client, m *mail.Message, perRecipient bool, accept func(*mail.Message) []mail.Verdict) []mail.Verdict {
	var others, answers []int
	for i, r := range m.Envelope.Recipients {
		if e.isAnswer(r.Address) {
			answers = append(answers, i)
		} else {
			others = append(others, i)
		}
	}
	if len(answers) == 0 {
		return accept(m)
	}
	out := make([]mail.Verdict, len(m.Envelope.Recipients))
	whole := m.Envelope
	if len(others) > 0 {
		m.Envelope.Recipients = nil
		for _, i := range others {
			m.Envelope.Recipients = append(m.Envelope.Recipients, whole.Recipients[i])
		}
		verdicts := accept(m)
		m.Envelope = whole
		for n, i := range others {
			out[i] = verdicts[min(n, len(verdicts)-1)]
		}
		if !perRecipient && verdicts[0].Failure != nil {
			return verdicts[:1]
		}
	}
	var failed *mail.Failure
	for _, i := range answers {
		to := whole.Recipients[i].Address
		out[i] = mail.Verdict{Text: "answer taken"}
		f := e.expects(ctx, c, whole.Sender, to)
		if f == nil {
			f = e.Answers.Answer(ctx, whole.Sender, to, m.Content)
		}
		if f != nil {
			out[i], failed = mail.Verdict{Failure: f}, f
		}
	}
	switch {
	case perRecipient:
		return out
	case len(others) > 0:
		return out[others[0] : others[0]+1] // taken for them: one reply cannot say more
	case failed != nil:
		return refusal(failed)
	}
	return out[:1]
}

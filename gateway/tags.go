package gateway

import (
	"strings"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const (
	notJudged = "unproven; not judged"
	ownReport = "authenticated; made by this mail system"
)

// handTagged is hand for final delivery: what others wrote in our name goes,
// and our verdict goes before the rest. Recipients with different verdicts get
// a copy each: one that they share would say of one what is true of another.
func (g *Gateway) handTagged(l store.Lease, content mail.Content, give func(store.Lease, mail.Content) []mail.Outcome) []mail.Outcome {
	trace, content, err := g.Judge.Clean(l.Trace, content)
	if err != nil {
		return mail.AllFailed(len(l.Deliveries), mail.AsFailure(err))
	}
	out := make([]mail.Outcome, len(l.Deliveries))
	for _, part := range byVerdict(l) {
		part.Trace = append(tags(l.Envelope.Recipients[part.Deliveries[0].N], l.Origin), trace...)
		merge(l, part, out, give(part, content))
	}
	return out
}

// byVerdict cuts a lease into parts whose recipients are shown the same.
func byVerdict(l store.Lease) []store.Lease {
	var out []store.Lease
	at := map[string]int{}
	for _, d := range l.Deliveries {
		r := l.Envelope.Recipients[d.N]
		shown := r.Verdict + "\x00" + r.Results
		i, known := at[shown]
		if !known {
			i = len(out)
			at[shown] = i
			part := l
			part.Deliveries = nil
			out = append(out, part)
		}
		out[i].Deliveries = append(out[i].Deliveries, d)
	}
	return out
}

// tags are the fields that a message is finally delivered with.
func tags(r mail.Recipient, o mail.Origin) []byte {
	verdict := r.Verdict
	switch {
	case verdict != "":
	case o.Transport == "local":
		verdict = ownReport
	default:
		verdict = notJudged
	}
	return append(append(VerdictField(verdict), o.Results...), r.Results...)
}

// marked is the trace that an attempt begins with: a mark is for those whom the
// attempt is for, and tells nobody who else there is.
func (g *Gateway) marked(id mail.ID, sender mail.Address, o mail.Origin, domain string, rcpts int, trace []byte) []byte {
	if g.Judge == nil || !o.Marked {
		return trace
	}
	return append(g.Judge.Mark(id, sender, domain, rcpts), trace...)
}

// VerdictField writes the field of a verdict, folded and in ASCII: it may go to a
// mailbox that knows no SMTPUTF8.
func VerdictField(verdict string) []byte {
	b := []byte(mail.VerdictField + ":")
	column := len(b)
	for i, word := range strings.Fields(verdict) {
		word = asciiWord(word)
		if i > 0 && column+1+len(word) > 76 {
			b, column = append(b, "\r\n\t"...), 8
		} else {
			b, column = append(b, ' '), column+1
		}
		b, column = append(b, word...), column+len(word)
	}
	return append(b, "\r\n"...)
}

func asciiWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, s[:min(len(s), 500)])
}

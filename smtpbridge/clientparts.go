package smtpbridge

import (
	"context"
	"slices"

	"mailxmppd/mail"
)

// maxParts bounds the transactions of one attempt; who is left then waits for
// the next one.
const maxParts = 100

// inParts sends those recipients that were too many for one transaction in
// another at once (RFC 5321 section 4.5.3.1.10), for as long as that settles
// somebody: to wait between them as after a failure would take days for a list.
func inParts(ctx context.Context, a mail.Attempt, send func(mail.Attempt) []mail.Outcome) []mail.Outcome {
	out := send(a)
	part := out
	for n := 1; n < maxParts && ctx.Err() == nil && slices.ContainsFunc(part, settled); n++ {
		var rest []int
		next := a
		next.Envelope.Recipients = nil
		for i, o := range out {
			if isTooMany(o.Failure) {
				rest = append(rest, i)
				next.Envelope.Recipients = append(next.Envelope.Recipients, a.Envelope.Recipients[i])
			}
		}
		if len(rest) == 0 {
			break
		}
		part = send(next)
		for j, i := range rest {
			out[i] = part[j]
		}
	}
	return out
}

// settled says of an outcome that it is final.
func settled(o mail.Outcome) bool {
	return o.Failure == nil || o.Failure.Class == mail.Permanent
}

// deliverSome is deliver for as many recipients as the next hop has said that
// it takes (RFC 9422 section 3.2); the others were too many.
func (hc *hopConn) deliverSome(a mail.Attempt) ([]mail.Outcome, passage) {
	all := a.Envelope.Recipients
	if most := hc.caps.maxRcpts; most > 0 && len(all) > most {
		a.Envelope.Recipients = all[:most:most]
	}
	out, p := hc.deliver(a)
	if out == nil {
		return nil, p
	}
	return append(out, hc.sameOutcome(len(all)-len(out), tooMany(hc.host, "next hop takes fewer recipients at a time"))...), p
}

// refusedRecipient is the failure for a reply to RCPT. One that speaks of too
// many recipients is about those before it, not about this one; 552 is what the
// first SMTP had for that, and counts as temporary (RFC 5321 section 4.5.3.1.10).
func (hc *hopConn) refusedRecipient(r hopReply, accepted int) *mail.Failure {
	switch {
	case accepted == 0:
	case r.code == 452 && (r.status == "" || r.status == tooManyStatus),
		r.code == 552 && (r.status == "" || r.status == "5.5.3"):
		return tooMany(hc.host, r.text())
	}
	return hc.refused(r)
}

// tooManyStatus: RFC 3463 section 3.6.
const tooManyStatus = "4.5.3"

func tooMany(host, text string) *mail.Failure {
	return mail.FromReply(host, 452, tooManyStatus, text)
}

func isTooMany(f *mail.Failure) bool { return f != nil && f.Code == 452 && f.Status() == tooManyStatus }

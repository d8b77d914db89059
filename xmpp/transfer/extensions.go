package transfer

import (
	"slices"

	"mailxmppd/mail"
)

// fit makes an envelope one that a domain with these capabilities takes, or
// says why it cannot be (xep-draft section 7.2). The sender leaves out what
// may be left out; the receiver uses the same table to refuse the rest.
func fit(env mail.Envelope, c Capabilities) (mail.Envelope, *mail.Failure) {
	switch {
	case (env.SMTPUTF8 || env.NeedsUTF8()) && !c.Has(ExtSMTPUTF8):
		return env, mail.Fail(mail.NotAcceptable, "", nil)
	case env.Body == mail.BodyBinaryMIME && !c.Has(ExtBinary):
		return env, mail.Fail(mail.NoConversion, "", nil)
	case env.RequireTLS && !c.Has(ExtRequireTLS):
		return env, mail.Fail(mail.TLSRequired, "", nil)
	case env.DeliverBy != nil && env.DeliverBy.Mode == 'R' && !c.Has(ExtDeliverBy):
		// RFC 2852 section 4: never to one that cannot keep the promise.
		return env, mail.Fail(mail.Rejected, "next hop does not support delivery by a deadline", nil)
	}
	if !c.Has(ExtDeliverBy) {
		env.DeliverBy = nil
	}
	if !c.Has(ExtPriority) {
		env.Priority = nil
	}
	if !c.Has(ExtDSN) {
		env.Return, env.EnvelopeID = "", ""
		rcpts := make([]mail.Recipient, len(env.Recipients))
		for i, r := range env.Recipients {
			rcpts[i] = mail.Recipient{Address: r.Address, Grant: r.Grant}
		}
		env.Recipients = rcpts
	}
	if !c.Has(ExtGrants) && slices.ContainsFunc(env.Recipients, func(r mail.Recipient) bool { return r.Grant != "" }) {
		env.Recipients = slices.Clone(env.Recipients)
		for i := range env.Recipients {
			env.Recipients[i].Grant = ""
		}
	}
	return env, nil
}

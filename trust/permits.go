package trust

import (
	"context"
	"errors"

	"mailxmppd/mail"
	"mailxmppd/trust/authres"
)

// Permits knows whose mail our recipients want. Safe for concurrent use; it
// bounds its own waits and honours ctx. An error means that it cannot be told
// now.
type Permits interface {
	// Permits reports whether a recipient has permitted an author, and why in
	// words. ev is the evidence for the message, whose content is at hand in
	// ev.Message. A reason without a permit is shown to the recipient too ("the
	// usual signature is missing"). Whether the author is who he says is not
	// asked: see JudgeConfig.
	Permits(ctx context.Context, recipient, author mail.Address, ev *Evidence) (reason string, ok bool, err error)

	// MayPermit reports whether anything that comes under a reverse-path could
	// be permitted, in a domain of ours, before there is content. The answer
	// must not depend on whether the mailbox exists, nor on its own permits:
	// strangers see it. r has what the envelope says beside (the key of a
	// grant).
	MayPermit(ctx context.Context, sender mail.Address, r mail.Recipient) (bool, error)
}

// Attester knows what signatures of a message were found to be worth to a
// recipient. Safe for concurrent use.
type Attester interface {
	// Attest repeats what Permits of the same has found; ok false where it has found
	// no signature.
	Attest(recipient, author mail.Address, ev *Evidence) (m authres.Method, ok bool)
}

// permits are several sources as one: any of them may permit.
type permits []Permits

// Permits implements Permits. A source that fails does not take away what
// another grants.
func (p permits) Permits(ctx context.Context, recipient, author mail.Address, ev *Evidence) (reason string, ok bool, err error) {
	for _, source := range p {
		why, yes, failed := source.Permits(ctx, recipient, author, ev)
		if yes && failed == nil {
			return why, true, nil
		}
		err = errors.Join(err, failed)
		if reason == "" {
			reason = why
		}
	}
	return reason, false, err
}

// MayPermit implements Permits.
func (p permits) MayPermit(ctx context.Context, sender mail.Address, r mail.Recipient) (ok bool, err error) {
	for _, source := range p {
		yes, failed := source.MayPermit(ctx, sender, r)
		if yes && failed == nil {
			return true, nil
		}
		err = errors.Join(err, failed)
	}
	return false, err
}

// Learner is told of authors whose mail recipients of ours have permitted, so
// that it can keep their keys. Safe for concurrent use; it bounds its own waits.
type Learner interface {
	Permitted(ctx context.Context, recipient, author mail.Address, ev *Evidence)
}

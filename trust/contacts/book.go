// Package contacts knows the keys that recipients have of the people who write
// to them, and tells whether a message is signed with one of them: with OpenPGP
// (PGP/MIME, RFC 3156, and cleartext signatures) or S/MIME (RFC 8551). It also
// reads the files that keys come in, and finds keys where the operator has said
// that they may be learnt.
//
// Invariants: a signature counts for a recipient only by a key that this
// recipient has of the author, never by what comes along in the message; it
// counts only if it covers all that is shown. Keys and certificates that have
// expired, are revoked or weak prove nothing. The signed octets are hashed as
// they are, in a stream; what has to be held in memory for a check is bounded,
// and so are the checks at a time.
//
// Failure semantics: what is wrong with a message or a signature is a Finding
// in words, never an error. An error means that it cannot be told now, for the
// store or the content cannot be read.
package contacts

import (
	"context"
	"fmt"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/authres"
)

// maxAge is how old a signature may be. Whoever has once got signed mail of
// somebody can send it again to others under any envelope; after a month it
// does not let them in any more.
const maxAge = 30 * 24 * time.Hour

// future is how far a signer's clock may be ahead of ours.
const future = 15 * time.Minute

// checksAtOnce bounds what is verified at a time, with its memory.
const checksAtOnce = 4

// Config is what a Book needs.
type Config struct {
	Store store.Contacts
	// LearntPermit says that a signature by a key that nobody has vouched for
	// permits a message as one by an imported key does.
	LearntPermit bool
	MaxMessage   int64 // octets; signatures of larger messages are not checked. 0: 64 MiB
}

// Book answers for the keys of all recipients. Safe for concurrent use.
type Book struct {
	conf  Config
	now   func() time.Time
	slots chan struct{}
}

// New makes a Book.
func New(conf Config) *Book {
	if conf.MaxMessage <= 0 {
		conf.MaxMessage = 64 << 20
	}
	return &Book{conf: conf, now: time.Now, slots: make(chan struct{}, checksAtOnce)}
}

// Finding is what the keys that a recipient has of an author say of a message.
type Finding struct {
	// Permitted: it is signed, all of it, with a key that counts.
	Permitted bool
	// Reason says why, or what is wrong, in words for the recipient; "" where
	// there is nothing to say: no key is known, or the author does not use to
	// sign.
	Reason string
	// Method is the same in the words of RFC 8601; nil where there is no signature.
	Method *authres.Method
}

// Check tells what a recipient's keys of an author say of a message.
func (b *Book) Check(ctx context.Context, recipient, author mail.Address, m *Message) (Finding, error) {
	keys, err := b.conf.Store.ContactKeys(ctx, Form(recipient), Form(author))
	if err != nil {
		return Finding{}, fmt.Errorf("contact keys of %s: %w", recipient, err)
	}
	if len(keys) == 0 {
		return Finding{}, nil
	}
	usual := false
	for _, k := range keys {
		usual = usual || !k.Signed.IsZero()
	}
	if m.content.Size() > b.conf.MaxMessage {
		return Finding{Reason: "signature not checked: the message is too large"}, nil
	}
	select {
	case b.slots <- struct{}{}:
		defer func() { <-b.slots }()
	case <-ctx.Done():
		return Finding{}, ctx.Err()
	}
	part, err := m.signed()
	if err != nil {
		return Finding{}, err
	}
	switch {
	case part.problem != "":
		return Finding{Reason: part.problem, Method: attest(part.form, authres.Neutral, part.problem, store.ContactKey{})}, nil
	case part.form == unsigned && usual:
		return Finding{Reason: "the usual signature is missing"}, nil
	case part.form == unsigned:
		return Finding{}, nil
	}
	return b.verify(ctx, keys, usual, Form(author), m)
}

// verify looks for a key that has made the signature. The reason of a key that
// made one which is wrong says more than that of those that made none.
func (b *Book) verify(ctx context.Context, keys []store.ContactKey, usual bool, author string, m *Message) (Finding, error) {
	why := "signed with a key that is not known"
	if usual {
		why = "not signed with the usual key"
	}
	var about *authres.Method
	for _, k := range keys {
		o, err := m.by(ctx, k, author, b.now())
		if err != nil {
			return Finding{}, err
		}
		switch {
		case !o.tried:
		case o.wrong != "":
			why, about = o.wrong, attest(m.part.form, badOr(o.wrong), o.wrong, k)
		default:
			if err := b.conf.Store.ContactSigned(ctx, k.Owner, k.Address, k.Fingerprint); err != nil {
				return Finding{}, fmt.Errorf("contact %s: %w", k.Address, err)
			}
			f := b.found(k)
			f.Method = attest(m.part.form, authres.Pass, "", k)
			return f, nil
		}
	}
	if about == nil {
		about = attest(m.part.form, authres.Neutral, why, store.ContactKey{})
	}
	return Finding{Reason: why, Method: about}, nil
}

func (b *Book) found(k store.ContactKey) Finding {
	kind := "OpenPGP"
	if k.Kind == store.SMIME {
		kind = "S/MIME"
	}
	if !k.Learnt() {
		return Finding{Permitted: true, Reason: fmt.Sprintf("signed with the %s key of %s", kind, k.Address)}
	}
	return Finding{Permitted: b.conf.LearntPermit,
		Reason: fmt.Sprintf("signed with the %s key of %s that was learnt (%s)", kind, k.Address, k.Origin)}
}

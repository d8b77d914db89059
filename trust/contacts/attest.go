package contacts

import (
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
	"mailxmppd/trust/authres"
)

// attest writes what was found of a signature as a method of
// Authentication-Results: "smime" is registered (RFC 7281), of OpenPGP nobody has
// registered anything, so that it has the "x-" of what is known here alone. k is
// the key that it was checked with; none where it was not.
func attest(form signatureForm, result authres.Result, reason string, k store.ContactKey) *authres.Method {
	m := &authres.Method{Name: "smime", Result: result, Reason: reason}
	switch form.kind() {
	case store.SMIME:
		m.Props = []authres.Prop{{Type: "body", Name: "smime-identifier", Value: k.Address}}
	case store.OpenPGP:
		m.Name = "x-openpgp"
		m.Props = []authres.Prop{{Type: "body", Name: "x-identifier", Value: k.Address}, {Type: "body", Name: "x-fingerprint", Value: k.Fingerprint}}
	default:
		return nil // it cannot be told what it is
	}
	return m
}

// badOr tells a wrong signature from one that is right, and not taken.
func badOr(wrong string) authres.Result {
	if wrong == wrongSignature {
		return authres.Fail
	}
	return authres.Policy
}

// attested is what was found for one recipient.
type attested struct {
	recipient, author string
	method            authres.Method
}

// maxAttested bounds what is remembered of a message: for each recipient once.
const maxAttested = 1000

// Attest implements trust.Attester. It repeats what Permits has found.
func (k *Keys) Attest(recipient, author mail.Address, ev *trust.Evidence) (authres.Method, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.recent {
		if r.ev != ev {
			continue
		}
		for _, a := range r.attested {
			if a.recipient == Form(recipient) && a.author == Form(author) {
				return a.method, true
			}
		}
	}
	return authres.Method{}, false
}

// note remembers what Permits has found.
func (k *Keys) note(recipient, author mail.Address, ev *trust.Evidence, f Finding) {
	if f.Method == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.recent {
		if r := &k.recent[i]; r.ev == ev && len(r.attested) < maxAttested {
			r.attested = append(r.attested, attested{Form(recipient), Form(author), *f.Method})
		}
	}
}

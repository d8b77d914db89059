package trust

import (
	"strings"
	"time"

	"mailxmppd/mail"
)

// Policy is what a mailbox, or a whole domain of ours, wants done with mail.
type Policy struct {
	Deny         bool // mail that is not permitted is refused, instead of tagged
	RejectForged bool // forged mail is refused, instead of tagged

	// RejectUnclear refuses mail of which nobody can tell who the author is: whose
	// mail would be refused as forged could write From so.
	RejectUnclear bool
	AutoGrant     bool     // whoever its user writes to is granted the way back
	Forwarders    []string // domains trusted to hand on mail of others
}

// DomainPolicy is the policy of a domain of ours.
type DomainPolicy struct {
	Policy
	// DeniedText tells those who are denied how to ask. It is the domain's, not
	// a mailbox's: mailboxes that do not exist say the same. "" for none.
	DeniedText string
	// Mailboxes that want something else, by their lower-case local part.
	Mailboxes map[string]Policy
}

// Of returns what a mailbox wants, with or without a detail behind a plus sign
// (RFC 5233).
func (d DomainPolicy) Of(a mail.Address) Policy {
	local := strings.ToLower(a.Local)
	if p, ok := d.Mailboxes[local]; ok {
		return p
	}
	base, _, _ := strings.Cut(local, "+")
	if p, ok := d.Mailboxes[base]; ok {
		return p
	}
	p := d.Policy
	if local == "postmaster" { // who takes mail of everybody (RFC 5321 section 4.5.1), unless he himself is configured not to
		p.Deny = false
	}
	return p
}

// Hides reports whether strangers must not learn which mailboxes exist: some
// deny mail, which must look the same.
func (d DomainPolicy) Hides() bool {
	if d.Deny {
		return true
	}
	for _, p := range d.Mailboxes {
		if p.Deny {
			return true
		}
	}
	return false
}

// denied answers for a mailbox that does not want the mail, and for one that
// does not exist (xep-draft section 10.3).
func (d DomainPolicy) denied() *mail.Failure {
	f := mail.Fail(mail.SubscriptionNeeded, "", nil)
	if d.DeniedText != "" {
		f = mail.Fail(mail.SubscriptionNeeded, f.Text+": "+d.DeniedText, nil)
	}
	return f
}

// openRetry is when a sender is asked to come again while something cannot be
// told.
const openRetry = 5 * time.Minute

// notNow answers mail that would be refused for want of something that cannot
// be told now, and may be told soon.
func notNow(cause error) *mail.Failure {
	f := mail.Fail(mail.Refused, "it cannot be told now who sent this, try again later", cause).WithStatus("4.7.0")
	f.RetryAfter = openRetry
	return f
}

// refusal is what a policy makes of a ruling: nil where the mail is taken.
// waited says that its sender has been put off for long enough.
func (d DomainPolicy) refusal(p Policy, r Ruling, waited bool) *mail.Failure {
	switch {
	case r.Verdict == Permitted:
		return nil
	case !p.Deny && !(p.RejectForged && r.Verdict == Forged) && !(p.RejectUnclear && r.Unclear):
		return nil
	case r.Open && !waited:
		return notNow(nil)
	case p.Deny:
		return d.denied()
	}
	if r.Unclear {
		return mail.Failf(mail.NotPermitted, "refused: %s", r.Cause)
	}
	return mail.Failf(mail.NotPermitted, "refused as forged: %s", r.Cause)
}

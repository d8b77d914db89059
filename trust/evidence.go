package trust

import (
	"strings"

	"mailxmppd/trust/arc"
	"mailxmppd/trust/author"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/dmarc"
	"mailxmppd/trust/spf"
)

// Evidence is everything that could be found out about where a message comes
// from, method by method. A method that did not apply has the Result "". It
// judges nothing: that is the verdict's to do.
type Evidence struct {
	Message  Input // what it is about
	Judged   bool  // false: the message came from a neighbour that tells nothing (Unjudged)
	Binding  Binding
	Auth     Auth
	IPRev    IPRev
	MailFrom spf.Check
	Helo     spf.Check
	DKIM     []*dkim.Signature  // none for an unsigned message, from the top
	Omitted  int                // signatures that were not looked at, for there are too many
	DMARC    []dmarc.Evaluation // one for each author domain, in the order of From
	ARC      arc.Chain
	From     author.From
	Relation Relation
	Carrier  Carrier
	Sends    Sends
	Header   error // why the content was not read (header.ErrTooLarge is in it where that is the sender's doing); then there are no DKIM and ARC
}

// Binding is the proof of the stream (xep-draft section 6.2).
type Binding struct {
	Result authres.Result // pass, or ""
	Domain string
	Proof  string
}

// Auth is SMTP AUTH (RFC 4954).
type Auth struct {
	Result authres.Result // pass, or ""
	User   string
}

// IPRev is the client's name that leads back to its address (RFC 8601 section
// 3).
type IPRev struct {
	Result authres.Result
	Reason string
	Client string // the address
	Name   string // the name, "" unless it passed
}

// Sends is about domains that have announced that their mail comes over XMPP
// only (xep-draft section 4.3).
type Sends struct {
	// Result is fail where SMTP mail claims such a domain without an aligned
	// DKIM signature: it is forged; pass where it has one; none where no such
	// domain is claimed; temperror where it cannot be told now.
	Result authres.Result
	Reason string
	Domain string // the domain that decided
}

// Kinship is how two domains are related.
type Kinship string

const (
	NotThere         Kinship = "none" // one of the two is missing, or cannot be read
	SameDomain       Kinship = "same"
	SameOrganization Kinship = "organization" // below one registered domain
	Different        Kinship = "different"
)

// Relation compares the three places where a message names a domain as its
// source. Of several authors the farthest decides.
type Relation struct {
	SenderToFrom  Kinship // the reverse-path's domain and the author's
	BoundToSender Kinship // the stream's domain and the reverse-path's
	BoundToFrom   Kinship // the stream's domain and the author's
}

// Carrier tells who handed us the message, where that is somebody whom the
// operator or a recipient could trust for it.
type Carrier struct {
	// Secondary is set for mail of a trusted secondary: it is not judged by the
	// secondary's own address, and Results is what the secondary has found.
	Secondary    bool
	SecondaryFor []string // domains and addresses; empty: all recipients
	Results      []authres.Method
	// Domains are proven to have handed the message on, with what proves it.
	Domains []Carried
	// Trusted is the first of Domains that the operator trusts as a forwarder;
	// "" if none. Recipients' own lists are for ForwardedBy.
	Trusted string
	// Unsure are domains that may have handed the message on, which DNS could not
	// tell now; UnsureTrusted says that the operator trusts one of them.
	Unsure        []string
	UnsureTrusted bool
}

// Carried is a domain that has handed a message on.
type Carried struct {
	Domain string
	By     string // "xmpp", "spf", "helo", "arc" or "iprev"
}

// ForwardedBy reports whether a domain handed the message on, and what proves
// it.
func (e Evidence) ForwardedBy(domain string) (by string, ok bool) {
	for _, c := range e.Carrier.Domains {
		if c.Domain == domain {
			return c.By, true
		}
	}
	return "", false
}

// Proven reports whether everybody whom From names as an author is proven by
// his domain, and by what; nobody is where From cannot be read.
func (e Evidence) Proven() (by string, ok bool) {
	if len(e.DMARC) == 0 || !e.readable() {
		return "", false
	}
	var all []string
	for _, ev := range e.DMARC {
		if len(ev.Aligned) == 0 {
			return "", false
		}
		all = append(all, ev.Aligned[0])
	}
	return strings.Join(all, ", "), true
}

// Disproven reports whether an author's domain demands a proof that is not
// there, or the mail cannot be of a domain that it claims, and why. Of several
// authors each is looked at, and the strictest policy decides (RFC 7489 section
// 6.6.1; RFC 9989 leaves such mail to the receiver).
func (e Evidence) Disproven() (why string, ok bool) {
	if e.Sends.Result == authres.Fail {
		return e.Sends.Reason, true
	}
	for _, ev := range e.DMARC {
		if ev.Result == authres.Fail && (ev.Policy == dmarc.PolicyReject || ev.Policy == dmarc.PolicyQuarantine) {
			return ev.Domain + " asks to " + string(ev.Policy) + " mail that it has not signed", true
		}
	}
	return "", false
}

package trust

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/trust/author"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/header"
)

// Verdict is what the evidence for a message comes to for one recipient.
type Verdict string

// The verdicts, the best first.
const (
	Permitted     Verdict = "permitted"     // proven, and the recipient wants it; or signed with a key that the recipient knows
	Authenticated Verdict = "authenticated" // every author is proven by the author's domain
	Unproven      Verdict = "unproven"      // nothing shows that it is theirs, and nothing that it is not
	Forged        Verdict = "forged"        // an author's domain has said how to tell its mail, and this is not
)

// Ruling is a verdict with its reason in words.
type Ruling struct {
	Verdict Verdict
	Reason  string
	// Cause is the part of the reason that the sender may hear: without what the
	// recipient knows or wants.
	Cause string
	// Open says that DNS or the store could not answer, and that the verdict
	// might have been a better one otherwise.
	Open bool
	// Unclear says that nothing is proven or disproven since it cannot be told who
	// the author is: what no author's domain can disown.
	Unclear bool
}

// String is the ruling as the recipient's mail client gets it.
func (r Ruling) String() string { return string(r.Verdict) + "; " + r.Reason }

// Permit is what the recipient's grants or keys say of all authors of a message.
type Permit struct {
	Reason string // also where there is no permit: something to be shown
	OK     bool
	Open   bool // it cannot be told now
}

// Terms are what one recipient has to say about a message.
type Terms struct {
	Recipient  mail.Address
	Granted    Permit   // holds for authors who are proven otherwise
	Keyed      Permit   // a known key has signed: proves the author by itself
	Ours       string   // it answers mail of the recipient's own: how we know; "" if not
	Open       bool     // whether it does cannot be told now
	Forwarders []string // domains that the recipient trusts to hand on others' mail
}

// Rule decides. It asks nobody: the same evidence and terms give the same
// ruling.
//
// What comes first decides: nobody has looked; a known key has signed; the
// mail answers the recipient's own; the authors are proven, by themselves or by
// a host that is trusted for that, and permitted or not; they are disproven;
// and else nothing is proven.
func Rule(ev *Evidence, t Terms) Ruling {
	switch {
	case !ev.Judged:
		return Ruling{Verdict: Unproven, Reason: "not judged"}
	case t.Keyed.OK:
		return Ruling{Verdict: Permitted, Reason: t.Keyed.Reason + ev.warning()}
	case t.Ours != "":
		return Ruling{Verdict: Permitted, Reason: t.Ours}
	}
	by, proven := ev.proof(t.Recipient)
	why, disproven := ev.denial(t)
	var r Ruling
	switch {
	case proven && t.Granted.OK:
		return Ruling{Verdict: Permitted, Reason: t.Granted.Reason + ", " + by + ev.warning()}
	case proven:
		r = Ruling{Verdict: Authenticated, Reason: by, Open: t.Granted.Open || t.Keyed.Open}
	case disproven:
		r = Ruling{Verdict: Forged, Reason: why, Cause: why, Open: t.Keyed.Open}
	default:
		r = Ruling{Verdict: Unproven, Reason: ev.doubt(t.Forwarders), Unclear: ev.unclear()}
		r.Cause = r.Reason + ev.warning()
		r.Open = t.Keyed.Open || ev.open() && (t.Granted.OK || t.Granted.Open)
	}
	r.Open = r.Open || t.Open
	if t.Keyed.Reason != "" { // of a key that is missing or wrong
		r.Reason += ", " + t.Keyed.Reason
	}
	if t.Granted.Reason != "" && !t.Granted.OK { // of a grant that has run out; one that holds is not this author's
		r.Reason += ", " + t.Granted.Reason
	}
	r.Reason += ev.warning()
	return r
}

// proof tells what shows that all authors are who they say they are. A message
// of which nobody can say who the author is has no proof.
func (ev *Evidence) proof(rcpt mail.Address) (by string, ok bool) {
	if by, ok = ev.Proven(); ok {
		return "proven by " + by, true
	}
	if !ev.readable() {
		return "", false
	}
	switch {
	case ev.Auth.Result == authres.Pass: // whose authors were checked when it was submitted
		return "submitted by our user " + ev.Auth.User, true
	case ev.Carrier.secondaryOf(rcpt) && ev.vouched(ev.Carrier.Results):
		return "as our own host before us has found", true
	case ev.ARC.Trusted && ev.vouched(ev.ARC.Results):
		return "as " + ev.ARC.Sealer + ", which is trusted, has found", true
	}
	return "", false
}

// vouched reports whether somebody's results prove every author. Of several for
// one domain the topmost counts: below it may be one that the sender has written,
// where a secondary does not take such fields out (RFC 8601 section 5).
func (ev *Evidence) vouched(results []authres.Method) bool {
	for _, domain := range ev.From.Domains() {
		i := slices.IndexFunc(results, func(m authres.Method) bool {
			return m.Name == "dmarc" && strings.EqualFold(m.Prop("header", "from"), domain)
		})
		if i < 0 || results[i].Result != authres.Pass {
			return false
		}
	}
	return len(ev.From.Domains()) > 0
}

// readable reports whether every reader finds the same authors, and all of them
// were looked at.
func (ev *Evidence) readable() bool {
	return len(ev.From.Authors) > 0 && !ev.From.Has(author.SeveralFields) && !ev.From.Has(author.EncodedAddress) && !ev.From.Has(author.ManyDomains)
}

// unclear reports whether the sender has made it impossible to tell who the
// author is. Content that we could not read is not his doing.
func (ev *Evidence) unclear() bool {
	return !ev.readable() && (ev.Header == nil || errors.Is(ev.Header, header.ErrTooLarge))
}

// denial tells why an author cannot be who he says he is. Whoever is trusted to
// hand on mail of others breaks their proofs in doing so (RFC 7960 section 4),
// which then shows nothing.
func (ev *Evidence) denial(t Terms) (why string, ok bool) {
	if why, ok = ev.Disproven(); !ok {
		return "", false
	}
	// The client's address, hence SPF, is known to the secondary alone. Of who
	// sends over XMPP only it knows nothing, and no address says anything.
	if ev.Carrier.secondaryOf(t.Recipient) && ev.Sends.Result != authres.Fail {
		return "our own host before us has found it forged", slices.ContainsFunc(ev.Carrier.Results, func(m authres.Method) bool {
			return m.Name == "dmarc" && m.Result == authres.Fail
		})
	}
	if ev.handedOnBy(t.Forwarders) != "" || ev.ARC.Trusted && ev.vouched(ev.ARC.Results) || ev.perhapsHandedOn(t.Forwarders) {
		return "", false
	}
	return why, true
}

// secondaryOf reports whether the message came from a host of ours that takes a
// recipient's mail before us.
func (c *Carrier) secondaryOf(rcpt mail.Address) bool {
	return c.Secondary && (len(c.SecondaryFor) == 0 || slices.ContainsFunc(c.SecondaryFor, func(s string) bool {
		return s == rcpt.Domain || strings.EqualFold(s, rcpt.String())
	}))
}

// perhapsHandedOn reports whether somebody who is trusted may have handed the
// message on, which DNS could not tell now: that must not make it forged, hence
// lost where that is refused.
func (ev *Evidence) perhapsHandedOn(forwarders []string) bool {
	return ev.ARC.Unsure || ev.Carrier.UnsureTrusted || slices.ContainsFunc(forwarders, func(domain string) bool {
		return slices.Contains(ev.Carrier.Unsure, domain)
	})
}

// handedOnBy is the domain that handed the message on and is trusted for that,
// by the operator or by the recipient.
func (ev *Evidence) handedOnBy(forwarders []string) string {
	if ev.Carrier.Trusted != "" {
		return ev.Carrier.Trusted
	}
	for _, domain := range forwarders {
		if _, ok := ev.ForwardedBy(domain); ok {
			return domain
		}
	}
	return ""
}

// open reports whether a proof may be there that DNS could not show now.
func (ev *Evidence) open() bool {
	if ev.Sends.Result == authres.TempError || ev.MailFrom.Result == authres.TempError || ev.ARC.Unsure {
		return true
	}
	for _, d := range ev.DMARC {
		if d.Result == authres.TempError {
			return true
		}
	}
	for _, s := range ev.DKIM {
		if s.Result == authres.TempError {
			return true
		}
	}
	return false
}

// doubt says why nothing is proven.
func (ev *Evidence) doubt(forwarders []string) string {
	switch {
	case ev.Header != nil:
		return "the header cannot be checked"
	case !ev.readable():
		return "it cannot be told who the author is"
	case ev.open():
		return "it cannot be told now who sent this"
	}
	if domain := ev.handedOnBy(forwarders); domain != "" {
		return "handed on by " + domain + ", which is trusted for that"
	}
	if domains := ev.From.Domains(); len(domains) > 0 {
		return fmt.Sprintf("nothing proves that this is from %s", domains[0])
	}
	return "nothing proves who sent this"
}

// warning tells of what a person could be deceived by although the rest is
// true.
func (ev *Evidence) warning() string {
	out := ""
	for _, p := range ev.From.Problems {
		out += ", " + string(p)
	}
	return out
}

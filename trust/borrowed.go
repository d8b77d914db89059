package trust

import (
	"slices"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/trust/authres"
)

// borrowed tells why a message must not go on to others from here: a stranger
// writes under a name of ours, in From or the reverse-path, and nothing proves
// that it is his. Whoever gets it from us would have the proof: our stream is bound
// to that domain (xep-draft section 6.5), and SPF lists our hosts. It is not asked
// of neighbours, who bring what our users have written without saying so. waited
// says that the sender has been put off for long enough.
func (j *Judge) borrowed(src mail.Source, ev *Evidence, rcpt mail.Address, waited func() bool) *mail.Failure {
	if src.Trusted || !j.stranger(src) {
		return nil
	}
	claimed := ev.From.Domains()
	if d := ev.Message.Sender.Domain; !slices.Contains(claimed, d) {
		claimed = append(claimed, d)
	}
	for _, domain := range claimed {
		if _, ours := j.cfg.Domains[domain]; !ours || ev.stands(domain, rcpt) {
			continue
		}
		if ev.open() && !waited() {
			return notNow(nil)
		}
		return mail.Failf(mail.NotPermitted, "nothing proves that this is from %s, in whose name it would be forwarded", domain)
	}
	return nil
}

// stands reports whether anything proves that a domain has sent the message.
func (ev *Evidence) stands(domain string, rcpt mail.Address) bool {
	for _, d := range ev.DMARC {
		if d.Domain == domain && len(d.Aligned) > 0 {
			return true
		}
	}
	for _, s := range ev.DKIM {
		if s.Domain == domain && s.Result == authres.Pass && !s.Testing {
			return true
		}
	}
	if strings.EqualFold(ev.MailFrom.Domain, domain) && ev.MailFrom.Result == authres.Pass {
		return true
	}
	// Whoever is believed about all authors has looked at this one.
	_, proven := ev.proof(rcpt)
	return proven && slices.Contains(ev.From.Domains(), domain)
}

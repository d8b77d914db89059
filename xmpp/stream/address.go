package stream

import (
	"strings"

	"mellium.im/xmpp/jid"

	"mailxmppd/mail"
)

// pair is the two domains of a link, as A-labels.
type pair struct{ local, remote string }

// domainOf reads a JID (RFC 7622 section 3.1) and returns its domain as
// A-labels, which is how domains are compared; bare says that it has neither
// local part nor resource. Whether those are well-formed does not matter
// here: no mailbox is ever a JID.
func domainOf(s string) (domain string, bare bool, err error) {
	local, domain, resource, err := jid.SplitString(s)
	if err != nil {
		return "", false, err
	}
	// RFC 7622 section 3.2: a final dot is stripped.
	domain, err = mail.ParseDomain(strings.TrimSuffix(domain, "."))
	return domain, local == "" && resource == "" && !strings.ContainsAny(s, "@/"), err
}

// sameDomain reports whether a bare-domain JID names that domain.
func sameDomain(s, domain string) bool {
	if s == domain {
		return true
	}
	d, bare, err := domainOf(s)
	return err == nil && bare && d == domain
}

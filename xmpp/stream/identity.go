package stream

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"time"

	"mailxmppd/mail"
)

var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidXmppAddr       = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 5} // RFC 6120 section 13.7.1.4
	oidSRVName        = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 7} // RFC 4985
)

// errUnproven is in the chain of every failure of verifyCertificate.
var errUnproven = errors.New("certificate does not prove the domain")

// verifyCertificate checks that a peer's certificates chain to one of the
// roots and prove domain, and tells when the first of them expires. usages are
// the extended key usages of which one is enough: for a connecting peer
// serverAuth is accepted, since public authorities no longer issue clientAuth.
func verifyCertificate(certs []*x509.Certificate, roots *x509.CertPool, domain string, usages ...x509.ExtKeyUsage) (time.Time, error) {
	if len(certs) == 0 {
		return time.Time{}, fmt.Errorf("%w: none was shown", errUnproven)
	}
	chains, err := Chains(certs, x509.VerifyOptions{Roots: roots, KeyUsages: usages})
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: %w", errUnproven, err)
	}
	for _, chain := range chains {
		if NamesDomain(chain, domain) {
			return firstExpiry(chain), nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: it is for other names", errUnproven)
}

// Chains builds the chains from the first of certs to one of the roots of opts,
// whose intermediates are the rest of certs. Names are not looked at.
func Chains(certs []*x509.Certificate, opts x509.VerifyOptions) ([][]*x509.Certificate, error) {
	leaf := *certs[0] // a copy: the TLS stack shares certificates between connections
	if _, err := otherNames(&leaf); err != nil {
		return nil, err
	}
	// Without a subject the alternative names are critical (RFC 5280 section
	// 4.2.1.6), and only we can read those that are otherNames.
	leaf.UnhandledCriticalExtensions = withoutSAN(leaf.UnhandledCriticalExtensions)
	opts.Intermediates = x509.NewCertPool()
	for _, c := range certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	return leaf.Verify(opts)
}

// NamesDomain reports whether the first certificate of a chain from Chains is
// for a domain (A-labels) by any of the names that XMPP knows (xep-draft
// section 6.2).
func NamesDomain(chain []*x509.Certificate, domain string) bool {
	if matchesDNS(chain[0].DNSNames, domain) {
		return true
	}
	names, err := otherNames(chain[0])
	return err == nil && !constrained(chain) && names.match(domain)
}

func withoutSAN(oids []asn1.ObjectIdentifier) []asn1.ObjectIdentifier {
	var out []asn1.ObjectIdentifier
	for _, o := range oids {
		if !o.Equal(oidSubjectAltName) {
			out = append(out, o)
		}
	}
	return out
}

// constrained reports whether an authority of the chain is limited to certain
// names. Such limits are checked for DNS names but not for otherNames, which
// then prove nothing.
func constrained(chain []*x509.Certificate) bool {
	for _, c := range chain[1:] {
		if len(c.PermittedDNSDomains)+len(c.ExcludedDNSDomains)+len(c.PermittedURIDomains)+len(c.ExcludedURIDomains)+
			len(c.PermittedEmailAddresses)+len(c.ExcludedEmailAddresses)+len(c.PermittedIPRanges)+len(c.ExcludedIPRanges) > 0 {
			return true
		}
	}
	return false
}

func firstExpiry(chain []*x509.Certificate) time.Time {
	at := chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotAfter.Before(at) {
			at = c.NotAfter
		}
	}
	return at
}

// matchesDNS compares dNSNames with a domain in A-labels. A wildcard stands
// for exactly one whole left-most label and needs two more (RFC 6125 section
// 6.4.3; RFC 6120 section 13.7.1.2.1). The common name is never looked at.
func matchesDNS(names []string, domain string) bool {
	for _, name := range names {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		if name == domain {
			return true
		}
		suffix, ok := strings.CutPrefix(name, "*.")
		_, parent, _ := strings.Cut(domain, ".")
		if ok && suffix == parent && strings.Contains(suffix, ".") {
			return true
		}
	}
	return false
}

// otherNameSet is what Go's x509 leaves out of the subject alternative names.
type otherNameSet struct{ srv, xmpp []string }

// match compares without wildcards. An SRVName counts for the service
// _xmpp-server, which is also what direct TLS is verified by (XEP-0368).
func (n otherNameSet) match(domain string) bool {
	for _, name := range n.srv {
		service, host, _ := strings.Cut(name, ".")
		if strings.EqualFold(service, "_xmpp-server") && sameDomainName(host, domain) {
			return true
		}
	}
	for _, name := range n.xmpp {
		if sameDomain(name, domain) {
			return true
		}
	}
	return false
}

func sameDomainName(name, domain string) bool {
	d, err := mail.ParseDomain(strings.TrimSuffix(name, "."))
	return err == nil && d == domain
}

// otherNames reads SRVName and XmppAddr. GeneralName is a choice by context
// tag, otherName being [0] (RFC 5280 section 4.2.1.6):
//
//	OtherName ::= SEQUENCE { type-id OBJECT IDENTIFIER, value [0] EXPLICIT ANY }
func otherNames(c *x509.Certificate) (n otherNameSet, err error) {
	for _, ext := range c.Extensions {
		if !ext.Id.Equal(oidSubjectAltName) {
			continue
		}
		var list asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &list); err != nil || len(rest) > 0 || list.Tag != asn1.TagSequence {
			return n, errors.New("malformed alternative names")
		}
		for rest := list.Bytes; len(rest) > 0; {
			var name asn1.RawValue
			if rest, err = asn1.Unmarshal(rest, &name); err != nil {
				return n, errors.New("malformed alternative name")
			}
			if name.Class == asn1.ClassContextSpecific && name.Tag == 0 {
				if err := n.add(name.Bytes); err != nil {
					return n, err
				}
			}
		}
	}
	return n, nil
}

func (n *otherNameSet) add(der []byte) error {
	var id asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(der, &id)
	if err != nil {
		return errors.New("malformed otherName")
	}
	var explicit, value asn1.RawValue
	if rest, err = asn1.Unmarshal(rest, &explicit); err != nil || len(rest) > 0 {
		return errors.New("malformed otherName")
	}
	if explicit.Class != asn1.ClassContextSpecific || explicit.Tag != 0 {
		return errors.New("malformed otherName")
	}
	if rest, err = asn1.Unmarshal(explicit.Bytes, &value); err != nil || len(rest) > 0 {
		return errors.New("malformed otherName")
	}
	switch {
	case value.Class != asn1.ClassUniversal:
	case id.Equal(oidSRVName) && value.Tag == asn1.TagIA5String:
		n.srv = append(n.srv, string(value.Bytes))
	case id.Equal(oidXmppAddr) && value.Tag == asn1.TagUTF8String:
		n.xmpp = append(n.xmpp, string(value.Bytes))
	}
	return nil
}

package proof

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"mailxmppd/dns"
	"mailxmppd/xmpp/stream"
)

// Fields of TLSA records by their names of RFC 7218.
const (
	usagePKIXTA = 0
	usagePKIXEE = 1
	usageDANETA = 2
	usageDANEEE = 3

	selectorCert = 0
	selectorSPKI = 1

	matchFull   = 0
	matchSHA256 = 1
	matchSHA512 = 2
)

const (
	maxUsable = 8 // records looked at of one place
	// maxChains bounds the chains built for one certificate: the peer has
	// chosen the certificates and the records, and signatures cost time.
	maxChains = 8
)

// usableTLSA keeps the records that can match anything, and of those that
// differ in the digest alone the ones with the strongest (RFC 7671 section 9).
func usableTLSA(in []dns.TLSA) []dns.TLSA {
	type group struct{ usage, selector uint8 }
	strong := map[group]bool{}
	var out []dns.TLSA
	for _, r := range in {
		if usable(r) {
			out = append(out, r)
			strong[group{r.Usage, r.Selector}] = strong[group{r.Usage, r.Selector}] || r.Matching == matchSHA512
		}
	}
	out = slices.DeleteFunc(out, func(r dns.TLSA) bool {
		return r.Matching == matchSHA256 && strong[group{r.Usage, r.Selector}]
	})
	return out[:min(len(out), maxUsable)]
}

func usable(r dns.TLSA) bool {
	if r.Usage > usageDANEEE || r.Selector > selectorSPKI {
		return false
	}
	switch r.Matching {
	case matchFull:
		return len(r.Data) > 0
	case matchSHA256:
		return len(r.Data) == sha256.Size
	case matchSHA512:
		return len(r.Data) == sha512.Size
	}
	return false
}

// judgement is of one peer's certificates.
type judgement struct {
	certs    []*x509.Certificate
	roots    *x509.CertPool
	now      time.Time
	accepted bool // the peer connected to us
	chains   int  // that may still be built
}

var (
	errNoMatch = errors.New("matches none of the TLSA records")
	errChains  = errors.New("too many certificate chains to try")
)

// match looks for a record that proves the certificates for domain, whose
// streams host accepts. The error says what came closest.
func (j *judgement) match(records []dns.TLSA, domain, host string) error {
	closest := errNoMatch
	for _, r := range records {
		err := j.matchOne(r, domain, host)
		if err == nil {
			return nil
		}
		if err != errNoMatch {
			closest = err
		}
	}
	return closest
}

func (j *judgement) matchOne(r dns.TLSA, domain, host string) error {
	leaf := j.certs[0]
	switch r.Usage {
	case usageDANEEE:
		// RFC 7671 section 5.1: the record is about this very certificate or
		// key; its names and dates are not looked at.
		if r.Matches(leaf) {
			return nil
		}
		return errNoMatch
	case usageDANETA:
		anchor := j.anchor(r)
		if anchor == nil {
			return errNoMatch
		}
		pool := x509.NewCertPool()
		pool.AddCert(anchor)
		_, err := j.verify(pool, domain, host)
		return err
	case usagePKIXEE:
		if !r.Matches(leaf) {
			return errNoMatch
		}
		_, err := j.verify(j.roots, domain, host)
		return err
	}
	return j.underRoot(r, domain, host)
}

// underRoot demands a chain to one of the roots that holds the authority of a
// PKIX-TA record (RFC 6698 section 2.1.1).
func (j *judgement) underRoot(r dns.TLSA, domain, host string) error {
	chains, err := j.verify(j.roots, domain, host)
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if slices.ContainsFunc(chain[1:], func(c *x509.Certificate) bool { return r.Matches(c) }) {
			return nil
		}
	}
	return errNoMatch
}

// anchor finds the certificate that a DANE-TA record stands for: among those
// shown (RFC 7671 section 5.2 has the peer show it), or in the record itself.
func (j *judgement) anchor(r dns.TLSA) *x509.Certificate {
	for _, c := range j.certs {
		if r.Matches(c) {
			return c
		}
	}
	if r.Selector == selectorCert && r.Matching == matchFull {
		if c, err := x509.ParseCertificate(r.Data); err == nil {
			return c
		}
	}
	return nil
}

// verify builds the chains from the leaf to one of the roots. Beside the
// domain the certificate may name the host that the domain's signed SRV record
// leads to (RFC 7673 section 4.2): that is how a hosting service shows its own.
func (j *judgement) verify(roots *x509.CertPool, domain, host string) ([][]*x509.Certificate, error) {
	if j.chains--; j.chains < 0 {
		return nil, errChains
	}
	opts := x509.VerifyOptions{
		Roots: roots, CurrentTime: j.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if j.accepted {
		opts.KeyUsages = append(opts.KeyUsages, x509.ExtKeyUsageClientAuth)
	}
	chains, err := stream.Chains(j.certs, opts)
	if err != nil {
		return nil, err
	}
	forOne := func(chain []*x509.Certificate) bool {
		return stream.NamesDomain(chain, domain) || j.certs[0].VerifyHostname(host) == nil
	}
	if chains = slices.DeleteFunc(chains, func(c []*x509.Certificate) bool { return !forOne(c) }); len(chains) == 0 {
		return nil, fmt.Errorf("certificate is for neither %s nor %s", domain, host)
	}
	return chains, nil
}

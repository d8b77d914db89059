package smtpbridge

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

// Fields of TLSA records by their names of RFC 7218.
const (
	usageDANETA  = 2
	usageDANEEE  = 3
	selectorCert = 0
	selectorSPKI = 1
	matchFull    = 0
	matchSHA256  = 1
	matchSHA512  = 2
)

// danePolicy looks up a host's TLSA records, provided that all answers on the
// way to it were signed (RFC 7672 section 2.2). Where the records are there
// but cannot be had, mail must not go to the host: what hides them could hide
// everything.
func (c *Client) danePolicy(ctx context.Context, domain string, host exchanger, addrs dns.Answer[netip.Addr]) (tlsPolicy, *mail.Failure) {
	if !host.secure {
		return tlsPolicy{}, nil
	}
	bases, f := c.tlsaBases(ctx, host.name, addrs)
	if f != nil {
		return tlsPolicy{kind: policyDANE, base: host.name}, f
	}
	for _, base := range bases {
		ans := c.cfg.DNS.TLSA(ctx, "_"+strconv.Itoa(c.cfg.MXPort)+"._tcp."+base)
		switch {
		case ans.Status == dns.Failed:
			text := "DNS does not tell the TLSA records of " + base + " now"
			return tlsPolicy{kind: policyDANE, base: base}, tlsFailure(host.name, "4.7.5", text, ans.Err)
		case ans.Status != dns.Found || !ans.Secure:
			continue
		}
		names := slices.Compact([]string{base, host.name})
		if !slices.Contains(names, domain) {
			names = append(names, domain)
		}
		policy := tlsPolicy{kind: policyDANE, base: base, names: names, tlsa: usableTLSA(ans.Records)}
		if len(policy.tlsa) == 0 {
			policy.kind = policyEncrypt
		}
		return policy, nil
	}
	return tlsPolicy{}, nil
}

// tlsaBases are the names under which a host may have TLSA records: the one
// that its alias leads to, then its own (RFC 7672 section 2.2.2).
func (c *Client) tlsaBases(ctx context.Context, host string, addrs dns.Answer[netip.Addr]) ([]string, *mail.Failure) {
	alias := addrs.Name != "" && addrs.Name != host
	switch {
	case addrs.Secure && alias:
		return []string{addrs.Name, host}, nil
	case addrs.Secure:
		return []string{host}, nil
	case !alias:
		return nil, nil
	}
	// The addresses are not signed; the alias itself may be.
	ans := c.cfg.DNS.CNAME(ctx, host)
	switch {
	case ans.Status == dns.Failed:
		return nil, tlsFailure(host, "4.7.5", "DNS does not tell now whether "+host+" is signed", ans.Err)
	case ans.Status == dns.Found && ans.Secure:
		return []string{host}, nil
	}
	return nil, nil
}

// usableTLSA keeps the records that SMTP can use (RFC 7672 section 3.1), and
// of those that differ in the digest alone the ones with the strongest (RFC
// 7671 section 9).
func usableTLSA(in []dns.TLSA) []dns.TLSA {
	var out []dns.TLSA
	strong := map[[2]uint8]bool{}
	for _, r := range in {
		if !usable(r) {
			continue
		}
		out = append(out, r)
		if r.Matching == matchSHA512 {
			strong[[2]uint8{r.Usage, r.Selector}] = true
		}
	}
	return slices.DeleteFunc(out, func(r dns.TLSA) bool {
		return r.Matching == matchSHA256 && strong[[2]uint8{r.Usage, r.Selector}]
	})
}

func usable(r dns.TLSA) bool {
	if r.Usage != usageDANETA && r.Usage != usageDANEEE || r.Selector > selectorSPKI {
		return false
	}
	switch r.Matching {
	case matchSHA256:
		return len(r.Data) == sha256.Size
	case matchSHA512:
		return len(r.Data) == sha512.Size
	case matchFull:
		if r.Selector == selectorCert {
			_, err := x509.ParseCertificate(r.Data)
			return err == nil
		}
		_, err := x509.ParsePKIXPublicKey(r.Data)
		return err == nil
	}
	return false
}

// verifyDANE checks what a host showed against its usable TLSA records. A
// DANE-EE record speaks for the key, whatever the certificate says of names
// and times (RFC 7672 section 3.1.1); a DANE-TA record for whatever it has
// issued for one of the names (section 3.1.2).
func verifyDANE(host string, records []dns.TLSA, names []string, now time.Time) func(tls.ConnectionState) *certificateError {
	return func(cs tls.ConnectionState) *certificateError {
		if len(cs.PeerCertificates) == 0 {
			return &certificateError{resultValidation, "next hop shows no certificate", errors.New("no certificate")}
		}
		var closest *certificateError
		for _, r := range records {
			if r.Usage == usageDANEEE && r.Matches(cs.PeerCertificates[0]) {
				return nil
			}
			if r.Usage != usageDANETA {
				continue
			}
			if anchor := findAnchor(r, cs.PeerCertificates); anchor != nil {
				trouble := verifyAnchored(host, anchor, cs.PeerCertificates, names, now)
				if trouble == nil {
					return nil
				}
				closest = trouble
			}
		}
		if closest != nil {
			return closest
		}
		text := fmt.Sprintf("certificate of %s matches none of its TLSA records", host)
		return &certificateError{resultValidation, text, fmt.Errorf("none of %d TLSA records matches the certificate %s", len(records), describe(cs.PeerCertificates[0]))}
	}
}

// findAnchor finds the certificate that a DANE-TA record stands for: among
// those shown, or in the record itself (RFC 7671 section 5.2.2).
func findAnchor(r dns.TLSA, shown []*x509.Certificate) *x509.Certificate {
	for _, cert := range shown {
		if r.Matches(cert) {
			return cert
		}
	}
	if r.Selector == selectorCert && r.Matching == matchFull {
		if cert, err := x509.ParseCertificate(r.Data); err == nil {
			return cert
		}
	}
	return nil
}

func verifyAnchored(host string, anchor *x509.Certificate, shown []*x509.Certificate, names []string, now time.Time) *certificateError {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	opts.Roots.AddCert(anchor)
	for _, cert := range shown[1:] {
		opts.Intermediates.AddCert(cert)
	}
	if _, err := shown[0].Verify(opts); err != nil {
		return certificateTrouble(host, shown[0], err)
	}
	var err error
	for _, name := range names {
		if err = shown[0].VerifyHostname(name); err == nil {
			return nil
		}
	}
	return certificateTrouble(host, shown[0], err)
}

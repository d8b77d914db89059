package smtpbridge

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

// policyKind says what a recipient domain asks of TLS with one of its hosts.
type policyKind int

const (
	policyNone       policyKind = iota // nothing: what the hop says
	policyDANE                         // a certificate that its TLSA records name
	policyEncrypt                      // TLSA records, none usable: TLS, any certificate (RFC 7672 section 2.2)
	policySTS                          // a verified certificate, MTA-STS mode enforce
	policySTSTesting                   // the same, but failures are reported only
)

// tlsPolicy is what a domain asks of TLS with one host. The zero value asks
// nothing.
type tlsPolicy struct {
	kind  policyKind
	tlsa  []dns.TLSA // DANE: the usable ones; encrypt: none
	base  string     // DANE: TLSA base domain, which the client names in TLS (RFC 7672 section 8.1)
	names []string   // DANE: names that a DANE-TA certificate may be for (RFC 7672 section 3.2.2)
	sts   *stsPolicy
	alien bool // MTA-STS testing: the host is not in the policy
}

// key tells policies apart that a connection must not be shared between.
func (p tlsPolicy) key() string {
	h := sha256.New()
	for _, r := range p.tlsa {
		fmt.Fprintf(h, "%d %d %d %x\n", r.Usage, r.Selector, r.Matching, r.Data)
	}
	for _, n := range p.names {
		fmt.Fprintln(h, n)
	}
	if p.sts != nil {
		fmt.Fprintln(h, p.sts.ID)
	}
	return strconv.Itoa(int(p.kind)) + p.base + hex.EncodeToString(h.Sum(nil)[:8])
}

// domainPolicy is what is known of a recipient domain as a whole.
type domainPolicy struct {
	domain string
	sts    *stsPolicy // nil: none
}

// policyOfDomain looks for the domain's MTA-STS policy. A failure means that
// ctx ended or what is stored could not be read: whatever else goes wrong, there
// is a policy in force or none.
func (c *Client) policyOfDomain(ctx context.Context, e errand) (domainPolicy, *mail.Failure) {
	out := domainPolicy{domain: e.domain}
	if c.sts == nil || e.hop.tlsMode() == TLSNone {
		return out, nil
	}
	policy, trouble, err := c.sts.policy(ctx, e.domain)
	if err != nil {
		return out, lookupFailed("MTA-STS policy of "+e.domain, err)
	}
	if trouble != nil {
		c.reportTrouble(e.domain, trouble)
	}
	if policy != nil && policy.Mode != stsNone {
		out.sts = policy
	}
	return out, nil
}

// policyOfHost finds what the domain asks of TLS with one of its hosts. DANE
// goes before MTA-STS (RFC 8461 section 2). A failure means that mail must not
// go there now.
func (c *Client) policyOfHost(ctx context.Context, e errand, d domainPolicy, host exchanger, addrs dns.Answer[netip.Addr]) (tlsPolicy, *mail.Failure) {
	if e.hop.tlsMode() == TLSNone {
		return tlsPolicy{}, nil
	}
	policy, f := c.danePolicy(ctx, e.domain, host, addrs)
	if f == nil && policy.kind == policyNone {
		policy, f = stsPolicyOf(d, host.name)
	}
	if (f != nil || policy.kind != policyNone) && e.waived() {
		return tlsPolicy{}, nil
	}
	if f != nil {
		c.reportUnusable(e.domain, host.name, policy, f)
	}
	return policy, f
}

// stsPolicyOf applies the domain's MTA-STS policy to a host (RFC 8461 section
// 4.1).
func stsPolicyOf(d domainPolicy, host string) (tlsPolicy, *mail.Failure) {
	switch {
	case d.sts == nil:
		return tlsPolicy{}, nil
	case d.sts.Mode == stsTesting:
		return tlsPolicy{kind: policySTSTesting, sts: d.sts, alien: !d.sts.matches(host)}, nil
	case !d.sts.matches(host):
		text := fmt.Sprintf("mail exchanger %s is not in the MTA-STS policy of %s", host, d.domain)
		return tlsPolicy{kind: policySTS, sts: d.sts}, tlsFailure(host, "4.7.5", text, nil)
	}
	return tlsPolicy{kind: policySTS, sts: d.sts}, nil
}

// maxWaiverHeader bounds how much of a header is searched for TLS-Required.
const maxWaiverHeader = 1 << 20

// waivesTLS reports whether a message's header says "TLS-Required: No" and its
// envelope does not say REQUIRETLS, which goes before (RFC 8689 section 5). A
// header that cannot be read says nothing.
func waivesTLS(a mail.Attempt) bool {
	if a.Envelope.RequireTLS {
		return false
	}
	in, err := a.Content.Open()
	if err != nil {
		return false
	}
	defer in.Close()
	return findWaiver(io.LimitReader(in, maxWaiverHeader))
}

// findWaiver looks through header fields, folded ones included, and keeps of
// each no more than it needs.
func findWaiver(r io.Reader) bool {
	const name, keep = "tls-required", 256
	br := bufio.NewReaderSize(r, 4<<10)
	var field []byte // the field so far, its beginning only
	waived := func() bool {
		key, value, ok := strings.Cut(string(field), ":")
		return ok && len(field) < keep && strings.EqualFold(strings.TrimRight(key, " \t"), name) && strings.EqualFold(strings.TrimSpace(value), "no")
	}
	start := true // of a line
	for {
		piece, err := br.ReadSlice('\n')
		line := bytes.TrimRight(piece, "\r\n")
		switch {
		case start && len(piece) > 0 && len(line) == 0: // the end of the header
			return waived()
		case start && len(line) > 0 && line[0] != ' ' && line[0] != '\t':
			if waived() {
				return true
			}
			field = field[:0]
		}
		field = append(field, line[:min(len(line), max(0, keep-len(field)))]...)
		start = err == nil
		if err != nil && err != bufio.ErrBufferFull {
			return waived()
		}
	}
}

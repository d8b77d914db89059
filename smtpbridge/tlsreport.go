package smtpbridge

import (
	"net"
	"time"

	"mailxmppd/mail"
)

// ReportSink is told how TLS with the MX hosts of other domains fares, for the
// reports of RFC 8460. Safe for concurrent use; must not wait.
type ReportSink interface {
	RecordTLS(r TLSResult)
}

// Policy types of RFC 8460 section 4.4.
const (
	reportTLSA     = "tlsa"
	reportSTS      = "sts"
	reportNoPolicy = "no-policy-found"
)

// TLSResult is how TLS fared in one session with an MX host, or why a policy
// could not be applied. Failure "" is success.
type TLSResult struct {
	At         time.Time
	Domain     string   // the policy domain
	PolicyType string   // "tlsa", "sts" or "no-policy-found"
	Policy     []string // the policy's lines or records
	MXPatterns []string // of an MTA-STS policy

	Failure   string // RFC 8460 section 4.3
	Detail    string // in words
	MXHost    string
	SendingIP string
	HostIP    string
}

// reportSession records what TLS with a host came to. What is nobody's fault
// but ours, or not TLS's, is not in it.
func (c *Client) reportSession(p place, hc *hopConn, f *mail.Failure) {
	if c.cfg.Reports == nil || p.domain == "" || hc.trouble == nil && hc.tls == "" {
		return
	}
	r := p.policy.result(p.domain)
	r.MXHost, r.SendingIP, r.HostIP = p.host, ipOf(hc.raw.LocalAddr()), ipOf(hc.raw.RemoteAddr())
	switch {
	case hc.trouble != nil:
		r.Failure, r.Detail = hc.trouble.result, hc.trouble.text
	case p.policy.alien:
		r.Failure, r.Detail = resultValidation, "mail exchanger is not in the MTA-STS policy"
	case p.policy.kind == policyEncrypt:
		r.Failure, r.Detail = resultTLSAInvalid, "no TLSA record is usable"
	}
	c.cfg.Reports.RecordTLS(r)
}

// reportUnusable records a host that its domain's policy rules out before
// anybody connects.
func (c *Client) reportUnusable(domain, host string, policy tlsPolicy, f *mail.Failure) {
	if c.cfg.Reports == nil {
		return
	}
	r := policy.result(domain)
	r.MXHost, r.Failure, r.Detail = host, resultValidation, f.Text
	if policy.kind == policyDANE {
		r.Failure = resultDNSSEC
	}
	c.cfg.Reports.RecordTLS(r)
}

// reportTrouble records that a domain's MTA-STS policy could not be had.
func (c *Client) reportTrouble(domain string, trouble *stsTrouble) {
	if c.cfg.Reports == nil {
		return
	}
	r := TLSResult{At: time.Now(), Domain: domain, PolicyType: reportSTS, Failure: trouble.result, Detail: plainTrouble(trouble.err)}
	c.cfg.Reports.RecordTLS(r)
}

// result begins a result under a policy.
func (p tlsPolicy) result(domain string) TLSResult {
	r := TLSResult{At: time.Now(), Domain: domain, PolicyType: reportNoPolicy}
	switch p.kind {
	case policyDANE, policyEncrypt:
		r.PolicyType, r.Policy = reportTLSA, tlsaLines(p.tlsa)
	case policySTS, policySTSTesting:
		r.PolicyType, r.Policy, r.MXPatterns = reportSTS, p.sts.lines(), p.sts.MX
	}
	return r
}

func ipOf(a net.Addr) string {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().String()
	}
	return ""
}

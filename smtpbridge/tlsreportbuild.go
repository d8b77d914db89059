package smtpbridge

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"mailxmppd/mail"
)

// Reporter says who reports.
type Reporter struct {
	Organization string
	Domain       string // the sending domain, for the file's name
	Contact      string // an address, for questions
}

// Report is a report as RFC 8460 section 5 wants it sent.
type Report struct {
	ID       string // for the TLS-Report-... fields and the subject
	Filename string
	Gzip     []byte // application/tlsrpt+gzip
}

// The JSON of RFC 8460 section 4.4.
type reportJSON struct {
	Organization string             `json:"organization-name"`
	DateRange    reportRange        `json:"date-range"`
	Contact      string             `json:"contact-info"`
	ID           string             `json:"report-id"`
	Policies     []reportPolicyJSON `json:"policies"`
}

type reportRange struct {
	Start string `json:"start-datetime"`
	End   string `json:"end-datetime"`
}

type reportPolicyJSON struct {
	Policy  reportPolicyName    `json:"policy"`
	Summary reportSummary       `json:"summary"`
	Details []reportFailureJSON `json:"failure-details,omitempty"`
}

type reportPolicyName struct {
	Type   string   `json:"policy-type"`
	String []string `json:"policy-string,omitempty"`
	Domain string   `json:"policy-domain"`
	MXHost []string `json:"mx-host,omitempty"`
}

type reportSummary struct {
	Successes int64 `json:"total-successful-session-count"`
	Failures  int64 `json:"total-failure-session-count"`
}

type reportFailureJSON struct {
	Result    string `json:"result-type"`
	SendingIP string `json:"sending-mta-ip,omitempty"`
	MXHost    string `json:"receiving-mx-hostname,omitempty"`
	HostIP    string `json:"receiving-ip,omitempty"`
	Sessions  int64  `json:"failed-session-count"`
	Detail    string `json:"additional-information,omitempty"`
}

// BuildReport writes one domain's day as a report file (RFC 8460 sections 4.4
// and 5.1). The id, "unique@domain", is the same each time that a report is sent.
func BuildReport(who Reporter, id string, d DayReport) (Report, error) {
	start, err := time.Parse(time.DateOnly, d.Day)
	if err != nil {
		return Report{}, fmt.Errorf("tls report of %s: day: %w", d.Domain, err)
	}
	end := start.AddDate(0, 0, 1).Add(-time.Second)
	out := Report{ID: id}
	doc := reportJSON{
		Organization: who.Organization, Contact: who.Contact, ID: out.ID,
		DateRange: reportRange{start.Format(time.RFC3339), end.Format(time.RFC3339)},
		Policies:  []reportPolicyJSON{},
	}
	for _, p := range d.Policies {
		policy := reportPolicyJSON{
			Policy:  reportPolicyName{Type: p.Type, String: p.Policy, Domain: d.Domain, MXHost: p.MXPatterns},
			Summary: reportSummary{p.Successes, p.Failures},
		}
		for _, f := range p.Details {
			policy.Details = append(policy.Details, reportFailureJSON{f.Result, f.SendingIP, f.MXHost, f.HostIP, f.Sessions, f.Detail})
		}
		doc.Policies = append(doc.Policies, policy)
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := json.NewEncoder(z).Encode(doc); err != nil {
		return Report{}, fmt.Errorf("tls report of %s: %w", d.Domain, err)
	}
	if err := z.Close(); err != nil {
		return Report{}, fmt.Errorf("tls report of %s: %w", d.Domain, err)
	}
	unique, _, _ := strings.Cut(id, "@")
	out.Filename = fmt.Sprintf("%s!%s!%d!%d!%s.json.gz", who.Domain, d.Domain, start.Unix(), end.Unix(), unique)
	out.Gzip = b.Bytes()
	return out, nil
}

// maxReportTargets bounds how many places one report is sent to.
const maxReportTargets = 4

// ReportTargets reads where a domain wants its reports, from the TXT records
// of _smtp._tls.<domain> (RFC 8460 section 3): "mailto:" and "https:" URIs, in
// order. None where not exactly one record is there.
func ReportTargets(records []string) []string {
	var found []string
	for _, record := range records {
		fields := strings.Split(record, ";")
		if strings.TrimRight(fields[0], " \t") == "v=TLSRPTv1" {
			found = append(found, strings.Join(fields[1:], ";"))
		}
	}
	if len(found) != 1 {
		return nil
	}
	var out []string
	for field := range strings.SplitSeq(found[0], ";") {
		key, value, ok := strings.Cut(strings.Trim(field, " \t"), "=")
		if !ok || strings.TrimRight(key, " \t") != "rua" {
			continue
		}
		for target := range strings.SplitSeq(value, ",") {
			target = strings.Trim(target, " \t")
			if isReportTarget(target) && len(out) < maxReportTargets {
				out = append(out, target)
			}
		}
	}
	return out
}

func isReportTarget(s string) bool {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return false
	case u.Scheme == "https":
		return u.Host != "" && u.User == nil
	case u.Scheme == "mailto":
		address, err := url.PathUnescape(u.Opaque)
		if err != nil {
			return false
		}
		_, err = mail.ParseAddress(address)
		return err == nil
	}
	return false
}

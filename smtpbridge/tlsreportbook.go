package smtpbridge

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mailxmppd/dns"
)

const (
	maxReportDays     = 10_000 // domains times days held by a book
	maxReportPolicies = 16     // per domain and day
	maxReportDetails  = 100    // kinds of failures told apart per policy
	maxReportLines    = 32     // of a policy
)

// ReportBook adds up results per policy domain and UTC day, within bounds: what
// does not fit is counted where it can be and else left out. It is a
// ReportSink; its DayReports go to a store and come back with Add.
type ReportBook struct {
	mu   sync.Mutex
	days map[reportKey]*DayReport
}

type reportKey struct{ day, domain string }

// DayReport is one domain's results of one day. Its JSON form may be stored.
type DayReport struct {
	Day      string         `json:"day"` // "2006-01-02", UTC (RFC 8460 section 4.1)
	Domain   string         `json:"domain"`
	Policies []PolicyReport `json:"policies"`
}

// PolicyReport is what happened under one policy.
type PolicyReport struct {
	Type       string          `json:"type"`
	Policy     []string        `json:"policy,omitempty"`
	MXPatterns []string        `json:"mx,omitempty"`
	Successes  int64           `json:"ok"`
	Failures   int64           `json:"failed"`
	Details    []FailureReport `json:"details,omitempty"`
}

// FailureReport counts failures of one kind with one host.
type FailureReport struct {
	Result    string `json:"result"` // RFC 8460 section 4.3
	Detail    string `json:"detail,omitempty"`
	MXHost    string `json:"mx_host,omitempty"`
	SendingIP string `json:"sending_ip,omitempty"`
	HostIP    string `json:"host_ip,omitempty"`
	Sessions  int64  `json:"sessions"`
}

// NewReportBook makes an empty book.
func NewReportBook() *ReportBook { return &ReportBook{days: map[reportKey]*DayReport{}} }

// RecordTLS implements ReportSink.
func (b *ReportBook) RecordTLS(r TLSResult) {
	p := PolicyReport{Type: r.PolicyType, Policy: r.Policy[:min(len(r.Policy), maxReportLines)], MXPatterns: r.MXPatterns[:min(len(r.MXPatterns), maxReportLines)]}
	if r.Failure == "" {
		p.Successes = 1
	} else {
		p.Failures = 1
		p.Details = []FailureReport{{Result: r.Failure, Detail: r.Detail, MXHost: r.MXHost, SendingIP: r.SendingIP, HostIP: r.HostIP, Sessions: 1}}
	}
	b.Add(DayReport{Day: r.At.UTC().Format(time.DateOnly), Domain: r.Domain, Policies: []PolicyReport{p}})
}

// Add adds what was counted elsewhere, or before a restart.
func (b *ReportBook) Add(d DayReport) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := reportKey{d.Day, d.Domain}
	have := b.days[key]
	if have == nil {
		if len(b.days) >= maxReportDays {
			return
		}
		have = &DayReport{Day: d.Day, Domain: d.Domain}
		b.days[key] = have
	}
	for _, p := range d.Policies {
		have.add(p)
	}
}

func (d *DayReport) add(p PolicyReport) {
	i := slices.IndexFunc(d.Policies, func(q PolicyReport) bool {
		return q.Type == p.Type && slices.Equal(q.Policy, p.Policy) && slices.Equal(q.MXPatterns, p.MXPatterns)
	})
	if i < 0 {
		if len(d.Policies) >= maxReportPolicies {
			return
		}
		i = len(d.Policies)
		d.Policies = append(d.Policies, PolicyReport{Type: p.Type, Policy: p.Policy, MXPatterns: p.MXPatterns})
	}
	q := &d.Policies[i]
	q.Successes += p.Successes
	q.Failures += p.Failures
	for _, f := range p.Details {
		q.addDetail(f)
	}
}

func (p *PolicyReport) addDetail(f FailureReport) {
	i := slices.IndexFunc(p.Details, func(g FailureReport) bool {
		g.Sessions = f.Sessions
		return g == f
	})
	switch {
	case i >= 0:
		p.Details[i].Sessions += f.Sessions
	case len(p.Details) < maxReportDetails:
		p.Details = append(p.Details, f)
	}
}

// Take removes and returns the reports of all days before that of now, or of
// all days for the zero time, in order of day and domain.
func (b *ReportBook) Take(now time.Time) []DayReport {
	today := now.UTC().Format(time.DateOnly)
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []DayReport
	for key, d := range b.days {
		if now.IsZero() || key.day < today {
			out = append(out, *d)
			delete(b.days, key)
		}
	}
	slices.SortFunc(out, func(x, y DayReport) int {
		return cmp.Or(strings.Compare(x.Day, y.Day), strings.Compare(x.Domain, y.Domain))
	})
	return out
}

// tlsaLines writes records as a report repeats them (RFC 8460 section 4.4).
func tlsaLines(records []dns.TLSA) []string {
	var out []string
	for _, r := range records {
		out = append(out, fmt.Sprintf("%d %d %d %x", r.Usage, r.Selector, r.Matching, r.Data))
	}
	slices.Sort(out)
	return out
}

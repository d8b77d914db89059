package smtpbridge

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// policyKey and FailureReport, as JSON, are what the store tells counts apart by.
type policyKey struct {
	Type       string   `json:"type"`
	Policy     []string `json:"policy,omitempty"`
	MXPatterns []string `json:"mx,omitempty"`
}

// reportSpread is the time over which the reports of one day go out (RFC 8460
// section 4.1 proposes four hours), after reportMargin in which all nodes store
// what they counted before midnight.
const (
	reportSpread = 4 * time.Hour
	reportMargin = 15 * time.Minute
)

// stored puts a report into the store's form: sessions of success have an empty
// result, failures beyond those that are told apart an empty object.
func (d DayReport) stored() (store.TLSDay, error) {
	day, err := time.Parse(time.DateOnly, d.Day)
	if err != nil {
		return store.TLSDay{}, fmt.Errorf("tls report of %s: day: %w", d.Domain, err)
	}
	h := fnv.New32a()
	h.Write([]byte(d.Domain)) // the same moment on all nodes
	jitter := time.Duration(h.Sum32()) % reportSpread
	out := store.TLSDay{Day: d.Day, Domain: d.Domain, Due: day.AddDate(0, 0, 1).Add(reportMargin + jitter)}
	for _, p := range d.Policies {
		policy, err := json.Marshal(policyKey{p.Type, p.Policy, p.MXPatterns})
		if err != nil {
			return store.TLSDay{}, err
		}
		add := func(result string, sessions int64) {
			if sessions > 0 {
				out.Counts = append(out.Counts, store.TLSCount{Policy: string(policy), Result: result, Sessions: sessions})
			}
		}
		add("", p.Successes)
		rest := p.Failures
		for _, f := range p.Details {
			sessions := f.Sessions
			f.Sessions = 0
			result, err := json.Marshal(f)
			if err != nil {
				return store.TLSDay{}, err
			}
			add(string(result), sessions)
			rest -= sessions
		}
		add("{}", rest)
	}
	return out, nil
}

// ReadTLSDay is what the store holds of a day, as a report. What cannot be read
// is left out.
func ReadTLSDay(d store.TLSDay) DayReport {
	out := DayReport{Day: d.Day, Domain: d.Domain}
	for _, c := range d.Counts {
		var policy policyKey
		if json.Unmarshal([]byte(c.Policy), &policy) != nil {
			continue
		}
		p := PolicyReport{Type: policy.Type, Policy: policy.Policy, MXPatterns: policy.MXPatterns}
		var f FailureReport
		switch {
		case c.Result == "":
			p.Successes = c.Sessions
		case json.Unmarshal([]byte(c.Result), &f) != nil:
			continue
		default:
			p.Failures = c.Sessions
			if f.Sessions = c.Sessions; f.Result != "" {
				p.Details = []FailureReport{f}
			}
		}
		out.add(p)
	}
	return out
}

// plainTrouble says why a policy could not be had, without what differs each
// time: the hour and our own port would make each failure one of its own.
func plainTrouble(err error) string {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		return "certificate of the policy host is not valid: " + invalidReason(invalid)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return mail.Sanitise(op.Op + ": " + op.Err.Error())
	}
	return mail.Sanitise(err.Error())
}

package dmarc

import (
	"errors"
	"fmt"
	"strings"

	"mailxmppd/trust/authres"
)

// Policy is what a domain's owner asks for mail that fails.
type Policy string

const (
	PolicyNone       Policy = "none"
	PolicyQuarantine Policy = "quarantine"
	PolicyReject     Policy = "reject"
)

// Record is a policy record (RFC 9989 section 4.7). Reporting is not ours to
// do; of rua only its presence counts.
type Record struct {
	Policy      Policy // p
	Subdomains  Policy // sp; "" if absent
	NonExistent Policy // np; "" if absent
	StrictDKIM  bool   // adkim=s
	StrictSPF   bool   // aspf=s
	PSD         byte   // 'y', 'n' or 'u'
	Testing     bool   // t=y
}

// errNotDMARC is of a text that is no policy record.
var errNotDMARC = errors.New("not a DMARC record")

// maxRecord bounds a record that is read.
const maxRecord = 4096

// ParseRecord reads a record. The error is errNotDMARC for a text that is to be
// passed over (RFC 9989 section 4.10); any other means that the domain's owner
// wanted a policy and it cannot be understood.
func ParseRecord(text string) (*Record, error) {
	version, _, _ := strings.Cut(text, ";")
	name, value, _ := strings.Cut(version, "=")
	// "v" comes first, and its value is compared with its case (RFC 9989
	// section 4.7).
	if strings.Trim(name, " \t") != "v" || strings.Trim(value, " \t") != "DMARC1" {
		return nil, errNotDMARC
	}
	if len(text) > maxRecord {
		return nil, errors.New("the record is too long")
	}
	tags := map[string]string{}
	for spec := range strings.SplitSeq(text, ";") {
		if spec = strings.Trim(spec, " \t"); spec == "" {
			continue
		}
		name, value, ok := strings.Cut(spec, "=")
		name = strings.ToLower(strings.TrimRight(name, " \t"))
		if !ok || name == "" {
			return nil, fmt.Errorf("%.20q in the record is not a tag", spec)
		}
		if _, twice := tags[name]; twice {
			return nil, fmt.Errorf("tag %.20q is in the record twice", name)
		}
		tags[name] = strings.TrimLeft(value, " \t")
	}
	return readTags(tags)
}

func readTags(tags map[string]string) (*Record, error) {
	r := &Record{PSD: 'u'}
	valid := true
	policy := func(name string) Policy {
		v, ok := tags[name]
		switch p := Policy(strings.ToLower(v)); {
		case !ok:
			return ""
		case p == PolicyNone || p == PolicyQuarantine || p == PolicyReject:
			return p
		}
		valid = false
		return ""
	}
	r.Policy, r.Subdomains, r.NonExistent = policy("p"), policy("sp"), policy("np")
	// RFC 9989 section 4.10.1: a policy that is missing or wrong means "none"
	// where somebody wants reports, and no policy at all otherwise.
	if r.Policy == "" || !valid {
		if !strings.Contains(strings.ToLower(tags["rua"]), "mailto:") {
			return nil, errors.New("the record has no valid policy")
		}
		r.Policy, r.Subdomains, r.NonExistent = PolicyNone, "", ""
	}
	// A wrong value of any other tag counts as its absence (RFC 9989 section
	// 4.7).
	r.StrictDKIM = strings.EqualFold(tags["adkim"], "s")
	r.StrictSPF = strings.EqualFold(tags["aspf"], "s")
	r.Testing = strings.EqualFold(tags["t"], "y")
	switch strings.ToLower(tags["psd"]) {
	case "y":
		r.PSD = 'y'
	case "n":
		r.PSD = 'n'
	}
	return r, nil
}

// wanted returns the policy for a domain at, or below, the one whose record it
// is (RFC 9989 section 4.10.1); t=y takes it down by a step (section 4.7).
func (r *Record) wanted(below, exists bool) Policy {
	p := r.Policy
	switch {
	case !below:
	case !exists && r.NonExistent != "":
		p = r.NonExistent
	case r.Subdomains != "":
		p = r.Subdomains
	}
	if r.Testing {
		switch p {
		case PolicyReject:
			return PolicyQuarantine
		case PolicyQuarantine:
			return PolicyNone
		}
	}
	return p
}

// Identifier is a domain that SPF, DKIM or the stream has something to say
// about.
type Identifier struct {
	By     string // "spf", "dkim" or "xmpp"
	Domain string
	Result authres.Result
}

package smtpbridge

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
)

// Modes of an MTA-STS policy (RFC 8461 section 5).
const (
	stsEnforce = "enforce"
	stsTesting = "testing"
	stsNone    = "none"
)

const (
	// maxSTSAge is the longest that a policy may ask to be kept, in seconds
	// (RFC 8461 section 3.2).
	maxSTSAge = 31_557_600
	// maxSTSHosts bounds the mx lines of a policy.
	maxSTSHosts = 256
	// stsMark begins a policy record (RFC 8461 section 3.1).
	stsMark = "v=STSv1"
)

// stsPolicy is a domain's MTA-STS policy. Its JSON form is stored.
type stsPolicy struct {
	ID      string        `json:"id"` // of the DNS record that led to it
	Mode    string        `json:"mode"`
	MX      []string      `json:"mx,omitempty"` // names, A-labels; "*." begins a pattern
	MaxAge  time.Duration `json:"max_age"`
	Fetched time.Time     `json:"fetched"`
}

// expires is when the policy is no longer in force.
func (p *stsPolicy) expires() time.Time { return p.Fetched.Add(p.MaxAge) }

// matches applies the mx patterns to a host: a star stands for exactly one
// label (RFC 8461 section 4.1, RFC 6125 section 6.4.3).
func (p *stsPolicy) matches(host string) bool {
	host = strings.ToLower(host)
	return slices.ContainsFunc(p.MX, func(pattern string) bool {
		if rest, ok := strings.CutPrefix(pattern, "*."); ok {
			label, parent, found := strings.Cut(host, ".")
			return found && label != "" && parent == rest
		}
		return host == pattern
	})
}

// lines are the policy as a report repeats it (RFC 8460 section 4.4).
func (p *stsPolicy) lines() []string {
	out := []string{"version: STSv1", "mode: " + p.Mode}
	for _, mx := range p.MX {
		out = append(out, "mx: "+mx)
	}
	return append(out, fmt.Sprintf("max_age: %d", p.MaxAge/time.Second))
}

// stsRecordID finds the policy's id among the TXT records of _mta-sts.<domain>.
// Where not exactly one record is a policy record, or that one is not well
// formed, the domain has none (RFC 8461 section 3.1).
func stsRecordID(records []string) (id string, ok bool) {
	found := false
	for _, record := range records {
		fields := strings.Split(record, ";")
		if strings.TrimRight(fields[0], " \t") != stsMark || len(fields) < 2 {
			continue
		}
		if found {
			return "", false
		}
		found = true
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(strings.Trim(field, " \t"), "=")
			if strings.TrimRight(key, " \t") == "id" && id == "" {
				id = strings.TrimLeft(value, " \t")
			}
		}
	}
	return id, isSTSID(id)
}

func isSTSID(id string) bool {
	return id != "" && len(id) <= 32 && !strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z')
	})
}

// parseSTSPolicy reads a policy file (RFC 8461 section 3.2). Lines may end in
// LF alone, as the RFC allows; keys that it does not name are passed over.
func parseSTSPolicy(text string) (*stsPolicy, error) {
	p := &stsPolicy{}
	seen := map[string]bool{}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \t\r\n")
		if line == "" {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %.80q is no field", line)
		}
		value = strings.Trim(value, " \t")
		if key != "mx" && seen[key] {
			continue // of a field given twice the first counts
		}
		if !seen["version"] && key != "version" {
			return nil, errors.New("does not begin with its version")
		}
		if len(seen) < 64 {
			seen[key] = true
		}
		if err := p.field(key, value); err != nil {
			return nil, err
		}
	}
	switch {
	case !seen["version"] || !seen["mode"] || !seen["max_age"]:
		return nil, errors.New("version, mode or max_age is missing")
	case p.Mode != stsNone && len(p.MX) == 0:
		return nil, errors.New("no mx")
	}
	return p, nil
}

func (p *stsPolicy) field(key, value string) error {
	switch key {
	case "version":
		if value != "STSv1" {
			return fmt.Errorf("version %.20q", value)
		}
	case "mode":
		if value != stsEnforce && value != stsTesting && value != stsNone {
			return fmt.Errorf("mode %.20q", value)
		}
		p.Mode = value
	case "max_age":
		seconds, err := strconv.ParseUint(value, 10, 40)
		if err != nil || len(value) > 10 {
			return fmt.Errorf("max_age %.20q", value)
		}
		p.MaxAge = time.Duration(min(seconds, maxSTSAge)) * time.Second
	case "mx":
		star, name := "", value
		if rest, ok := strings.CutPrefix(value, "*."); ok {
			star, name = "*.", rest
		}
		domain, err := mail.ParseDomain(strings.TrimSuffix(name, "."))
		if err != nil || mail.IsLiteral(domain) {
			return fmt.Errorf("mx %.80q", value)
		}
		if len(p.MX) == maxSTSHosts {
			return fmt.Errorf("more than %d mx", maxSTSHosts)
		}
		p.MX = append(p.MX, star+domain)
	}
	return nil
}

package dmarc

import (
	"context"
	"errors"
	"strings"

	"mailxmppd/dns"
)

// maxSteps bounds a walk (RFC 9989 section 4.10).
const maxSteps = 8

// step is what one name of a walk has.
type step struct {
	domain string
	record *Record
	err    error // of a record that cannot be understood
}

// walker asks for records, each name once for a message.
type walker struct {
	dns  Resolver
	seen map[string]step
	temp bool // an answer was not to be had
}

// at returns what one name has.
func (w *walker) at(ctx context.Context, domain string) step {
	if s, ok := w.seen[domain]; ok {
		return s
	}
	s := step{domain: domain}
	ans := w.dns.TXT(ctx, "_dmarc."+domain)
	if ans.Status == dns.Failed {
		w.temp = true
		return s // not remembered: another walk may have more luck
	}
	many := 0
	for _, text := range ans.Records {
		r, err := ParseRecord(text)
		if errors.Is(err, errNotDMARC) {
			continue
		}
		many++
		s.record, s.err = r, err
	}
	// RFC 9989 section 4.10: of several none counts.
	if many > 1 {
		s.record, s.err = nil, errors.New("there are several records")
	}
	w.seen[domain] = s
	return s
}

// walk goes from a domain up its tree and returns the names that have records,
// from the longest to the shortest (RFC 9989 section 4.10).
func (w *walker) walk(ctx context.Context, domain string) []step {
	var out []step
	labels := strings.Split(domain, ".")
	for n := 0; n < maxSteps && len(labels) > 0; n++ {
		s := w.at(ctx, strings.Join(labels, "."))
		if s.record != nil || s.err != nil && n == 0 {
			out = append(out, s)
		}
		if s.record != nil && s.record.PSD != 'u' {
			break
		}
		if len(labels) >= maxSteps {
			// Names are cut to seven labels at once: a name of a hundred labels
			// costs no more than one of eight.
			labels = labels[len(labels)-(maxSteps-1):]
		} else {
			labels = labels[1:]
		}
	}
	return out
}

// organization returns a domain's organizational domain, given its walk (RFC
// 9989 section 4.10.2).
func organization(domain string, steps []step) string {
	org := domain
	for _, s := range steps {
		switch {
		case s.record == nil:
			continue
		case s.record.PSD == 'y' && s.domain != domain:
			return below(domain, s.domain)
		}
		org = s.domain // the last one has the fewest labels, or psd=n, where the walk has ended
	}
	return org
}

// below returns the ancestor of domain, or domain itself, that is one label
// below suffix.
func below(domain, suffix string) string {
	head := strings.TrimSuffix(domain, "."+suffix)
	return head[strings.LastIndexByte(head, '.')+1:] + "." + suffix
}

package peers

import (
	"context"
	"math/rand/v2"
	"slices"

	"mailxmppd/dns"
)

// The SRV names (xep-draft section 4.1).
const (
	mailService     = "_xmpps-mail._tcp."
	serverService   = "_xmpps-server._tcp."
	startTLSService = "_xmpp-server._tcp."
)

// maxSRV bounds the records that DNS can make us follow.
const maxSRV = 8

// located is a record of a service, and how TLS begins there.
type located struct {
	dns.SRV
	startTLS bool
}

// place is where DNS says that a domain's streams are accepted.
type place struct {
	service  service
	records  []located // in the order to be tried; none: see why
	mailGone bool      // DNSSEC proves that there are no _xmpps-mail records
	mailDark bool      // whether there are any cannot be found out
	why      string
}

// lookup asks for the records of all three services at once, so that a domain
// that has none costs one round trip.
func (d *Directory) lookup(ctx context.Context, domain string) place {
	names := [...]string{mailService, serverService, startTLSService}
	var answers [len(names)]chan dns.Answer[dns.SRV]
	for i, name := range names {
		answers[i] = make(chan dns.Answer[dns.SRV], 1)
		go func() { answers[i] <- d.cfg.DNS.SRV(ctx, name+domain) }()
	}
	var got [len(names)]dns.Answer[dns.SRV]
	for i := range answers {
		got[i] = <-answers[i]
		// Anybody on the way can mark an answer as secure.
		got[i].Secure = got[i].Secure && d.cfg.Validating
	}
	return locate(got[0], got[1], got[2])
}

// announces reports whether a domain has _xmpps-mail records.
func (d *Directory) announces(ctx context.Context, domain string) bool {
	return len(services(d.cfg.DNS.SRV(ctx, mailService+domain), false)) > 0
}

// locate chooses among the answers in the order of xep-draft section 4.1.
func locate(own, direct, start dns.Answer[dns.SRV]) place {
	p := place{
		mailGone: own.Secure && (own.Status == dns.NoData || own.Status == dns.NoDomain),
		mailDark: own.Status == dns.Failed,
	}
	if own.Status == dns.Found {
		p.service = atMail
		if p.records = inOrder(services(own, false), rand.IntN); len(p.records) == 0 {
			p.why = "SRV target of _xmpps-mail is \".\""
		}
		return p
	}
	// XEP-0368 section 3: the records of both services are one list.
	p.service = atServer
	if p.records = inOrder(append(services(direct, false), services(start, true)...), rand.IntN); len(p.records) > 0 {
		return p
	}
	switch {
	case own.Status == dns.Failed || direct.Status == dns.Failed || start.Status == dns.Failed:
		p.why = "SRV records cannot be looked up"
	case direct.Status == dns.Found || start.Status == dns.Found:
		p.why = "SRV target of the XMPP service is \".\""
	case own.Secure && direct.Secure && start.Secure:
		p.why = "no SRV records, proven by DNSSEC"
	default:
		p.why = "no SRV records"
	}
	return p
}

// services leaves out the target ".", which says that the service is not there
// (RFC 2782).
func services(a dns.Answer[dns.SRV], startTLS bool) []located {
	var out []located
	for _, r := range a.Records {
		if r.Target != "." && r.Target != "" {
			out = append(out, located{r, startTLS})
		}
	}
	return out
}

// inOrder sorts as RFC 2782 says: by priority, and among equals drawn one by
// one with the weights as their chances, those with weight 0 having little.
func inOrder(records []located, intN func(int) int) []located {
	rest := slices.Clone(records)
	slices.SortStableFunc(rest, func(a, b located) int {
		if a.Priority != b.Priority {
			return int(a.Priority) - int(b.Priority)
		}
		return min(int(a.Weight), 1) - min(int(b.Weight), 1) // weight 0 first
	})
	var out []located
	for len(rest) > 0 && len(out) < maxSRV {
		n, sum := 0, 0
		for n < len(rest) && rest[n].Priority == rest[0].Priority {
			sum += int(rest[n].Weight)
			n++
		}
		draw, i := intN(sum+1), 0
		for running := int(rest[0].Weight); running < draw; running += int(rest[i].Weight) {
			i++
		}
		out = append(out, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}

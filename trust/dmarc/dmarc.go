// Package dmarc tells whether what SPF and DKIM have proven is about the author
// of a message, and what the author's domain asks for if it is not (RFC 9989).
//
// Invariants: one walk up the tree costs at most eight lookups, and one
// evaluation at most maxWalks walks, whatever the message holds; each name is
// asked for once.
//
// Failure semantics: an evaluation always ends in a result. Where DNS does not
// answer it is a temperror; Aligned still tells what is proven anyway.
package dmarc

import (
	"context"
	"slices"
	"strings"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/trust/authres"
)

// Resolver asks DNS; *dns.Resolver does.
type Resolver interface {
	TXT(ctx context.Context, name string) dns.Answer[string]
	MX(ctx context.Context, domain string) dns.Answer[dns.MX]
}

// maxWalks bounds the walks for identifiers in one evaluation.
const maxWalks = 8

// Evaluation is the outcome for one author domain.
type Evaluation struct {
	Result    authres.Result
	Reason    string
	Domain    string   // of the author, A-labels
	Policy    Policy   // that the domain's owner asks for now; "" without a record
	Record    string   // the domain whose record it is; "" without a record
	Published *Record  // the record; nil without one
	Org       string   // the organizational domain of Domain
	Aligned   []string // "dkim", "spf", "xmpp": what proves the author's domain
}

// Evaluator judges one message: it remembers what its walks have seen.
type Evaluator struct{ walker walker }

// New makes an Evaluator for one message. Not safe for concurrent use.
func New(r Resolver) *Evaluator {
	return &Evaluator{walker{dns: r, seen: map[string]step{}}}
}

// Discover finds the policy of an author's domain; with Result set there is
// none, or none can be told.
func (e *Evaluator) Discover(ctx context.Context, domain string) Evaluation {
	ev := Evaluation{Domain: domain, Org: domain}
	if domain == "" || mail.IsLiteral(domain) {
		return ev.end(authres.None, "the author has no domain")
	}
	e.walker.temp = false
	steps := e.walker.walk(ctx, domain)
	ev.Org = organization(domain, steps)
	temp := e.walker.temp

	// RFC 9989 section 4.10.1: the author's own record, or else the
	// organization's, or else its public suffix's.
	if len(steps) > 0 && steps[0].domain == domain && steps[0].err != nil {
		return ev.end(authres.PermError, steps[0].err.Error())
	}
	var use *step
	for i, s := range steps {
		if s.record != nil && (s.domain == domain || s.domain == ev.Org || s.record.PSD == 'y') {
			use = &steps[i]
			break
		}
	}
	switch {
	case temp:
		return ev.end(authres.TempError, "DNS does not answer")
	case use == nil:
		return ev.end(authres.None, "the domain has no policy")
	}
	ev.Record, ev.Published = use.domain, use.record
	exists := true
	if use.domain != domain && use.record.NonExistent != "" {
		// RFC 8020 section 2: only "no such name" means that there is nothing.
		ans := e.walker.dns.MX(ctx, domain)
		if exists = ans.Status != dns.NoDomain; ans.Status == dns.Failed {
			return ev.end(authres.TempError, "DNS does not answer")
		}
	}
	ev.Policy = use.record.wanted(use.domain != domain, exists)
	return ev
}

func (ev Evaluation) end(r authres.Result, reason string) Evaluation {
	ev.Result, ev.Reason = r, reason
	return ev
}

// Conclude ends an evaluation with what has been proven, about this domain or
// others. Aligned is set with or without a policy: a domain is proven whether
// or not its owner asks for anything.
func (e *Evaluator) Conclude(ctx context.Context, ev Evaluation, ids []Identifier) Evaluation {
	walks, temp := 0, false
	for _, id := range ids {
		if id.Domain == "" || id.Result != authres.Pass && id.Result != authres.TempError || slices.Contains(ev.Aligned, id.By) {
			continue
		}
		aligned, unknown := e.aligned(ctx, ev, id, &walks)
		switch {
		case unknown, aligned && id.Result == authres.TempError:
			temp = true
		case aligned:
			ev.Aligned = append(ev.Aligned, id.By)
		}
	}
	switch {
	case ev.Result != "":
	case len(ev.Aligned) > 0:
		ev.Result, ev.Reason = authres.Pass, "proven by "+strings.Join(ev.Aligned, " and ")
	case temp:
		ev.Result, ev.Reason = authres.TempError, "it cannot be told now whether the author's domain is proven"
	default:
		ev.Result, ev.Reason = authres.Fail, "nothing proves the author's domain"
	}
	return ev
}

// aligned: RFC 9989 section 4.4. Strict is the same domain, relaxed the same
// organizational domain.
func (e *Evaluator) aligned(ctx context.Context, ev Evaluation, id Identifier, walks *int) (aligned, unknown bool) {
	if id.Domain == ev.Domain {
		return true, false
	}
	strict := id.By == "xmpp" // a stream proves its own domain and no other
	if ev.Published != nil {
		strict = strict || id.By == "dkim" && ev.Published.StrictDKIM || id.By == "spf" && ev.Published.StrictSPF
	}
	// Only a domain within the author's organization can share it, so that
	// strangers' signatures cost no lookups.
	if strict || id.Domain != ev.Org && !strings.HasSuffix(id.Domain, "."+ev.Org) || *walks == maxWalks {
		return false, false
	}
	*walks++
	e.walker.temp = false
	org := organization(id.Domain, e.walker.walk(ctx, id.Domain))
	if e.walker.temp {
		return false, true
	}
	return org == ev.Org, false
}

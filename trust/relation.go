package trust

import (
	"context"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"mailxmppd/mail"
	"mailxmppd/trust/author"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/header"
	"mailxmppd/trust/spf"
)

// relate compares the domains that a message names.
func relate(in Input, from author.From) Relation {
	bound := ""
	if in.Arrival == ByXMPP {
		bound = in.Binding.Remote
	}
	r := Relation{
		SenderToFrom:  NotThere,
		BoundToSender: kinship(bound, in.Sender.Domain),
		BoundToFrom:   NotThere,
	}
	for i, d := range from.Domains() {
		s, b := kinship(in.Sender.Domain, d), kinship(bound, d)
		if i == 0 || distance[s] > distance[r.SenderToFrom] {
			r.SenderToFrom = s
		}
		if i == 0 || distance[b] > distance[r.BoundToFrom] {
			r.BoundToFrom = b
		}
	}
	return r
}

// method says where the domains are not the same, for people and programs who
// look closer: it proves nothing, since lists and forwarders are as they are. No
// Result where there is nothing to say.
func (r Relation) method() authres.Method {
	m := authres.Method{Name: "x-relation"}
	for _, pair := range []struct {
		name string
		is   Kinship
	}{{"sender-from", r.SenderToFrom}, {"bound-sender", r.BoundToSender}, {"bound-from", r.BoundToFrom}} {
		switch {
		case pair.is == Different:
			m.Result = authres.Neutral
		case pair.is == SameOrganization && m.Result == "":
			m.Result = authres.Pass
		case pair.is != SameOrganization:
			continue
		}
		m.Props = append(m.Props, authres.Prop{Type: "policy", Name: pair.name, Value: string(pair.is)})
	}
	return m
}

var distance = map[Kinship]int{NotThere: 0, SameDomain: 1, SameOrganization: 2, Different: 3}

func kinship(a, b string) Kinship {
	switch {
	case a == "" || b == "":
		return NotThere
	case a == b:
		return SameDomain
	case mail.IsLiteral(a) || mail.IsLiteral(b):
		return Different
	}
	// This is for people to read, and needs no lookups: a list of public
	// suffixes will do. Proofs go by the tree walk of RFC 9989.
	orgA, errA := publicsuffix.EffectiveTLDPlusOne(a)
	orgB, errB := publicsuffix.EffectiveTLDPlusOne(b)
	if errA == nil && errB == nil && orgA == orgB {
		return SameOrganization
	}
	return Different
}

// carrier collects who has handed the message on.
func (e *Evaluator) carrier(ev *Evidence, secondary *Secondary, h header.Header) Carrier {
	var c Carrier
	if secondary != nil {
		c.Secondary, c.SecondaryFor = true, secondary.Recipients
		c.Results = resultsOf(h, secondary.AuthservID)
	}
	add := func(domain, by string, r authres.Result) {
		if r == authres.Pass && domain != "" && !slices.ContainsFunc(c.Domains, func(x Carried) bool { return x.Domain == domain }) {
			c.Domains = append(c.Domains, Carried{domain, by})
		}
	}
	for _, check := range []spf.Check{ev.MailFrom, ev.Helo} {
		if check.Result == authres.TempError && check.Domain != "" {
			c.Unsure = append(c.Unsure, check.Domain)
			c.UnsureTrusted = c.UnsureTrusted || slices.Contains(e.conf.Forwarders, check.Domain)
		}
	}
	add(ev.Binding.Domain, "xmpp", ev.Binding.Result)
	add(ev.MailFrom.Domain, "spf", ev.MailFrom.Result)
	add(ev.Helo.Domain, "helo", ev.Helo.Result)
	add(ev.ARC.Sealer, "arc", ev.ARC.Result)
	if domain, err := mail.ParseDomain(strings.TrimSuffix(ev.IPRev.Name, ".")); err == nil {
		add(domain, "iprev", ev.IPRev.Result)
	}
	for _, d := range c.Domains {
		if slices.Contains(e.conf.Forwarders, d.Domain) {
			c.Trusted = d.Domain
			break
		}
	}
	return c
}

// maxForeign bounds the fields of others that are read.
const maxForeign = 32

// resultsOf returns what the topmost Authentication-Results field of a host
// says, with those of the same host right below it: a host may write one for
// each method. Fields farther down could be anybody's.
func resultsOf(h header.Header, authservID string) []authres.Method {
	var out []authres.Method
	looked, inside := 0, false
	for _, f := range h {
		if f.Name != "authentication-results" {
			if inside {
				break
			}
			continue
		}
		if looked++; looked > maxForeign {
			break
		}
		id, ok := authres.ServID(f.Value())
		if !ok || !strings.EqualFold(id, authservID) {
			if inside {
				break
			}
			continue
		}
		inside = true
		if _, methods, err := authres.Parse(f.Value()); err == nil {
			out = append(out, methods...)
		}
	}
	return out
}

// sends judges SMTP mail by what the domains that it claims have announced: one
// that sends over XMPP only is not sent from by SMTP, unless it has signed the
// mail and somebody has passed it on (design: downgrade in the other
// direction).
func (e *Evaluator) sends(ctx context.Context, sender mail.Address, ev *Evidence) Sends {
	out := Sends{Result: authres.None}
	if e.conf.Peers == nil {
		return out
	}
	claimed := ev.From.Domains()
	if len(claimed) > maxAuthorDomains {
		claimed = claimed[:maxAuthorDomains]
	}
	if d := sender.Domain; d != "" && !slices.Contains(claimed, d) {
		claimed = append(claimed, d)
	}
	for _, d := range claimed {
		only, err := e.conf.Peers.SendsOnlyXMPP(ctx, d)
		if err != nil {
			e.conf.Log.Warn("announcement of a peer not read", "peer", d, "err", err)
			out = Sends{authres.TempError, "it cannot be told now how " + d + " sends", d}
			continue
		}
		if !only {
			continue
		}
		switch e.signed(d, ev) {
		case authres.Pass:
			if out.Result == authres.None {
				out = Sends{authres.Pass, d + " sends over XMPP only, and has signed this", d}
			}
		case authres.TempError:
			out = Sends{authres.TempError, d + " sends over XMPP only, and its signature cannot be checked now", d}
		default:
			return Sends{authres.Fail, d + " sends over XMPP only; this came by SMTP without its signature", d}
		}
	}
	return out
}

// signed tells whether a domain has signed the message.
func (e *Evaluator) signed(domain string, ev *Evidence) authres.Result {
	for _, d := range ev.DMARC {
		if d.Domain == domain && slices.Contains(d.Aligned, "dkim") {
			return authres.Pass
		}
	}
	out := authres.Fail
	for _, s := range ev.DKIM {
		switch {
		case s.Domain != domain || s.Testing:
		case s.Result == authres.Pass:
			return authres.Pass
		case s.Result == authres.TempError:
			out = authres.TempError
		}
	}
	return out
}

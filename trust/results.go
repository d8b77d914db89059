package trust

import (
	"errors"
	"fmt"
	"time"

	"mailxmppd/trust/authres"
	"mailxmppd/trust/header"
)

// AuthenticationResults writes the evidence as a whole field in our name (RFC
// 8601), to be prepended to the message.
func (e *Evaluator) AuthenticationResults(ev Evidence) string {
	return authres.Format(e.conf.Hostname, ev.Methods())
}

// Methods lists the evidence in the words of RFC 8601. The methods that it does
// not know have the prefix "x-".
func (ev Evidence) Methods() []authres.Method {
	var out []authres.Method
	add := func(m authres.Method) {
		if m.Result != "" {
			out = append(out, m)
		}
	}
	if !ev.Judged {
		return nil
	}
	prop := func(kind, name, value string) authres.Prop { return authres.Prop{Type: kind, Name: name, Value: value} }
	add(authres.Method{Name: "x-xmpp", Result: ev.Binding.Result, Comment: ev.Binding.Proof,
		Props: []authres.Prop{prop("policy", "domain", ev.Binding.Domain)}})
	add(authres.Method{Name: "auth", Result: ev.Auth.Result, Props: []authres.Prop{prop("smtp", "auth", ev.Auth.User)}})
	add(authres.Method{Name: "iprev", Result: ev.IPRev.Result, Reason: ev.IPRev.Reason, Comment: ev.IPRev.Name,
		Props: []authres.Prop{prop("policy", "iprev", ev.IPRev.Client)}})
	add(authres.Method{Name: "spf", Result: ev.MailFrom.Result, Reason: ev.MailFrom.Reason,
		Props: []authres.Prop{prop("smtp", "mailfrom", ev.MailFrom.Domain)}})
	add(authres.Method{Name: "spf", Result: ev.Helo.Result, Reason: ev.Helo.Reason,
		Props: []authres.Prop{prop("smtp", "helo", ev.Helo.Domain)}})
	for _, s := range ev.DKIM {
		m := authres.Method{Name: "dkim", Result: s.Result, Reason: s.Reason, Props: []authres.Prop{
			prop("header", "d", s.Domain), prop("header", "i", s.Agent), prop("header", "s", s.Selector), prop("header", "a", s.Algorithm)}}
		if s.KeyBits > 0 {
			m.Comment = fmt.Sprintf("%d-bit key", s.KeyBits)
			if !s.Expires.IsZero() {
				m.Comment += ", expires " + s.Expires.UTC().Format(time.DateOnly)
			}
		}
		add(m)
	}
	switch {
	case ev.Omitted > 0:
		add(authres.Method{Name: "dkim", Result: authres.Policy, Reason: fmt.Sprintf("%d more signatures not looked at", ev.Omitted)})
	case errors.Is(ev.Header, header.ErrTooLarge):
		add(authres.Method{Name: "dkim", Result: authres.PermError, Reason: ev.Header.Error()})
	case ev.Header != nil:
		// Ours to see to, not the sender's.
		add(authres.Method{Name: "dkim", Result: authres.TempError, Reason: "the content could not be read"})
	case len(ev.DKIM) == 0:
		add(authres.Method{Name: "dkim", Result: authres.None})
	}
	for _, d := range ev.DMARC {
		m := authres.Method{Name: "dmarc", Result: d.Result, Reason: d.Reason, Props: []authres.Prop{prop("header", "from", d.Domain)}}
		if d.Policy != "" {
			m.Comment = "p=" + string(d.Policy) + " of " + d.Record
		}
		add(m)
	}
	add(authres.Method{Name: "arc", Result: ev.ARC.Result, Reason: ev.ARC.Reason, Comment: ev.ARC.Summary()})
	if ev.Sends.Result != authres.None {
		add(authres.Method{Name: "x-sends", Result: ev.Sends.Result, Reason: ev.Sends.Reason,
			Props: []authres.Prop{prop("policy", "domain", ev.Sends.Domain)}})
	}
	add(ev.Relation.method())
	if len(ev.From.Problems) > 0 {
		m := authres.Method{Name: "x-from", Result: authres.Policy}
		for i, p := range ev.From.Problems {
			if i > 0 {
				m.Reason += "; "
			}
			m.Reason += string(p)
		}
		add(m)
	}
	return out
}

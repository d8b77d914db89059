package trust

import (
	"errors"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/trust/arc"
	"mailxmppd/trust/author"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/dmarc"
	"mailxmppd/trust/spf"
)

// evidence builds what an evaluation of mail from romeo@montague.example found.
func evidence(change ...func(*Evidence)) *Evidence {
	ev := &Evidence{
		Judged: true,
		From:   author.From{Authors: []author.Author{{Address: mail.Address{Local: "romeo", Domain: "montague.example"}}}},
		DMARC:  []dmarc.Evaluation{{Result: authres.None, Domain: "montague.example"}},
	}
	for _, f := range change {
		f(ev)
	}
	return ev
}

func dmarcIs(r authres.Result, p dmarc.Policy, aligned ...string) func(*Evidence) {
	return func(ev *Evidence) {
		ev.DMARC[0].Result, ev.DMARC[0].Policy, ev.DMARC[0].Aligned = r, p, aligned
	}
}

func problem(p author.Problem) func(*Evidence) {
	return func(ev *Evidence) { ev.From.Problems = append(ev.From.Problems, p) }
}

func found(r authres.Result, domain string) []authres.Method {
	return []authres.Method{{Name: "dmarc", Result: r, Props: []authres.Prop{{Type: "header", Name: "from", Value: domain}}}}
}

func TestRule(t *testing.T) {
	proven := dmarcIs(authres.Pass, dmarc.PolicyReject, "dkim")
	disproven := dmarcIs(authres.Fail, dmarc.PolicyReject)
	granted := Terms{Granted: Permit{Reason: "granted", OK: true}}
	keyed := Terms{Keyed: Permit{Reason: "signed with the key of Romeo", OK: true}}
	ours := Terms{Ours: "a report"}
	sealed := func(r authres.Result, domain string) func(*Evidence) {
		return func(ev *Evidence) {
			ev.ARC = arc.Chain{Result: authres.Pass, Sealer: "list.example", Trusted: true, From: 1, Results: found(r, domain)}
		}
	}
	secondary := func(r authres.Result, domain string) func(*Evidence) {
		return func(ev *Evidence) { ev.Carrier = Carrier{Secondary: true, Results: found(r, domain)} }
	}
	limited := func(ev *Evidence) {
		ev.Carrier.SecondaryFor = []string{"capulet.example", "juliet@second.example"}
	}
	forwarded := func(ev *Evidence) { ev.Carrier.Domains = []Carried{{"alumni.example", "spf"}} }
	trusted := func(ev *Evidence) { forwarded(ev); ev.Carrier.Trusted = "alumni.example" }
	temp := dmarcIs(authres.TempError, "")
	sends := func(ev *Evidence) {
		ev.Sends = Sends{authres.Fail, "montague.example sends over XMPP only", "montague.example"}
	}
	two := func(aligned ...string) func(*Evidence) {
		return func(ev *Evidence) {
			ev.From.Authors = append(ev.From.Authors, author.Author{Address: mail.Address{Local: "x", Domain: "other.example"}})
			ev.DMARC = append(ev.DMARC, dmarc.Evaluation{Result: authres.None, Domain: "other.example", Aligned: aligned})
		}
	}
	for _, c := range []struct {
		name  string
		ev    *Evidence
		terms Terms
		want  string
		open  bool
	}{
		{"nobody has looked", &Evidence{}, Terms{}, "unproven; not judged", false},
		{"nobody has looked, whatever is granted", &Evidence{}, granted, "unproven; not judged", false},
		{"nothing", evidence(), Terms{}, "unproven; nothing proves that this is from montague.example", false},
		{"a grant proves nobody", evidence(), granted, "unproven; nothing proves that this is from montague.example", false},
		{"proven", evidence(proven), Terms{}, "authenticated; proven by dkim", false},
		{"proven without a policy", evidence(dmarcIs(authres.None, "", "spf")), Terms{}, "authenticated; proven by spf", false},
		{"proven by the stream", evidence(dmarcIs(authres.None, "", "xmpp")), Terms{}, "authenticated; proven by xmpp", false},
		{"proven and granted", evidence(proven), granted, "permitted; granted, proven by dkim", false},
		{"the grant cannot be read", evidence(proven), Terms{Granted: Permit{Open: true}}, "authenticated; proven by dkim", true},
		{"the grant has run out", evidence(proven), Terms{Granted: Permit{Reason: "the grant has run out"}}, "authenticated; proven by dkim, the grant has run out", false},
		{"signed with a known key", evidence(), keyed, "permitted; signed with the key of Romeo", false},
		{"a known key is more than a policy", evidence(disproven), keyed, "permitted; signed with the key of Romeo", false},
		{"the usual signature is missing", evidence(proven), Terms{Keyed: Permit{Reason: "the usual signature is missing"}},
			"authenticated; proven by dkim, the usual signature is missing", false},
		{"keys cannot be read", evidence(), Terms{Keyed: Permit{Open: true}}, "unproven; nothing proves that this is from montague.example", true},
		{"a report about our mail", evidence(), ours, "permitted; a report", false},
		{"a report from a domain with a policy", evidence(disproven), ours, "permitted; a report", false},
		{"disproven", evidence(disproven), Terms{}, "forged; montague.example asks to reject mail that it has not signed", false},
		{"quarantine", evidence(dmarcIs(authres.Fail, dmarc.PolicyQuarantine)), Terms{}, "forged; montague.example asks to quarantine mail that it has not signed", false},
		{"p=none is no policy", evidence(dmarcIs(authres.Fail, dmarc.PolicyNone)), Terms{}, "unproven; nothing proves that this is from montague.example", false},
		{"a grant does not help a forger", evidence(disproven), granted, "forged; montague.example asks to reject mail that it has not signed", false},
		{"sends over XMPP only", evidence(sends), granted, "forged; montague.example sends over XMPP only", false},
		{"trusted seal", evidence(disproven, sealed(authres.Pass, "montague.example")), Terms{}, "authenticated; as list.example, which is trusted, has found", false},
		{"trusted seal and a grant", evidence(disproven, sealed(authres.Pass, "montague.example")), granted,
			"permitted; granted, as list.example, which is trusted, has found", false},
		{"trusted seal of somebody else's mail", evidence(disproven, sealed(authres.Pass, "other.example")), granted,
			"forged; montague.example asks to reject mail that it has not signed", false},
		{"trusted seal of a failure", evidence(disproven, sealed(authres.Fail, "montague.example")), Terms{},
			"forged; montague.example asks to reject mail that it has not signed", false},
		{"DNS does not tell whether a trusted sealer has sealed", evidence(disproven, func(ev *Evidence) { ev.ARC.Result, ev.ARC.Unsure = authres.TempError, true }), granted,
			"unproven; it cannot be told now who sent this", true},
		{"a chain that DNS does not tell of", evidence(disproven, func(ev *Evidence) { ev.ARC.Result = authres.TempError }), Terms{},
			"forged; montague.example asks to reject mail that it has not signed", false},
		{"DNS does not tell whether a trusted forwarder has sent", evidence(disproven, func(ev *Evidence) { ev.MailFrom.Result, ev.Carrier.UnsureTrusted = authres.TempError, true }), Terms{},
			"unproven; it cannot be told now who sent this", false},
		{"the recipient's forwarder", evidence(disproven, func(ev *Evidence) {
			ev.MailFrom.Result, ev.Carrier.Unsure = authres.TempError, []string{"alumni.example"}
		}),
			Terms{Forwarders: []string{"alumni.example"}}, "unproven; it cannot be told now who sent this", false},
		{"nobody's forwarder", evidence(disproven, func(ev *Evidence) {
			ev.MailFrom.Result, ev.Carrier.Unsure = authres.TempError, []string{"alumni.example"}
		}),
			Terms{}, "forged; montague.example asks to reject mail that it has not signed", false},
		{"secondary's word", evidence(secondary(authres.Pass, "montague.example")), Terms{}, "authenticated; as our own host before us has found", false},
		{"secondary's word and a grant", evidence(secondary(authres.Pass, "montague.example")), granted, "permitted; granted, as our own host before us has found", false},
		{"secondary's word above another in its name", evidence(disproven, secondary(authres.Fail, "montague.example"), func(ev *Evidence) {
			ev.Carrier.Results = append(ev.Carrier.Results, found(authres.Pass, "montague.example")...)
		}), granted, "forged; our own host before us has found it forged", false},
		{"secondary of the recipient's domain", evidence(disproven, secondary(authres.Pass, "montague.example"), limited), Terms{Recipient: mail.Address{Local: "anybody", Domain: "capulet.example"}},
			"authenticated; as our own host before us has found", false},
		{"secondary of the recipient", evidence(disproven, secondary(authres.Pass, "montague.example"), limited), Terms{Recipient: mail.Address{Local: "Juliet", Domain: "second.example"}},
			"authenticated; as our own host before us has found", false},
		{"secondary of others", evidence(disproven, secondary(authres.Pass, "montague.example"), limited), Terms{Recipient: mail.Address{Local: "nurse", Domain: "second.example"}},
			"forged; montague.example asks to reject mail that it has not signed", false},
		{"secondary found it forged", evidence(disproven, secondary(authres.Fail, "montague.example")), Terms{}, "forged; our own host before us has found it forged", false},
		{"secondary brings what is sent over XMPP only", evidence(sends, secondary(authres.None, "montague.example")), granted,
			"forged; montague.example sends over XMPP only", false},
		{"secondary says nothing", evidence(disproven, secondary(authres.None, "montague.example")), Terms{},
			"unproven; nothing proves that this is from montague.example", false},
		{"trusted forwarder", evidence(disproven, trusted), Terms{}, "unproven; handed on by alumni.example, which is trusted for that", false},
		{"a recipient's own forwarder", evidence(disproven, forwarded), Terms{Forwarders: []string{"alumni.example"}},
			"unproven; handed on by alumni.example, which is trusted for that", false},
		{"somebody's forwarder", evidence(disproven, forwarded), Terms{Forwarders: []string{"other.example"}},
			"forged; montague.example asks to reject mail that it has not signed", false},
		{"a trusted forwarder proves nobody", evidence(disproven, trusted), granted, "unproven; handed on by alumni.example, which is trusted for that", false},
		{"submitted", evidence(func(ev *Evidence) { ev.Auth = Auth{authres.Pass, "romeo"} }), Terms{}, "authenticated; submitted by our user romeo", false},
		{"DNS is down", evidence(temp), Terms{}, "unproven; it cannot be told now who sent this", false},
		{"DNS is down for somebody with a grant", evidence(temp), granted, "unproven; it cannot be told now who sent this", true},
		{"a key of DKIM is not there now", evidence(func(ev *Evidence) { ev.DKIM = []*dkim.Signature{{Result: authres.TempError}} }), granted,
			"unproven; it cannot be told now who sent this", true},
		{"SPF cannot be told now", evidence(func(ev *Evidence) { ev.MailFrom = spf.Check{Result: authres.TempError} }), granted,
			"unproven; it cannot be told now who sent this", true},
		{"two authors, one proven", evidence(proven, two()), granted, "unproven; nothing proves that this is from montague.example", false},
		{"two authors, both proven", evidence(proven, two("spf"), problem(author.SeveralAuthors)), Terms{}, "authenticated; proven by dkim, spf, several authors", false},
		{"two From fields", evidence(proven, problem(author.SeveralFields)), granted, "unproven; it cannot be told who the author is, several From fields", false},
		{"an address that is encoded", evidence(proven, problem(author.EncodedAddress)), granted,
			"unproven; it cannot be told who the author is, an encoded word where the address is", false},
		{"another address is shown", evidence(proven, problem(author.ShownAddress)), granted,
			"permitted; granted, proven by dkim, the display name shows another address", false},
		{"no From", &Evidence{Judged: true, From: author.From{Problems: []author.Problem{author.NoFrom}}}, granted,
			"unproven; it cannot be told who the author is, no From field", false},
		{"a header without an end", &Evidence{Judged: true, Header: errors.New("too large")}, granted, "unproven; the header cannot be checked", false},
		{"submitted, but unreadable", evidence(problem(author.SeveralFields), func(ev *Evidence) { ev.Auth = Auth{authres.Pass, "romeo"} }), Terms{},
			"unproven; it cannot be told who the author is, several From fields", false},
	} {
		if got := Rule(c.ev, c.terms); got.String() != c.want || got.Open != c.open {
			t.Errorf("%s:\n%q %v, want\n%q %v", c.name, got, got.Open, c.want, c.open)
		}
	}
}

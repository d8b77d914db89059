package dmarc

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/trust/authres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone answers from a table of records by domain, without "_dmarc."; "down"
// fails. Names are there if they, or one below them, are in the table.
type zone struct {
	texts map[string]string
	asked *[]string
}

func (z zone) TXT(_ context.Context, name string) dns.Answer[string] {
	domain := strings.TrimPrefix(name, "_dmarc.")
	*z.asked = append(*z.asked, domain)
	switch text, ok := z.texts[domain]; {
	case !ok || text == "":
		return dns.Answer[string]{Status: dns.NoDomain}
	case text == "down":
		return dns.Answer[string]{Status: dns.Failed}
	default:
		return dns.Answer[string]{Status: dns.Found, Records: strings.Split(text, "\n")}
	}
}

func (z zone) MX(_ context.Context, domain string) dns.Answer[dns.MX] {
	for name := range z.texts {
		if name == domain || strings.HasSuffix(name, "."+domain) {
			return dns.Answer[dns.MX]{Status: dns.NoData}
		}
	}
	if strings.HasPrefix(domain, "unknown.") {
		return dns.Answer[dns.MX]{Status: dns.Failed}
	}
	return dns.Answer[dns.MX]{Status: dns.NoDomain}
}

func newZone(texts map[string]string) zone { return zone{texts, new([]string)} }

func TestDiscover(t *testing.T) {
	records := map[string]string{
		"own.example":           "v=DMARC1; p=reject; sp=quarantine; np=none",
		"child.own.example":     "", // there, without a record
		"only.example":          "v=DMARC1; p=quarantine",
		"none.only.example":     "",
		"both.own.example":      "v=DMARC1; p=none",
		"deep.both.own.example": "",
		"example":               "",
		"psd.test":              "v=DMARC1; p=none; sp=reject; np=quarantine; psd=y",
		"org.psd.test":          "",
		"rec.psd.test":          "v=DMARC1; p=quarantine",
		"a.rec.psd.test":        "",
		"cut.example":           "v=DMARC1; p=reject",
		"n.cut.example":         "v=DMARC1; p=none; psd=n",
		"x.n.cut.example":       "",
		"testing.example":       "v=DMARC1; p=reject; t=y",
		"testing2.example":      "v=DMARC1; p=quarantine; t=y",
		"two.example":           "v=DMARC1; p=reject\nv=DMARC1; p=none",
		"beside.example":        "v=spf1 -all\nv=DMARC1; p=reject\ndmarc",
		"bad.example":           "v=DMARC1; p=refuse",
		"badrua.example":        "v=DMARC1; p=refuse; rua=mailto:x@bad.example",
		"nop.example":           "v=DMARC1; rua=mailto:x@bad.example",
		"late.example":          "p=reject; v=DMARC1",
		"lower.example":         "v=dmarc1; p=reject",
		"twice.example":         "v=DMARC1; p=reject; p=none",
		"down.example":          "down",
		"x.down.example":        "v=DMARC1; p=reject",
		"2.3.4.5.6.7.8.example": "",
		"np.example":            "v=DMARC1; p=reject; np=none",
	}
	for _, c := range []struct {
		domain string
		result authres.Result
		policy Policy
		record string
		org    string
	}{
		{"own.example", "", PolicyReject, "own.example", "own.example"},
		{"child.own.example", "", PolicyQuarantine, "own.example", "own.example"},
		{"nowhere.own.example", "", PolicyNone, "own.example", "own.example"},
		{"unknown.own.example", authres.TempError, "", "own.example", "own.example"},
		{"none.only.example", "", PolicyQuarantine, "only.example", "only.example"},
		{"both.own.example", "", PolicyNone, "both.own.example", "own.example"},
		{"deep.both.own.example", "", PolicyQuarantine, "own.example", "own.example"},
		{"org.psd.test", "", PolicyReject, "psd.test", "org.psd.test"},
		{"nowhere.psd.test", "", PolicyQuarantine, "psd.test", "nowhere.psd.test"},
		{"rec.psd.test", "", PolicyQuarantine, "rec.psd.test", "rec.psd.test"},
		{"a.rec.psd.test", "", PolicyQuarantine, "rec.psd.test", "rec.psd.test"},
		{"psd.test", "", PolicyNone, "psd.test", "psd.test"},
		{"x.n.cut.example", "", PolicyNone, "n.cut.example", "n.cut.example"},
		{"testing.example", "", PolicyQuarantine, "testing.example", "testing.example"},
		{"testing2.example", "", PolicyNone, "testing2.example", "testing2.example"},
		{"two.example", authres.PermError, "", "", "two.example"},
		{"beside.example", "", PolicyReject, "beside.example", "beside.example"},
		{"bad.example", authres.PermError, "", "", "bad.example"},
		{"badrua.example", "", PolicyNone, "badrua.example", "badrua.example"},
		{"nop.example", "", PolicyNone, "nop.example", "nop.example"},
		{"late.example", authres.None, "", "", "late.example"},
		{"lower.example", authres.None, "", "", "lower.example"},
		{"twice.example", authres.PermError, "", "", "twice.example"},
		{"down.example", authres.TempError, "", "", "down.example"},
		{"x.down.example", authres.TempError, "", "", "x.down.example"},
		{"nothing.test", authres.None, "", "", "nothing.test"},
		{"[192.0.2.1]", authres.None, "", "", "[192.0.2.1]"},
		{"", authres.None, "", "", ""},
	} {
		ev := New(newZone(records)).Discover(t.Context(), c.domain)
		if ev.Result != c.result || ev.Policy != c.policy || ev.Record != c.record || ev.Org != c.org {
			t.Errorf("%s: %q %s, policy %q of %q, organization %q", c.domain, ev.Result, ev.Reason, ev.Policy, ev.Record, ev.Org)
		}
	}
}

// TestWalk: the names of RFC 9989 section 4.10, and no more than eight of them.
func TestWalk(t *testing.T) {
	for domain, want := range map[string]string{
		"a.b.c":                   "a.b.c b.c c",
		"a.b.c.d.e.f.g.h":         "a.b.c.d.e.f.g.h b.c.d.e.f.g.h c.d.e.f.g.h d.e.f.g.h e.f.g.h f.g.h g.h h",
		"a.b.c.d.e.f.g.h.i.j.k.l": "a.b.c.d.e.f.g.h.i.j.k.l f.g.h.i.j.k.l g.h.i.j.k.l h.i.j.k.l i.j.k.l j.k.l k.l l",
		"stop.at.this.one":        "stop.at.this.one at.this.one",
	} {
		z := newZone(map[string]string{"at.this.one": "v=DMARC1; p=none; psd=n"})
		New(z).Discover(t.Context(), domain)
		if got := strings.Join(*z.asked, " "); got != want {
			t.Errorf("%s: asked %s", domain, got)
		}
	}
}

func TestConclude(t *testing.T) {
	records := map[string]string{
		"org.example":     "v=DMARC1; p=reject",
		"strict.example":  "v=DMARC1; p=reject; adkim=s; aspf=s",
		"psd.test":        "v=DMARC1; p=reject; psd=y",
		"org.psd.test":    "v=DMARC1; p=reject",
		"cut.org.example": "v=DMARC1; p=reject; psd=n",
		"x.dead.example":  "down",
		"dead.example":    "v=DMARC1; p=reject",
	}
	pass := func(by, domain string) Identifier { return Identifier{by, domain, authres.Pass} }
	for _, c := range []struct {
		name    string
		author  string
		ids     []Identifier
		result  authres.Result
		aligned string
	}{
		{"nothing", "org.example", nil, authres.Fail, ""},
		{"the same by DKIM", "org.example", []Identifier{pass("dkim", "org.example")}, authres.Pass, "dkim"},
		{"the same by both", "org.example", []Identifier{pass("dkim", "org.example"), pass("dkim", "org.example"), pass("spf", "org.example")}, authres.Pass, "dkim spf"},
		{"a child signs for its parent", "org.example", []Identifier{pass("dkim", "mail.org.example")}, authres.Pass, "dkim"},
		{"a parent signs for its child", "news.org.example", []Identifier{pass("dkim", "org.example")}, authres.Pass, "dkim"},
		{"a sibling", "news.org.example", []Identifier{pass("spf", "mail.org.example")}, authres.Pass, "spf"},
		{"a stranger", "org.example", []Identifier{pass("dkim", "evil.example"), pass("spf", "notorg.example")}, authres.Fail, ""},
		{"the domain above", "org.example", []Identifier{pass("dkim", "example")}, authres.Fail, ""},
		{"a failed signature", "org.example", []Identifier{{"dkim", "org.example", authres.Fail}}, authres.Fail, ""},
		{"a policy result", "org.example", []Identifier{{"dkim", "org.example", authres.Policy}}, authres.Fail, ""},
		{"a signature that cannot be told", "org.example", []Identifier{{"dkim", "org.example", authres.TempError}}, authres.TempError, ""},
		{"a stranger's that cannot be told", "org.example", []Identifier{{"dkim", "evil.example", authres.TempError}}, authres.Fail, ""},
		{"one of two is enough", "org.example", []Identifier{{"dkim", "org.example", authres.TempError}, pass("spf", "org.example")}, authres.Pass, "spf"},
		{"strict, the same", "strict.example", []Identifier{pass("dkim", "strict.example")}, authres.Pass, "dkim"},
		{"strict, a child", "strict.example", []Identifier{pass("dkim", "a.strict.example"), pass("spf", "a.strict.example")}, authres.Fail, ""},
		{"two below a public suffix", "a.psd.test", []Identifier{pass("dkim", "b.psd.test")}, authres.Fail, ""},
		{"a public suffix for one below it", "a.psd.test", []Identifier{pass("dkim", "psd.test")}, authres.Fail, ""},
		{"an organization below it", "a.org.psd.test", []Identifier{pass("dkim", "b.org.psd.test")}, authres.Pass, "dkim"},
		{"a part cut off", "org.example", []Identifier{pass("dkim", "cut.org.example")}, authres.Fail, ""},
		{"a part cut off, from within", "x.cut.org.example", []Identifier{pass("dkim", "cut.org.example")}, authres.Pass, "dkim"},
		{"the stream", "org.example", []Identifier{pass("xmpp", "org.example")}, authres.Pass, "xmpp"},
		{"the stream of a child", "org.example", []Identifier{pass("xmpp", "a.org.example")}, authres.Fail, ""},
		{"no policy, the same", "nothing.test", []Identifier{pass("dkim", "nothing.test")}, authres.None, "dkim"},
		{"no policy, a stranger", "nothing.test", []Identifier{pass("dkim", "evil.test")}, authres.None, ""},
		{"a walk that cannot be told", "dead.example", []Identifier{pass("dkim", "x.dead.example")}, authres.TempError, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := New(newZone(records))
			ev := e.Conclude(t.Context(), e.Discover(t.Context(), c.author), c.ids)
			if ev.Result != c.result || strings.Join(ev.Aligned, " ") != c.aligned {
				t.Errorf("%s (%s), aligned %v", ev.Result, ev.Reason, ev.Aligned)
			}
		})
	}
}

// TestManyIdentifiers: signatures cost a bounded number of lookups, and those
// of strangers none.
func TestManyIdentifiers(t *testing.T) {
	z := newZone(map[string]string{"org.example": "v=DMARC1; p=reject"})
	e := New(z)
	ev := e.Discover(t.Context(), "org.example")
	*z.asked = nil
	var ids []Identifier
	for i := range 100 {
		ids = append(ids, Identifier{"dkim", fmt.Sprintf("a.b.c%d.evil.example", i), authres.Pass})
	}
	e.Conclude(t.Context(), ev, ids)
	if len(*z.asked) != 0 {
		t.Errorf("%d lookups for strangers", len(*z.asked))
	}
	ids = nil
	for i := range 100 {
		d := fmt.Sprintf("n%d.org.example", i)
		z.texts[d] = "v=DMARC1; p=reject; psd=n"
		ids = append(ids, Identifier{"dkim", "a.b.c.d." + d, authres.Pass})
	}
	e.Conclude(t.Context(), ev, ids)
	if len(*z.asked) > maxWalks*maxSteps {
		t.Errorf("%d lookups", len(*z.asked))
	}
	if again := slices.Compact(slices.Sorted(slices.Values(*z.asked))); len(again) != len(*z.asked) {
		t.Error("a name was asked for twice")
	}
}

func TestParseRecord(t *testing.T) {
	for text, want := range map[string]string{
		"v=DMARC1; p=none": "{none   false false u false}",
		"v=DMARC1;p=REJECT;SP=none; adkim=S; aspf=s;psd=Y;t=y;": "{reject none  true true y true}",
		"v = DMARC1 ; p = reject; pct=0; rf=afrf; ri=x; fo=9":   "{reject   false false u false}",
		"v=DMARC1; p=reject; adkim=x; psd=maybe; t=perhaps":     "{reject   false false u false}",
		"v=DMARC1":                                         "no valid policy",
		"v=DMARC1; p=reject; sp=refuse":                    "no valid policy",
		"v=DMARC1; p=reject; nonsense":                     "is not a tag",
		"v=DMARC1; p=reject; =x":                           "is not a tag",
		"v=DMARC1; p=none; x=" + strings.Repeat("y", 9000): "too long",
		"":           "not a DMARC",
		"v=DMARC10":  "not a DMARC",
		"v=DMARC1 p": "not a DMARC",
	} {
		r, err := ParseRecord(text)
		if err != nil {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%.60q: %v", text, err)
			}
			continue
		}
		if got := fmt.Sprintf("{%s %s %s %v %v %c %v}", r.Policy, r.Subdomains, r.NonExistent, r.StrictDKIM, r.StrictSPF, r.PSD, r.Testing); got != want {
			t.Errorf("%.60q: %s", text, got)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("v=DMARC1; p=reject; sp=none; np=quarantine; adkim=s; psd=y; t=y; rua=mailto:a@b")
	f.Add("v=DMARC1;;=;p")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRecord(text)
		if err == nil && r.Policy != PolicyNone && r.Policy != PolicyQuarantine && r.Policy != PolicyReject {
			t.Fatalf("%q: %+v", text, r)
		}
	})
}

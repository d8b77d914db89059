package spf

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/trust/authres"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone answers from tables; a value "down" fails.
type zone struct {
	txt, a, aaaa, mx, ptr map[string]string // several values are separated by a line end
	asked                 int
}

func find[T any](z *zone, table map[string]string, name string, read func(string) T) dns.Answer[T] {
	z.asked++
	text, ok := table[strings.ToLower(strings.TrimSuffix(name, "."))]
	switch {
	case text == "down":
		return dns.Answer[T]{Status: dns.Failed}
	case !ok:
		for _, other := range []map[string]string{z.txt, z.a, z.aaaa, z.mx} {
			if _, there := other[name]; there {
				return dns.Answer[T]{Status: dns.NoData}
			}
		}
		return dns.Answer[T]{Status: dns.NoDomain}
	}
	out := dns.Answer[T]{Status: dns.Found}
	for _, v := range strings.Split(text, "\n") {
		out.Records = append(out.Records, read(v))
	}
	return out
}

func (z *zone) TXT(ctx context.Context, name string) dns.Answer[string] {
	if name == "slow.example" {
		<-ctx.Done()
		return dns.Answer[string]{Status: dns.Failed}
	}
	return find(z, z.txt, name, func(s string) string { return s })
}

func (z *zone) MX(_ context.Context, name string) dns.Answer[dns.MX] {
	return find(z, z.mx, name, func(s string) dns.MX { return dns.MX{Host: s} })
}

func (z *zone) Family(_ context.Context, name string, v6 bool) dns.Answer[netip.Addr] {
	if v6 {
		return find(z, z.aaaa, name, netip.MustParseAddr)
	}
	return find(z, z.a, name, netip.MustParseAddr)
}

func (z *zone) PTR(_ context.Context, addr netip.Addr) dns.Answer[string] {
	return find(z, z.ptr, addr.String(), func(s string) string { return s })
}

func includes(n int) (records map[string]string) {
	records = map[string]string{}
	for i := range n {
		records[fmt.Sprintf("n%d.example", i)] = fmt.Sprintf("v=spf1 include:n%d.example ?all", i+1)
	}
	records[fmt.Sprintf("n%d.example", n)] = "v=spf1 ip4:192.0.2.1 -all"
	return records
}

func TestMailFrom(t *testing.T) {
	z := &zone{
		txt: map[string]string{
			"ip.example":       "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all",
			"soft.example":     "v=spf1 ~all",
			"neutral.example":  "v=spf1 ?all",
			"none.example":     "other text",
			"a.example":        "v=spf1 a -all",
			"mx.example":       "v=spf1 mx -all",
			"nullmx.example":   "v=spf1 mx -all",
			"ptr.example":      "v=spf1 ptr -all",
			"exists.example":   "v=spf1 exists:%{i}.%{l}.%{d} -all",
			"two.example":      "v=spf1 -all\nv=spf1 +all",
			"bad.example":      "v=spf1 nonsense -all",
			"long.example":     "v=spf1 " + strings.Repeat("ip4:198.51.100.1 ", 300) + "+all",
			"bomb.example":     "v=spf1 exists:" + strings.Repeat("%{s}", 900) + ".example -all",
			"bomb2.example":    "v=spf1 exists:%{" + strings.Repeat("s", 4000) + "}.example -all",
			"void.example":     "v=spf1 a:x1.example a:x2.example a:x3.example +all",
			"include.example":  "v=spf1 include:nowhere.example -all",
			"down.example":     "down",
			"adown.example":    "v=spf1 a -all",
			"self.example":     "v=spf1 include:self.example -all",
			"redirect.example": "v=spf1 redirect=ip.example",
			"helo.ip.example":  "v=spf1 ip4:192.0.2.1 -all",
			"s6.example":       "v=spf1 exists:ip4only.example -all",
			"half.example":     "v=spf1 a -all",
		},
		a: map[string]string{
			"a.example": "192.0.2.1", "host.example": "192.0.2.1", "host.ptr.example": "192.0.2.1", "adown.example": "down",
			"192.0.2.1.user.exists.example": "127.0.0.2", "ip4only.example": "127.0.0.2", "half.example": "192.0.2.9",
		},
		aaaa: map[string]string{"a.example": "2001:db8::1", "half.example": "down"},
		mx:   map[string]string{"mx.example": "other.example\nhost.example", "nullmx.example": "."},
		ptr:  map[string]string{"192.0.2.1": "host.ptr.example"},
	}
	for k, v := range includes(9) {
		z.txt[k] = v
	}
	for k, v := range includes(12) {
		z.txt[strings.Replace(k, "n", "m", 1)] = strings.Replace(v, ":n", ":m", 1)
	}
	for _, c := range []struct {
		client, helo, sender string
		result               authres.Result
		domain, reason       string
	}{
		{"192.0.2.1", "x", "user@ip.example", authres.Pass, "ip.example", "lists the client"},
		{"::ffff:192.0.2.1", "x", "user@ip.example", authres.Pass, "ip.example", "lists the client"},
		{"2001:db8::7", "x", "user@ip.example", authres.Pass, "ip.example", "lists the client"},
		{"198.51.100.1", "x", "user@ip.example", authres.Fail, "ip.example", "not its"},
		{"192.0.2.1", "x", "user@soft.example", authres.SoftFail, "soft.example", "probably"},
		{"192.0.2.1", "x", "user@neutral.example", authres.Neutral, "neutral.example", "nothing"},
		{"192.0.2.1", "x", "user@none.example", authres.None, "none.example", "no record"},
		{"192.0.2.1", "x", "user@nowhere.example", authres.None, "nowhere.example", "no record"},
		{"192.0.2.1", "x", "user@a.example", authres.Pass, "a.example", "lists"},
		{"2001:db8::1", "x", "user@a.example", authres.Pass, "a.example", "lists"},
		{"2001:db8::2", "x", "user@a.example", authres.Fail, "a.example", "not its"},
		{"192.0.2.1", "x", "user@mx.example", authres.Pass, "mx.example", "lists"},
		{"192.0.2.1", "x", "user@nullmx.example", authres.Fail, "nullmx.example", "not its"},
		{"192.0.2.1", "x", "user@ptr.example", authres.Pass, "ptr.example", "lists"},
		{"192.0.2.1", "x", "user@exists.example", authres.Pass, "exists.example", "lists"},
		{"192.0.2.1", "x", "other@exists.example", authres.Fail, "exists.example", "not its"},
		{"2001:db8::1", "x", "user@s6.example", authres.Pass, "s6.example", "lists"},
		{"192.0.2.1", "x", "user@redirect.example", authres.Pass, "redirect.example", "lists"},
		{"192.0.2.1", "x", `"a@evil.example"@ip.example`, authres.Pass, "ip.example", "lists"},
		{"192.0.2.1", "x", "user@two.example", authres.PermError, "two.example", "multiple"},
		{"192.0.2.1", "x", "user@bad.example", authres.PermError, "bad.example", "malformed"},
		{"192.0.2.1", "x", "user@long.example", authres.PermError, "long.example", "too long"},
		{"192.0.2.1", "x", "user@bomb.example", authres.Fail, "bomb.example", "not its"},
		{"192.0.2.1", "x", "user@bomb2.example", authres.PermError, "bomb2.example", "malformed"},
		{"192.0.2.1", "x", "user@void.example", authres.PermError, "void.example", "void lookup limit"},
		{"192.0.2.1", "x", "user@include.example", authres.PermError, "include.example", "refers to"},
		{"192.0.2.1", "x", "user@n0.example", authres.Pass, "n0.example", "lists"},
		{"192.0.2.1", "x", "user@m0.example", authres.PermError, "m0.example", "lookup limit"},
		{"192.0.2.1", "x", "user@self.example", authres.PermError, "self.example", "lookup limit"},
		{"192.0.2.1", "x", "user@down.example", authres.TempError, "down.example", "does not answer"},
		{"192.0.2.1", "x", "user@adown.example", authres.TempError, "adown.example", "does not answer"},
		{"2001:db8::1", "x", "user@half.example", authres.TempError, "half.example", "does not answer"},
		{"192.0.2.1", "x", "user@slow.example", authres.TempError, "slow.example", "too long"},
		{"192.0.2.1", "helo.ip.example", "", authres.Pass, "helo.ip.example", "lists"},
		{"192.0.2.1", "[192.0.2.1]", "", authres.None, "", "no domain"},
		{"192.0.2.1", "not a name", "", authres.None, "", "no domain"},
		{"192.0.2.1", "localhost", "", authres.None, "", "no domain"},
		{"192.0.2.1", "x", "user@[192.0.2.1]", authres.None, "", "no domain"},
		{"", "x", "user@ip.example", authres.None, "ip.example", "not known"},
	} {
		sender := mail.Address{}
		if c.sender != "" {
			var err error
			if sender, err = mail.ParseAddress(c.sender); err != nil {
				t.Fatal(err)
			}
		}
		var client netip.Addr
		if c.client != "" {
			client = netip.MustParseAddr(c.client)
		}
		wait := 10 * time.Second
		if strings.Contains(c.sender, "slow") {
			wait = 20 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		z.asked = 0
		got := MailFrom(ctx, z, client, c.helo, sender)
		cancel()
		if got.Result != c.result || got.Domain != c.domain || !strings.Contains(got.Reason, c.reason) {
			t.Errorf("%s %s %s: %+v", c.client, c.helo, c.sender, got)
		}
		if z.asked > 30 {
			t.Errorf("%s: %d lookups", c.sender, z.asked)
		}
	}
}

func TestHelo(t *testing.T) {
	z := &zone{txt: map[string]string{"mx.example.org": "v=spf1 ip4:192.0.2.1 -all"}}
	for helo, want := range map[string]authres.Result{
		"MX.Example.ORG": authres.Pass, "mx.example.org.": authres.Pass, "other.example.org": authres.None, "[192.0.2.1]": authres.None, "": authres.None,
	} {
		if got := Helo(t.Context(), z, netip.MustParseAddr("192.0.2.1"), helo); got.Result != want {
			t.Errorf("%q: %+v", helo, got)
		}
	}
}

// TestCheckSyntax: an error counts wherever it is, also behind a term that
// matches.
func TestCheckSyntax(t *testing.T) {
	for record, ok := range map[string]bool{
		"v=spf1":        true,
		"v=spf1  -all ": true,
		"v=spf1 A/24//64 ?MX:b.example/0 ~ptr +PTR:x.example include:%{d} -exists:%{ir}.%{l1r-}.x.example":    true,
		"v=spf1 a:%{d1r/}/24 a:foo.example//128 a//0 ip4:192.0.2.0/24 ip6:2001:db8::/32 ip6:::ffff:192.0.2.1": true,
		"v=spf1 redirect=_spf.example. exp=x.%{d} moo.1-x=%{c}%%%_%-":                                         true,
		"v=spf1 ip4:192.0.2.1 all:":        false,
		"v=spf1 -all nonsense":             false,
		"v=spf1 -all =x":                   false,
		"v=spf1 1x=y":                      false,
		"v=spf1 -redirect=x.example":       false,
		"v=spf1 redirect=":                 false,
		"v=spf1 redirect=a.b redirect=a.b": false,
		"v=spf1 exp=%{r}.example":          false,
		"v=spf1 x=%{z}":                    false,
		"v=spf1 x=%":                       false,
		"v=spf1 x=%{d":                     false,
		"v=spf1 x=%x":                      false,
		"v=spf1 a:%{d0}":                   false,
		"v=spf1 a:%{dx}":                   false,
		"v=spf1 a:":                        false,
		"v=spf1 a/33":                      false,
		"v=spf1 a/024":                     false,
		"v=spf1 a//129":                    false,
		"v=spf1 a/":                        false,
		"v=spf1 a:1.2.3.4":                 false,
		"v=spf1 a:label":                   false,
		"v=spf1 a:x.-y":                    false,
		"v=spf1 a:x.y_z":                   false,
		"v=spf1 ip4:192.0.2.1/33":          false,
		"v=spf1 ip4:2001:db8::1":           false,
		"v=spf1 ip6:192.0.2.1":             false,
		"v=spf1 ip6:2001:db8::1%eth0":      false,
		"v=spf1 ip4":                       false,
		"v=spf1 include":                   false,
		"v=spf1 a\tmx":                     false,
		"v=spf1 moo=\x80":                  false,
		"v=spf1 -":                         false,
	} {
		if err := checkSyntax(record); (err == nil) != ok {
			t.Errorf("%q: %v", record, err)
		}
	}
}

func FuzzCheckSyntax(f *testing.F) {
	f.Add("v=spf1 a:%{d1r-}/24//64 ip6:::1/128 -all exp=x.y z=%%")
	f.Add("v=spf1 ? :/ = %{")
	f.Fuzz(func(t *testing.T, record string) {
		if checkSyntax(record) == nil && strings.ContainsAny(strings.TrimPrefix(record, strings.SplitN(record, " ", 2)[0]), "\t\r\n\x00") {
			t.Fatalf("%q is taken", record)
		}
	})
}

package trust

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/trust/spf"
)

// suite is the file of the openspf.org test suite within the module of the SPF
// library, which brings it for its own tests.
const suite = "testdata/rfc7208-tests.yml"

// scenario is one document of the suite.
type scenario struct {
	Description string                       `json:"description"`
	Tests       map[string]vector            `json:"tests"`
	Zonedata    map[string][]json.RawMessage `json:"zonedata"`
}

type vector struct {
	Helo     string  `json:"helo"`
	Host     string  `json:"host"`
	MailFrom string  `json:"mailfrom"`
	Result   anyText `json:"result"`
}

// anyText is one text or a list of them.
type anyText []string

func (a *anyText) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(a))
	}
	*a = make([]string, 1)
	return json.Unmarshal(b, &(*a)[0])
}

// suiteZone answers as the suite's documentation has it: TXT records stand for
// SPF records too unless there are TXT records, TIMEOUT for a time-out.
type suiteZone map[string][]record

type record struct {
	kind  string
	value any
}

func (s scenario) zone(t *testing.T) suiteZone {
	t.Helper()
	z := suiteZone{}
	for name, raw := range s.Zonedata {
		var records, fromSPF []record
		hasTXT := false
		for _, r := range raw {
			var word string
			if json.Unmarshal(r, &word) == nil {
				records = append(records, record{word, nil})
				continue
			}
			var m map[string]any
			if err := json.Unmarshal(r, &m); err != nil {
				t.Fatal(err)
			}
			for kind, value := range m {
				switch kind {
				case "SPF":
					fromSPF = append(fromSPF, record{"TXT", value})
					continue
				case "TXT":
					hasTXT = true
				}
				if value != "NONE" {
					records = append(records, record{kind, value})
				}
			}
		}
		if !hasTXT {
			records = append(records, fromSPF...)
		}
		z[strings.ToLower(name)] = records
	}
	return z
}

func ask[T any](z suiteZone, name, kind string, read func(any) (T, bool)) (a dns.Answer[T]) {
	for range 10 {
		name = strings.ToLower(strings.TrimSuffix(name, "."))
		for label := range strings.SplitSeq(name, ".") {
			if len(label) > 63 || label == "" {
				return dns.Answer[T]{Status: dns.NoDomain}
			}
		}
		records, known := z[name]
		if !known {
			return dns.Answer[T]{Status: dns.NoDomain}
		}
		a, next := dns.Answer[T]{Status: dns.NoData}, ""
		for _, r := range records {
			switch {
			case r.kind == "TIMEOUT" && len(a.Records) == 0, r.kind == kind && r.value == "TIMEOUT":
				return dns.Answer[T]{Status: dns.Failed}
			case r.kind == "CNAME":
				next, _ = r.value.(string)
			case r.kind == kind:
				if v, ok := read(r.value); ok {
					a.Status, a.Records = dns.Found, append(a.Records, v)
				}
			}
		}
		if next == "" {
			return a
		}
		name = next
	}
	return dns.Answer[T]{Status: dns.Failed}
}

func (z suiteZone) TXT(_ context.Context, name string) dns.Answer[string] {
	return ask(z, name, "TXT", func(v any) (string, bool) {
		if parts, ok := v.([]any); ok {
			var b strings.Builder
			for _, p := range parts {
				fmt.Fprint(&b, p)
			}
			return b.String(), true
		}
		s, ok := v.(string)
		return s, ok
	})
}

func (z suiteZone) MX(_ context.Context, name string) dns.Answer[dns.MX] {
	return ask(z, name, "MX", func(v any) (dns.MX, bool) {
		pair, ok := v.([]any)
		if !ok || len(pair) != 2 {
			return dns.MX{}, false
		}
		host, _ := pair[1].(string)
		return dns.MX{Host: strings.TrimSuffix(host, ".")}, true
	})
}

func (z suiteZone) Family(_ context.Context, name string, v6 bool) dns.Answer[netip.Addr] {
	return ask(z, name, map[bool]string{false: "A", true: "AAAA"}[v6], func(v any) (netip.Addr, bool) {
		s, _ := v.(string)
		ip, err := netip.ParseAddr(s)
		return ip, err == nil
	})
}

func (z suiteZone) PTR(_ context.Context, addr netip.Addr) dns.Answer[string] {
	name, _ := mdns.ReverseAddr(addr.String())
	return ask(z, name, "PTR", func(v any) (string, bool) {
		s, ok := v.(string)
		return strings.TrimSuffix(s, "."), ok
	})
}

// differs lists the vectors whose result is another with us, and why.
var differs = map[string]string{
	"nolocalpart":               "no mailbox: SMTP does not let it in",
	"dorky-sentinel":            "no mailbox: SMTP does not let it in",
	"a-colon-domain":            "the library takes no colon in a domain; permerror instead of pass",
	"a-colon-domain-ip4mapped":  "the library takes no colon in a domain; permerror instead of pass",
	"mx-colon-domain":           "the library takes no colon in a domain; permerror instead of pass",
	"mx-colon-domain-ip4mapped": "the library takes no colon in a domain; permerror instead of pass",
	"p-macro-multiple":          "the library expands %{p} to unknown, as RFC 7208 section 7.3 allows",
}

// TestSPFVectors runs the openspf.org test suite for RFC 7208.
func TestSPFVectors(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "blitiri.com.ar/go/spf").Output()
	if err != nil {
		t.Fatal(err)
	}
	var scenarios []scenario
	if err := vectors(within(t), filepath.Join(strings.TrimSpace(string(dir)), suite), &scenarios); err != nil {
		t.Fatal(err)
	}
	run := 0
	for _, s := range scenarios {
		z := s.zone(t)
		for name, v := range s.Tests {
			client, err := netip.ParseAddr(v.Host)
			if err != nil {
				t.Fatal(err)
			}
			run++
			sender, err := mail.ParseAddress(v.MailFrom)
			var got spf.Check
			switch {
			case v.MailFrom == "":
				got = spf.Helo(t.Context(), z, client, v.Helo)
			case err != nil:
				// Not a mailbox: SMTP does not let it in, and there is nothing to ask.
				got = spf.Check{Result: "none"}
			default:
				got = spf.MailFrom(t.Context(), z, client, v.Helo, sender)
			}
			if _, known := differs[name]; known == slices.Contains(v.Result, string(got.Result)) {
				t.Errorf("%s, %s: %s (%s), want %v; %+v", s.Description, name, got.Result, got.Reason, v.Result, v)
			}
		}
	}
	if run < 200 {
		t.Errorf("%d vectors", run)
	}
}

// TestSPF: pyspf says what we say, of records as people write them.
func TestSPF(t *testing.T) {
	zone := Zone{
		"ip.example":                     text("v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all"),
		"soft.example":                   text("v=spf1 a mx ~all"),
		"inc.example":                    text("v=spf1 include:ip.example ?all"),
		"redirect.example":               text("v=spf1 redirect=ip.example"),
		"macro.example":                  text("v=spf1 exists:%{ir}.%{l1r-}.%{d2} -all"),
		"bad.example":                    text("v=spf1 ip4:not.an.address -all"),
		"loop.example":                   text("v=spf1 include:loop.example -all"),
		"void.example":                   text("v=spf1 a:v1.example a:v2.example a:v3.example -all"),
		"two.example":                    {{"TXT", "v=spf1 -all"}, {"TXT", "v=spf1 +all"}},
		"other.example":                  text("nothing about it"),
		"fails.example":                  {{"FAIL", ""}},
		"inc2.example":                   text("v=spf1 include:nowhere.example -all"),
		"mx.example":                     {{"TXT", "v=spf1 mx/24 -all"}, {"MX", "host.example"}},
		"host.example":                   {{"A", "192.0.2.77"}},
		"1.2.0.192.strong.macro.example": {{"A", "127.0.0.2"}},
	}
	z := suiteZone{}
	for name, records := range zone {
		for _, r := range records {
			switch kind, value := r[0], any(r[1]); kind {
			case "FAIL":
				z[name] = append(z[name], record{"TIMEOUT", nil})
			case "MX":
				z[name] = append(z[name], record{kind, []any{10, value}})
			default:
				z[name] = append(z[name], record{kind, value})
			}
		}
	}
	var senders []sender
	for name := range zone {
		for _, client := range []string{"192.0.2.1", "198.51.100.1", "2001:db8::1"} {
			senders = append(senders, sender{client, "strong-bad@" + name, "helo.example"})
		}
	}
	senders = append(senders, sender{"192.0.2.1", "x@nowhere.example", "helo.example"}, sender{"192.0.2.1", "", "ip.example"})
	a, err := askPython(within(t), job{Zone: zone, Senders: senders})
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range senders {
		var from mail.Address
		if err := from.UnmarshalText([]byte(s.Sender)); err != nil {
			t.Fatal(err)
		}
		got := spf.MailFrom(t.Context(), z, netip.MustParseAddr(s.Client), s.Helo, from)
		if string(got.Result) != a.Senders[i] {
			t.Errorf("%+v: %s (%s), pyspf says %s", s, got.Result, got.Reason, a.Senders[i])
		}
	}
}

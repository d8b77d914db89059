package smtpbridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

// fakeDNS answers from tables; a name that is in neither does not exist, one
// that is there with nothing has no data, and "fail." names fail.
type fakeDNS struct {
	mx       map[string][]dns.MX
	addrs    map[string][]string
	alias    map[string]string // of hosts, to the name that their addresses are under
	tlsa     map[string][]dns.TLSA
	txt      map[string][]string
	unsigned map[string]bool // what was asked, as "MX a.example"; all else is signed
	failing  map[string]bool // likewise
}

// as marks an answer by what was asked.
func as[T any](f fakeDNS, what string, ans dns.Answer[T]) dns.Answer[T] {
	if f.failing[what] {
		return dns.Answer[T]{Err: errors.New("SERVFAIL")}
	}
	ans.Secure = ans.Status != dns.Failed && !f.unsigned[what]
	return ans
}

func fakeAnswer[T any](name string, known bool, records []T) dns.Answer[T] {
	switch {
	case strings.HasPrefix(name, "fail."):
		return dns.Answer[T]{Err: errors.New("SERVFAIL")}
	case !known:
		return dns.Answer[T]{Status: dns.NoDomain}
	case len(records) == 0:
		return dns.Answer[T]{Status: dns.NoData}
	}
	return dns.Answer[T]{Status: dns.Found, Records: records}
}

func (f fakeDNS) MX(_ context.Context, name string) dns.Answer[dns.MX] {
	records, known := f.mx[name]
	_, host := f.addrs[name]
	return as(f, "MX "+name, fakeAnswer(name, known || host, records))
}

func (f fakeDNS) CNAME(_ context.Context, name string) dns.Answer[string] {
	target, known := f.alias[name]
	return as(f, "CNAME "+name, fakeAnswer(name, known, []string{target}))
}

func (f fakeDNS) TLSA(_ context.Context, name string) dns.Answer[dns.TLSA] {
	records, known := f.tlsa[name]
	return as(f, "TLSA "+name, fakeAnswer(name, known, records))
}

func (f fakeDNS) TXT(_ context.Context, name string) dns.Answer[string] {
	records, known := f.txt[name]
	return as(f, "TXT "+name, fakeAnswer(name, known, records))
}

func (f fakeDNS) Addrs(_ context.Context, host string) dns.Answer[netip.Addr] {
	list, known := f.addrs[host]
	var ips []netip.Addr
	for _, s := range list {
		ips = append(ips, netip.MustParseAddr(s))
	}
	ans := as(f, "A "+host, fakeAnswer(host, known, ips))
	if ans.Name = host; f.alias[host] != "" {
		ans.Name = f.alias[host]
	}
	return ans
}

func withDNS(f fakeDNS) func(*ClientConfig) {
	return func(cfg *ClientConfig) {
		cfg.DNS = f
		cfg.OwnNames = []string{"Other-Me.example."}
	}
}

// TestExchangers: RFC 5321 section 5.1 and RFC 7505.
func TestExchangers(t *testing.T) {
	mx := func(pairs ...any) (out []dns.MX) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, dns.MX{Preference: uint16(pairs[i].(int)), Host: pairs[i+1].(string)})
		}
		return out
	}
	f := fakeDNS{
		mx: map[string][]dns.MX{
			"ordered.example":  mx(20, "b.example", 10, "a.example", 30, "c.example"),
			"null.example":     mx(0, "."),
			"nullplus.example": mx(0, ".", 10, "a.example"),
			"backup.example":   mx(20, "gw.example", 10, "a.example", 20, "b.example", 30, "c.example"),
			"case.example":     mx(20, "GW.example", 10, "a.example"),
			"other.example":    mx(10, "a.example", 15, "other-me.example"),
			"loop.example":     mx(10, "gw.example", 20, "a.example"),
			"onlyus.example":   mx(10, "gw.example"),
			"implicit.example": nil,
			"gw.example":       nil,
		},
	}
	c := newTestClient(t, withDNS(f))
	for _, tc := range []struct{ domain, want string }{
		{"ordered.example", "a.example b.example c.example"},
		{"null.example", "556 5.1.10"},
		{"nullplus.example", "a.example"},
		{"backup.example", "a.example"},
		{"case.example", "a.example"},
		{"other.example", "a.example"},
		{"loop.example", "554 5.4.6"},
		{"onlyus.example", "554 5.4.6"},
		{"implicit.example", "implicit.example"},
		{"gw.example", "554 5.4.6"},
		{"nowhere.example", "550 5.1.2"},
		{"fail.example", "451 4.4.3"},
		{"[192.0.2.1]", "550 5.1.2"},
		{"", "550 5.1.2"},
	} {
		hosts, failure := c.exchangers(t.Context(), tc.domain)
		got := ""
		for _, h := range hosts {
			got += h.name + " "
		}
		if failure != nil {
			got = verdictOf(failure)
		}
		if got = strings.TrimSpace(got); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.domain, got, tc.want)
		}
	}
	t.Run("without a resolver", func(t *testing.T) {
		c := newTestClient(t, nil)
		got := c.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP}, attemptOf(t, sample, "a@dest.example"))
		if v := verdictsOf(got); v[0] != "451 4.3.0" {
			t.Errorf("%q", v)
		}
	})
}

// TestEqualPreferencesAreShared: each of the equals comes first sometimes, and
// none before a preferred one.
func TestEqualPreferencesAreShared(t *testing.T) {
	c := newTestClient(t, nil)
	in := []dns.MX{{Preference: 20, Host: "x"}, {Preference: 20, Host: "y"}, {Preference: 20, Host: "z"}, {Preference: 10, Host: "first"}}
	before := slices.Clone(in)
	second := map[string]int{}
	for range 400 { // the chance that one of three never comes is below 1e-70
		got := c.orderExchangers(in)
		if len(got) != 4 || got[0].Host != "first" {
			t.Fatalf("order %v", got)
		}
		second[got[1].Host]++
	}
	if len(second) != 3 {
		t.Errorf("second places: %v", second)
	}
	if !slices.Equal(in, before) {
		t.Error("the resolver's records were changed")
	}
}

// TestRoute: hosts and addresses are tried in order, and not without end.
func TestRoute(t *testing.T) {
	many := fakeDNS{mx: map[string][]dns.MX{}, addrs: map[string][]string{
		"a.example": {"2001:db8::1", "192.0.2.1"}, "b.example": {"192.0.2.2"}, "empty.example": nil, "implicit.example": {"192.0.2.9"},
	}}
	many.mx["two.example"] = []dns.MX{{Preference: 1, Host: "a.example"}, {Preference: 2, Host: "b.example"}}
	many.mx["gaps.example"] = []dns.MX{{Preference: 1, Host: "fail.host.example"}, {Preference: 2, Host: "empty.example"}, {Preference: 3, Host: "gone.example"}, {Preference: 4, Host: "b.example"}}
	for i := range 9 {
		host := fmt.Sprintf("h%d.example", i)
		many.mx["hosts.example"] = append(many.mx["hosts.example"], dns.MX{Preference: uint16(i), Host: host})
		many.addrs[host] = []string{fmt.Sprintf("192.0.2.%d", i)}
		many.addrs["wide.example"] = append(many.addrs["wide.example"], many.addrs[host]...)
		many.addrs["wide.example"] = append(many.addrs["wide.example"], many.addrs[host]...)
	}
	many.mx["wide-mx.example"] = []dns.MX{{Preference: 1, Host: "wide.example"}, {Preference: 2, Host: "a.example"}}
	c := newTestClient(t, withDNS(many))
	places := func(h Hop, domain string) (out []string) {
		for p, f := range c.route(t.Context(), errand{hop: h, domain: domain, waived: func() bool { return false }}) {
			if f != nil {
				out = append(out, verdictOf(f))
			} else {
				out = append(out, p.addr)
			}
		}
		return out
	}
	for domain, want := range map[string][]string{
		"two.example":      {"[2001:db8::1]:25", "192.0.2.1:25", "192.0.2.2:25"},
		"gaps.example":     {"451 4.4.3", "550 5.4.4", "550 5.4.4", "192.0.2.2:25"},
		"implicit.example": {"192.0.2.9:25"},
		"empty.example":    {"550 5.4.4"},
		"hosts.example":    {"192.0.2.0:25", "192.0.2.1:25", "192.0.2.2:25", "192.0.2.3:25", "192.0.2.4:25"},
	} {
		if got := places(Hop{Protocol: ProtocolSMTP}, domain); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", domain, got, want)
		}
	}
	if got := places(Hop{Protocol: ProtocolSMTP}, "wide-mx.example"); len(got) != maxPlaces {
		t.Errorf("one host with many addresses: %q", got)
	}
	fixed := Hop{Protocol: ProtocolLMTP, Addrs: []string{
		"unix:/run/lmtp", "a.example:24", "localhost:24", "unknown.example:24", "[::1]:24", "no port",
	}}
	want := []string{"/run/lmtp", "[2001:db8::1]:24", "192.0.2.1:24", "localhost:24", "unknown.example:24", "[::1]:24", "451 4.3.0"}
	if got := places(fixed, "any.example"); !slices.Equal(got, want) {
		t.Errorf("fixed: %q, want %q", got, want)
	}
}

// TestFixedHopWithoutFamily: a next hop that has no address of the families
// wanted is a failure for each recipient, not the absence of any outcome.
func TestFixedHopWithoutFamily(t *testing.T) {
	c := newTestClient(t, func(cfg *ClientConfig) {
		cfg.DNS, cfg.Family = fakeDNS{addrs: map[string][]string{"old.example": {"192.0.2.1"}}}, FamilyIPv6
	})
	a := attemptOf(t, "Subject: x\r\n\r\n", "r@dest.example", "s@dest.example")
	hop := Hop{Protocol: ProtocolSMTP, Addrs: []string{"old.example:25"}}
	out := c.Deliver(t.Context(), hop, a)
	if len(out) != 2 {
		t.Fatalf("%d outcomes for 2 recipients", len(out))
	}
	for _, o := range out {
		if o.Failure == nil || verdictOf(o.Failure) != "451 4.4.4" {
			t.Errorf("outcome %+v", o)
		}
	}
	if _, err := c.Verify(t.Context(), hop, mail.Address{}, false, a.Envelope.Recipients); err == nil {
		t.Error("recipients are verified by nobody")
	}
	f, err := NewFilter(FilterConfig{Judge: &scribe{}, Client: c, Next: hop})
	if err != nil {
		t.Fatal(err)
	}
	if f := f.Session().Sender(t.Context(), mail.Client{}, mail.Envelope{}); f == nil || f.Class != mail.Temporary {
		t.Errorf("filter without a next hop: %v", f)
	}
}

// loopbackPair listens on one port of 127.0.0.2 and 127.0.0.3.
func loopbackPair(t *testing.T) (first, second net.Listener, port int) {
	t.Helper()
	for range 20 {
		a, err := net.Listen("tcp", "127.0.0.2:0")
		if err != nil {
			t.Fatal(err)
		}
		port := a.Addr().(*net.TCPAddr).Port
		b, err := net.Listen("tcp", fmt.Sprintf("127.0.0.3:%d", port))
		if err == nil {
			return a, b, port
		}
		a.Close()
	}
	t.Fatal("no port is free on both addresses")
	return nil, nil, 0
}

// TestNextHost: which first host's answers lead to the second, and what
// becomes of the message where neither lets us in.
func TestNextHost(t *testing.T) {
	const closed = "CLOSED"
	for _, c := range []struct {
		name          string
		first, second map[string]string
		want          string
		wantSessions  int // at the second
	}{
		{"the first takes it", nil, nil, "delivered", 0},
		{"the first is down", map[string]string{closed: closed}, nil, "delivered", 1},
		{"the first greets with 421", map[string]string{"greet": "421 busy"}, nil, "delivered", 1},
		{"the first greets with 450", map[string]string{"greet": "450 busy"}, nil, "delivered", 1},
		{"the first greets with 554", map[string]string{"greet": "554 no"}, nil, "delivered", 1},
		{"the first refuses EHLO", map[string]string{"ehlo": "450 no"}, nil, "delivered", 1},
		{"the first refuses the sender", map[string]string{"mail": "550 5.7.1 no"}, nil, "550 5.7.1", 0},
		{"temporary, then permanent", map[string]string{"greet": "450 4.3.2 busy"}, map[string]string{"greet": "554 5.3.2 no"}, "450 4.3.2", 1},
		{"permanent, then temporary", map[string]string{"greet": "554 5.3.2 no"}, map[string]string{"greet": "450 4.3.2 busy"}, "450 4.3.2", 1},
		{"both permanent", map[string]string{"greet": "554 5.3.2 no"}, map[string]string{"greet": "554 5.7.1 no"}, "554 5.7.1", 1},
		{"both down", map[string]string{closed: closed}, map[string]string{closed: closed}, "451 4.4.1", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b, port := loopbackPair(t)
			start := func(ln net.Listener, steps map[string]string) *hopScript {
				if steps[closed] != "" {
					ln.Close()
					return &hopScript{}
				}
				return startScriptOn(t, ln, scriptOffers, script(steps))
			}
			start(a, c.first)
			second := start(b, c.second)
			client := newTestClient(t, func(cfg *ClientConfig) {
				cfg.MXPort = port
				cfg.DNS = fakeDNS{
					mx: map[string][]dns.MX{"dest.example": {{Preference: 1, Host: "a.example"}, {Preference: 2, Host: "b.example"}}},
					addrs: map[string][]string{
						"a.example": {"127.0.0.2"}, "b.example": {"127.0.0.3"},
					},
				}
			})
			got := client.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP}, attemptOf(t, sample, "r@dest.example"))
			if v := verdictsOf(got); v[0] != c.want {
				t.Errorf("%q, want %q", v, c.want)
			}
			if _, _, n := second.got(); n != c.wantSessions {
				t.Errorf("%d sessions at the second host, want %d", n, c.wantSessions)
			}
			if c.want == "delivered" && got[0].Remote != []string{"a.example", "b.example"}[c.wantSessions] {
				t.Errorf("remote %q", got[0].Remote)
			}
		})
	}
}

// FuzzOrderExchangers: no order of records leads to us or beyond.
func FuzzOrderExchangers(f *testing.F) {
	f.Add([]byte{10, 0, 20, 1, 10, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		hosts := []string{"gw.example", "a.example", "b.example", "."}
		var in []dns.MX
		own := 1 << 16
		for i := 0; i+1 < len(b); i += 2 {
			r := dns.MX{Preference: uint16(b[i]), Host: hosts[int(b[i+1])%len(hosts)]}
			if r.Host == "gw.example" {
				own = min(own, int(r.Preference))
			}
			in = append(in, r)
		}
		c := &Client{ownNames: map[string]bool{"gw.example": true}}
		last := uint16(0)
		for _, r := range c.orderExchangers(in) {
			if r.Preference < last || int(r.Preference) >= own || r.Host == "gw.example" || r.Host == "." {
				t.Fatalf("%v in the order for %v", r, in)
			}
			last = r.Preference
		}
	})
}

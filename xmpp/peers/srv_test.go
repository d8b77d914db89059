package peers

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"mailxmppd/dns"
	"mailxmppd/xmpp/stream"
)

func TestOrder(t *testing.T) {
	var records []located
	for _, r := range []dns.SRV{
		{Priority: 20, Weight: 0, Target: "c"}, {Priority: 10, Weight: 90, Target: "a"},
		{Priority: 10, Weight: 10, Target: "b"}, {Priority: 10, Weight: 0, Target: "z"},
	} {
		records = append(records, located{r, false})
	}
	draw := rand.New(rand.NewPCG(3, 4))
	first := map[string]int{}
	for range 10000 {
		out := inOrder(records, draw.IntN)
		var seq strings.Builder
		for _, r := range out {
			seq.WriteString(r.Target)
		}
		if len(out) != 4 || !strings.HasSuffix(seq.String(), "c") {
			t.Fatalf("order %s", seq.String())
		}
		first[out[0].Target]++
	}
	if first["a"] < 8500 || first["b"] < 700 || first["z"] == 0 || first["z"] > 300 {
		t.Errorf("first of 10,000: %v", first)
	}
	if inOrder(nil, draw.IntN) != nil {
		t.Error("something from nothing")
	}
}

// TestLocate is the order of xep-draft section 4.1, and XEP-0368 section 3 on
// the two chat services.
func TestLocate(t *testing.T) {
	found := func(records ...dns.SRV) dns.Answer[dns.SRV] {
		return dns.Answer[dns.SRV]{Status: dns.Found, Records: records}
	}
	at := func(priority uint16, target string) dns.SRV {
		return dns.SRV{Priority: priority, Port: 1, Target: target}
	}
	none := dns.Answer[dns.SRV]{Status: dns.NoDomain}
	signed := dns.Answer[dns.SRV]{Status: dns.NoData, Secure: true}
	failed := dns.Answer[dns.SRV]{Status: dns.Failed}
	for _, c := range []struct {
		name               string
		own, direct, start dns.Answer[dns.SRV]
		service            service
		targets            string // with * for STARTTLS
		why                string
		mailGone           bool
	}{
		{"own service first", found(at(9, "m")), found(at(1, "d")), found(at(1, "s")), atMail, "m", "", false},
		{"own service by priority", found(at(9, "m"), at(3, "n")), none, none, atMail, "n m", "", false},
		{"own service declined", found(at(0, ".")), found(at(1, "d")), none, atMail, "", `SRV target of _xmpps-mail is "."`, false},
		{"both chat services as one list", none, found(at(1, "d"), at(3, "e")), found(at(0, "r"), at(2, "s")), atServer, "r* d s* e", "", false},
		{"direct TLS alone", none, found(at(1, "d")), none, atServer, "d", "", false},
		{"STARTTLS alone", signed, signed, found(at(1, "s")), atServer, "s*", "", true},
		{"direct TLS declined", none, found(at(0, ".")), found(at(1, "s")), atServer, "s*", "", false},
		{"direct TLS not known", none, failed, found(at(1, "s")), atServer, "s*", "", false},
		{"own service not known", failed, found(at(1, "d")), none, atServer, "d", "", false},
		{"both declined", none, found(at(0, ".")), found(at(0, ".")), atServer, "", `SRV target of the XMPP service is "."`, false},
		{"nothing", none, none, none, atServer, "", "no SRV records", false},
		{"nothing, in part signed", none, signed, signed, atServer, "", "no SRV records", false},
		{"nothing, signed", signed, signed, signed, atServer, "", "no SRV records, proven by DNSSEC", true},
		{"one not known", signed, none, failed, atServer, "", "SRV records cannot be looked up", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := locate(c.own, c.direct, c.start)
			var targets []string
			for _, r := range got.records {
				name := r.Target
				if r.startTLS {
					name += "*"
				}
				targets = append(targets, name)
			}
			if s := strings.Join(targets, " "); s != c.targets || got.service != c.service || got.why != c.why {
				t.Errorf("%s at %q, %q", s, got.service, got.why)
			}
			if got.mailGone != c.mailGone {
				t.Errorf("mail gone: %v", got.mailGone)
			}
		})
	}
}

// TestTargets: both families, literals, one host's addresses and all of them
// bounded, the order kept.
func TestTargets(t *testing.T) {
	x := newSetup(t)
	var many []netip.Addr
	for i := range 64 {
		many = append(many, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	for i := range 20 {
		host := "h" + strconv.Itoa(i) + ".montague.example"
		x.dns.srv[serverService+"montague.example"] = append(x.dns.srv[serverService+"montague.example"], dns.SRV{Priority: uint16(i), Port: 5270, Target: host})
		x.dns.addrs[host] = many
	}
	r, f := x.dir.reach(context.Background(), "montague.example")
	if f != nil || len(r.targets) != maxTargets || r.targets[4].Host != "h1.montague.example" || r.targets[4].Addr != "192.0.2.0:5270" {
		t.Errorf("%d targets, %v, %v", len(r.targets), r.targets, f)
	}
	x = newSetup(t, Configured{Domain: "montague.example", Addrs: []string{"[2001:db8::1]:5271", "xmpp.montague.example:5272", "none.example:1"}})
	x.service(mailService) // not asked, but for the address
	r, f = x.dir.reach(context.Background(), "montague.example")
	want := []stream.Target{
		{Host: "2001:db8::1", Port: 5271, Addr: "[2001:db8::1]:5271"},
		{Host: "xmpp.montague.example", Port: 5272, Addr: "192.0.2.7:5272"},
		{Host: "xmpp.montague.example", Port: 5272, Addr: "[2001:db8::7]:5272"},
	}
	if f != nil || !slices.Equal(r.targets, want) || len(x.dns.asked) != 0 {
		t.Errorf("%v, %v, asked %v", r.targets, f, x.dns.asked)
	}
}

func TestServerTargets(t *testing.T) {
	x := newSetup(t)
	x.service(mailService)
	if _, err := x.dir.ServerTargets(context.Background(), "", "montague.example"); err == nil {
		t.Error("the mail service is taken for the chat server")
	}
	x.service(startTLSService)
	got, err := x.dir.ServerTargets(context.Background(), "", "montague.example")
	if err != nil || len(got) != 2 || !got[0].StartTLS {
		t.Errorf("%v, %v", got, err)
	}
}

package smtpbridge

import (
	"fmt"
	"testing"

	"mailxmppd/dns"
)

// TestDestination: domains with the same mail exchangers are one destination once
// an attempt has found that out, those behind a fixed hop at once; exchangers that
// cannot be told any more are forgotten.
func TestDestination(t *testing.T) {
	f := fakeDNS{
		mx: map[string][]dns.MX{
			"a.example":     {{Preference: 10, Host: "mx1.host.example"}, {Preference: 10, Host: "mx2.host.example"}},
			"b.example":     {{Preference: 20, Host: "MX2.host.example"}, {Preference: 5, Host: "mx1.host.example"}},
			"other.example": {{Preference: 10, Host: "mx1.host.example"}},
		},
		addrs:   map[string][]string{"mx1.host.example": {"192.0.2.1"}, "mx2.host.example": {"192.0.2.2"}},
		failing: map[string]bool{},
	}
	c := newTestClient(t, withDNS(f))
	look := func(domain string) {
		for range c.route(t.Context(), errand{hop: Hop{Protocol: ProtocolSMTP}, domain: domain}) {
			break
		}
	}
	mx := Hop{Protocol: ProtocolSMTP}
	if got := c.Destination(mx, "a.example"); got != "" {
		t.Errorf("known before an attempt: %q", got)
	}
	look("a.example")
	look("b.example")
	look("other.example")
	a, b, other := c.Destination(mx, "a.example"), c.Destination(mx, "b.example"), c.Destination(mx, "other.example")
	if a != b || a != "mx:mx1.host.example,mx2.host.example" || other == a {
		t.Errorf("destinations %q, %q and %q", a, b, other)
	}
	f.failing["MX a.example"] = true
	look("a.example")
	if got := c.Destination(mx, "a.example"); got != "" {
		t.Errorf("still %q although the DNS does not tell any more", got)
	}

	fixed := Hop{Protocol: ProtocolSMTP, Addrs: []string{"relay.example:25"}}
	if x, y := c.Destination(fixed, "x.example"), c.Destination(fixed, "y.example"); x != y || x != "smtp:relay.example:25" {
		t.Errorf("smarthost %q and %q", x, y)
	}
	for i := range 2 * maxSets {
		c.sets.note(fmt.Sprintf("d%d.example", i), []exchanger{{name: "mx.example"}})
	}
	if n := len(c.sets.of); n != maxSets {
		t.Errorf("%d sets remembered, want at most %d", n, maxSets)
	}
}

package dns

import (
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

// TestQueryName: what no server could read is not asked for, to the octet.
func TestQueryName(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3)
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"capulet.example", true}, {"Capulet.Example.", true}, {"_dmarc.capulet.example", true},
		{"", false}, {"a b.example", false}, {"a\\.example", false}, {"a..example", false}, {"m\u00fcnchen.example", false},
		{strings.Repeat("a", 63) + ".example", true}, {strings.Repeat("a", 64) + ".example", false},
		{long + strings.Repeat("b", 61), true},
		{long + strings.Repeat("b", 62), false},
		{long + strings.Repeat("b", 63), false},
	} {
		fqdn, ok := queryName(c.name)
		if ok != c.ok {
			t.Errorf("%d octets, %.20q: %v", len(c.name), c.name, ok)
		}
		if !ok {
			continue
		}
		packet, err := question(fqdn, mdns.TypeTXT).Pack()
		if err != nil {
			t.Errorf("%.20q: %v", c.name, err)
		}
		if err := new(mdns.Msg).Unpack(packet); err != nil {
			t.Errorf("%.20q: no server can read the question: %v", c.name, err)
		}
	}
}

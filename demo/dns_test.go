package demo

import (
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestNameServerAnswers(t *testing.T) {
	n := newTestNetwork(t)
	key, err := newSigner()
	if err != nil {
		t.Fatal(err)
	}
	record, err := key.record()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.dns.add(record); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string // in the one answer; "" for none
	}{
		{"_xmpps-mail._tcp.montague.example.", dns.TypeSRV, dns.RcodeSuccess, "gateway.montague.example."},
		{"_XMPPS-mail._tcp.Capulet.Example.", dns.TypeSRV, dns.RcodeSuccess, "gateway.capulet.example."},
		{"gateway.montague.example.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1"},
		{"gateway.montague.example.", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"legacy.example.", dns.TypeMX, dns.RcodeSuccess, "mx.legacy.example."},
		{"mx.legacy.example.", dns.TypeA, dns.RcodeSuccess, "127.0.0.1"},
		{"montague.example.", dns.TypeMX, dns.RcodeSuccess, ""},
		{"_tcp.montague.example.", dns.TypeSRV, dns.RcodeSuccess, ""},
		{"demo._domainkey.capulet.example.", dns.TypeTXT, dns.RcodeSuccess, "v=DKIM1"},
		{"_xmpps-mail._tcp.legacy.example.", dns.TypeSRV, dns.RcodeNameError, ""},
		{"mallory.example.", dns.TypeMX, dns.RcodeNameError, ""},
		{"example.org.", dns.TypeMX, dns.RcodeRefused, ""},
	} {
		for _, proto := range []string{"udp", "tcp"} {
			q := new(dns.Msg).SetQuestion(tt.name, tt.qtype)
			q.SetEdns0(1232, false)
			m, _, err := (&dns.Client{Net: proto}).Exchange(q, n.dns.addr)
			if err != nil {
				t.Fatalf("%s over %s: %v", tt.name, proto, err)
			}
			if m.Rcode != tt.rcode {
				t.Errorf("%s over %s: %s", tt.name, proto, dns.RcodeToString[m.Rcode])
			}
			if tt.want == "" && len(m.Answer) > 0 || tt.want != "" && (len(m.Answer) != 1 || !strings.Contains(m.Answer[0].String(), tt.want)) {
				t.Errorf("%s over %s: answers %v, want %q", tt.name, proto, m.Answer, tt.want)
			}
			if tt.want == "" && tt.rcode != dns.RcodeRefused && len(m.Ns) != 1 {
				t.Errorf("%s over %s: a negative answer without SOA", tt.name, proto)
			}
		}
	}
}

// A client without EDNS0 gets what fits into 512 octets, and asks again by TCP.
func TestNameServerTruncates(t *testing.T) {
	n := newTestNetwork(t)
	if err := n.dns.add(`long.example. 60 IN TXT "` + strings.Repeat("a", 250) + `" "` + strings.Repeat("b", 250) + `" "` + strings.Repeat("c", 250) + `"`); err != nil {
		t.Fatal(err)
	}
	m, _, err := new(dns.Client).Exchange(new(dns.Msg).SetQuestion("long.example.", dns.TypeTXT), n.dns.addr)
	if err != nil || !m.Truncated {
		t.Errorf("truncated %v, %v", m != nil && m.Truncated, err)
	}
	texts, err := n.dns.lookupTXT(t.Context(), "long.example")
	if err != nil || len(texts) != 1 || len(texts[0]) != 750 {
		t.Errorf("over TCP: %v, %v", texts, err)
	}
	if _, err := n.dns.lookupTXT(t.Context(), "none.example"); err == nil {
		t.Error("a record that is not there was found")
	}
}

func TestNameServerRefusesBadRecords(t *testing.T) {
	n := newTestNetwork(t)
	if err := n.dns.add("this is no record"); err == nil {
		t.Error("taken")
	}
}

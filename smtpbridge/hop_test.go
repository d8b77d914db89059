package smtpbridge

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseHop(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Hop
		err  string
	}{
		{"mx", Hop{Protocol: "smtp", TLS: TLSOpportunistic}, ""},
		{"smtp://mta.example:2525", Hop{Protocol: "smtp", Addrs: []string{"mta.example:2525"}, TLS: TLSOpportunistic}, ""},
		{"smtp://mta.example", Hop{Protocol: "smtp", Addrs: []string{"mta.example:25"}, TLS: TLSOpportunistic}, ""},
		{"smtp://[::1]:25/", Hop{Protocol: "smtp", Addrs: []string{"[::1]:25"}, TLS: TLSOpportunistic}, ""},
		{"smtps://mta.example:4650", Hop{Protocol: "smtp", Addrs: []string{"mta.example:4650"}, TLS: TLSVerified, Implicit: true}, ""},
		{"smtps://mta.example", Hop{Protocol: "smtp", Addrs: []string{"mta.example:465"}, TLS: TLSVerified, Implicit: true}, ""},
		{"smtps:///run/socket", Hop{}, "no host"},
		{"smtps://user:secret@mta.example", Hop{}, "settings of their own"},
		{"lmtp://127.0.0.1:24", Hop{Protocol: "lmtp", Addrs: []string{"127.0.0.1:24"}, TLS: TLSOpportunistic}, ""},
		{"lmtp://127.0.0.1", Hop{Protocol: "lmtp", Addrs: []string{"127.0.0.1:24"}, TLS: TLSOpportunistic}, ""},
		{"lmtp:///run/dovecot/lmtp", Hop{Protocol: "lmtp", Addrs: []string{"unix:/run/dovecot/lmtp"}, TLS: TLSNone}, ""},
		{"", Hop{}, "scheme"},
		{"MX", Hop{}, "scheme"},
		{"mta.example:25", Hop{}, "scheme"},
		{"http://mta.example", Hop{}, "scheme"},
		{"smtp:mta.example", Hop{}, "//"},
		{"smtp://", Hop{}, "no host"},
		{"smtp://:25", Hop{}, "host"},
		{"smtp:///run/socket", Hop{}, "no host"},
		{"lmtp://", Hop{}, "neither host nor path"},
		{"lmtp:///", Hop{}, "neither host nor path"},
		{"smtp://mta.example/path", Hop{}, "path"},
		{"smtp://mta.example?x=1", Hop{}, "nothing may follow"},
		{"smtp://mta.example?", Hop{}, "nothing may follow"},
		{"smtp://mta.example#x", Hop{}, "nothing may follow"},
		{"smtp://mta.example:0", Hop{}, "port"},
		{"smtp://mta.example:65536", Hop{}, "port"},
		{"smtp://mta.example:smtp", Hop{}, "port"},
		{"smtp://user:secret@mta.example", Hop{}, "settings of their own"},
		{"smtp://user:secret@%zz", Hop{}, "not a URL"},
		{"smtp://a,b:25", Hop{}, "no valid host"},
	} {
		got, err := ParseHop(c.in)
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%q: %+v, %v; want %+v", c.in, got, err, c.want)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: error %v, want one with %q", c.in, err, c.err)
		}
	}
}

func FuzzParseHop(f *testing.F) {
	for _, s := range []string{"mx", "smtp://a:25", "lmtp:///x", "smtps://a", "smtp://[::1]", "smtp://u:p@h", "lmtp://h/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		h, err := ParseHop(s)
		if err == nil && (h.Protocol != ProtocolSMTP && h.Protocol != ProtocolLMTP || len(h.Addrs) > 1 || len(h.Addrs) == 0 && s != "mx") {
			t.Fatalf("%q: %+v", s, h)
		}
	})
}

// TestPasswordMeansVerified: no setting sends a password to an unproven host.
func TestPasswordMeansVerified(t *testing.T) {
	for _, mode := range []TLSMode{"", TLSNone, TLSOpportunistic, TLSVerified} {
		if got := (Hop{TLS: mode, User: "u"}).tlsMode(); got != TLSVerified {
			t.Errorf("%q: %q", mode, got)
		}
	}
	if got := (Hop{}).tlsMode(); got != TLSOpportunistic {
		t.Errorf("zero value: %q", got)
	}
}

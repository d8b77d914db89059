package dns

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"
)

const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestTLSA(t *testing.T) {
	answer := zone(t,
		"_25._tcp.mx.example. 60 IN TLSA 3 1 1 "+digest,
		"_25._tcp.mx.example. 60 IN TLSA 2 0 0 00",
		"_25._tcp.alias.example. 60 IN CNAME _25._tcp.mx.example.",
		"host.example. 60 IN A 192.0.2.1",
		"_25._tcp.huge.example. 60 IN TLSA 3 1 1 "+digest,
		"_25._tcp.huge.example. 60 IN TLSA 3 0 0 "+strings.Repeat("00", maxTLSAData+1),
	)
	s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if strings.HasPrefix(q.Question[0].Name, "_25._tcp.bogus.") {
			m := new(mdns.Msg)
			m.SetRcode(q, mdns.RcodeServerFailure)
			w.WriteMsg(m)
			return
		}
		if strings.Contains(q.Question[0].Name, "huge") && !overTCP(w) {
			m := new(mdns.Msg)
			m.SetReply(q)
			m.Truncated = true
			w.WriteMsg(m)
			return
		}
		answer(adWriter{w, !strings.Contains(q.Question[0].Name, "alias")}, q)
	})
	r, ctx := newResolver(t, s.addr), background(t)
	for _, c := range []struct {
		name    string
		status  Status
		records int
		secure  bool
		owner   string
	}{
		{"_25._tcp.mx.example", Found, 2, true, "_25._tcp.mx.example"},
		{"_25._tcp.alias.example", Found, 2, false, "_25._tcp.mx.example"},
		{"_25._tcp.none.example", NoDomain, 0, true, "_25._tcp.none.example"},
		{"host.example", NoData, 0, true, "host.example"},
		{"_25._tcp.bogus.example", Failed, 0, false, ""},
		{"_25._tcp.huge.example", Failed, 0, false, "_25._tcp.huge.example"},
	} {
		ans := r.TLSA(ctx, c.name)
		if ans.Status != c.status || len(ans.Records) != c.records || ans.Secure != c.secure || ans.Name != c.owner {
			t.Errorf("%s: %+v", c.name, ans)
		}
	}
	want, _ := hex.DecodeString(digest)
	if got := r.TLSA(ctx, "_25._tcp.mx.example").Records[0]; got.Usage != 3 || got.Selector != 1 || got.Matching != 1 || !bytes.Equal(got.Data, want) {
		t.Errorf("%+v", got)
	}
}

// TestAliases: where a chain ends, and what one link of it says.
func TestAliases(t *testing.T) {
	s := startServer(t, zone(t,
		"a.example. 60 IN CNAME B.example.", "b.example. 60 IN CNAME c.example.", "c.example. 60 IN A 192.0.2.1",
	))
	r, ctx := newResolver(t, s.addr), background(t)
	if ans := r.Addrs(ctx, "A.example"); ans.Name != "c.example" || ans.Status != Found {
		t.Errorf("addresses: %+v", ans)
	}
	if ans := r.Addrs(ctx, "c.example"); ans.Name != "c.example" {
		t.Errorf("addresses of no alias: %+v", ans)
	}
	if ans := r.CNAME(ctx, "a.example"); ans.Status != Found || ans.Records[0] != "b.example" {
		t.Errorf("alias: %+v", ans)
	}
	if ans := r.CNAME(ctx, "c.example"); ans.Status != NoData {
		t.Errorf("no alias: %+v", ans)
	}
}

// TestFamilySecurity: which families' answers make a host's addresses secure.
func TestFamilySecurity(t *testing.T) {
	answer := zone(t, "a.example. 60 IN A 192.0.2.1", "a.example. 60 IN AAAA 2001:db8::1", "b.example. 60 IN A 192.0.2.2")
	const fails = 2
	for _, c := range []struct {
		name   string
		v4, v6 int // 1: secure; fails: SERVFAIL
		host   string
		status Status
		secure bool
	}{
		{"both", 1, 1, "a.example", Found, true},
		{"one is not", 1, 0, "a.example", Found, false},
		{"neither", 0, 0, "a.example", Found, false},
		{"one fails", 1, fails, "a.example", Found, true},
		{"one fails, the other is not secure", 0, fails, "a.example", Found, false},
		{"absence of one is signed", 1, 1, "b.example", Found, true},
		{"absence of one is not signed", 1, 0, "b.example", Found, false},
		{"both fail", fails, fails, "a.example", Failed, false},
	} {
		s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
			how := c.v4
			if q.Question[0].Qtype == mdns.TypeAAAA {
				how = c.v6
			}
			if how == fails {
				m := new(mdns.Msg)
				m.SetRcode(q, mdns.RcodeServerFailure)
				w.WriteMsg(m)
				return
			}
			answer(adWriter{w, how == 1}, q)
		})
		r, ctx := newResolver(t, s.addr), background(t)
		if ans := r.Addrs(ctx, c.host); ans.Status != c.status || ans.Secure != c.secure {
			t.Errorf("%s: %+v", c.name, ans)
		}
	}
}

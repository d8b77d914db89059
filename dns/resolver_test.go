package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestLookups(t *testing.T) {
	s := startServer(t, zone(t,
		`Capulet.Example. 60 IN MX 10 MX1.Capulet.Example.`,
		`capulet.example. 60 IN MX 20 mx2.capulet.example.`,
		`null.example. 60 IN MX 0 .`,
		`odd.example. 60 IN MX 0 mx\032one.example.`,
		`half.example. 60 IN MX 0 mx\@one.example.`,
		`half.example. 60 IN MX 5 good.example.`,
		`_xmpps-mail._tcp.capulet.example. 60 IN SRV 1 2 5270 X.Capulet.example.`,
		`_xmpps-mail._tcp.no.example. 60 IN SRV 0 0 0 .`,
		`text.example. 60 IN TXT "v=spf1 " "-all \" \001"`,
		`mx1.capulet.example. 60 IN A 192.0.2.1`,
		`mx1.capulet.example. 60 IN A 192.0.2.2`,
		`mx1.capulet.example. 60 IN AAAA 2001:db8::1`,
		`v4.example. 60 IN A 192.0.2.4`,
		`alias.example. 60 IN CNAME Alias2.example.`,
		`alias2.example. 60 IN CNAME capulet.example.`,
		`dead.example. 60 IN CNAME text.example.`,
		`1.2.0.192.in-addr.arpa. 60 IN PTR MX1.capulet.example.`,
		`1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 60 IN PTR mx1.capulet.example.`,
	))
	r, ctx := newResolver(t, s.addr), background(t)

	type outcome struct {
		records any
		status  Status
	}
	addrs := func(in ...string) []netip.Addr {
		var out []netip.Addr
		for _, s := range in {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	mx := func(name string) outcome { a := r.MX(ctx, name); return outcome{a.Records, a.Status} }
	srv := func(name string) outcome { a := r.SRV(ctx, name); return outcome{a.Records, a.Status} }
	txt := func(name string) outcome { a := r.TXT(ctx, name); return outcome{a.Records, a.Status} }
	host := func(name string) outcome { a := r.Addrs(ctx, name); return outcome{a.Records, a.Status} }
	family := func(name string, v6 bool) outcome { a := r.Family(ctx, name, v6); return outcome{a.Records, a.Status} }
	ptr := func(ip string) outcome { a := r.PTR(ctx, netip.MustParseAddr(ip)); return outcome{a.Records, a.Status} }
	both := []MX{{10, "mx1.capulet.example"}, {20, "mx2.capulet.example"}}

	for _, c := range []struct {
		what      string
		got, want outcome
	}{
		{"names come back lower-case, without the dot", mx("capulet.example"), outcome{both, Found}},
		{"the question's case does not matter", mx("CAPULET.example."), outcome{both, Found}},
		{"null MX", mx("null.example"), outcome{[]MX{{0, "."}}, Found}},
		{"a target that is no host name", mx("odd.example"), outcome{[]MX(nil), Failed}},
		{"one bad target among good ones", mx("half.example"), outcome{[]MX{{5, "good.example"}}, Found}},
		{"no such name", mx("nowhere.example"), outcome{[]MX(nil), NoDomain}},
		{"no such type", mx("v4.example"), outcome{[]MX(nil), NoData}},
		{"aliases", mx("alias.example"), outcome{both, Found}},
		{"an alias that ends without data", mx("dead.example"), outcome{[]MX(nil), NoData}},
		{"a name with a space", mx("a b.example"), outcome{[]MX(nil), NoDomain}},
		{"a name in UTF-8", mx("bücher.example"), outcome{[]MX(nil), NoDomain}},
		{"an empty name", mx(""), outcome{[]MX(nil), NoDomain}},
		{"a label too long", mx(strings.Repeat("a", 64) + ".example"), outcome{[]MX(nil), NoDomain}},
		{"a name too long", mx(strings.Repeat("abcdefg.", 32) + "example"), outcome{[]MX(nil), NoDomain}},
		{"SRV", srv("_xmpps-mail._tcp.capulet.example"), outcome{[]SRV{{1, 2, 5270, "x.capulet.example"}}, Found}},
		{"SRV that says no", srv("_xmpps-mail._tcp.no.example"), outcome{[]SRV{{0, 0, 0, "."}}, Found}},
		{"TXT strings are joined and unescaped", txt("text.example"), outcome{[]string{"v=spf1 -all \" \x01"}, Found}},
		{"names of an IPv4 address", ptr("192.0.2.1"), outcome{[]string{"mx1.capulet.example"}, Found}},
		{"names of an IPv4 address in IPv6", ptr("::ffff:192.0.2.1"), outcome{[]string{"mx1.capulet.example"}, Found}},
		{"names of an IPv6 address", ptr("2001:db8::1"), outcome{[]string{"mx1.capulet.example"}, Found}},
		{"no names of an address", ptr("192.0.2.9"), outcome{[]string(nil), NoDomain}},
		{"one family", family("mx1.capulet.example", true), outcome{addrs("2001:db8::1"), Found}},
		{"a family that is not there", family("v4.example", true), outcome{[]netip.Addr(nil), NoData}},
		{"both families", host("mx1.capulet.example"), outcome{addrs("2001:db8::1", "192.0.2.1", "192.0.2.2"), Found}},
		{"one family", host("v4.example"), outcome{addrs("192.0.2.4"), Found}},
		{"no address", host("text.example"), outcome{[]netip.Addr(nil), NoData}},
		{"no host", host("nowhere.example"), outcome{[]netip.Addr(nil), NoDomain}},
	} {
		if !reflect.DeepEqual(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", c.what, c.got, c.want)
		}
	}
}

// TestFailures: whatever goes wrong is Failed, never absence.
func TestFailures(t *testing.T) {
	rcode := func(code int) handler {
		return func(w mdns.ResponseWriter, q *mdns.Msg) {
			m := new(mdns.Msg)
			m.SetRcode(q, code)
			m.SetEdns0(payload, false) // it carries the upper bits of a code above 15
			w.WriteMsg(m)
		}
	}
	for name, handle := range map[string]handler{
		"SERVFAIL": rcode(mdns.RcodeServerFailure),
		"REFUSED":  rcode(mdns.RcodeRefused),
		"FORMERR":  rcode(mdns.RcodeFormatError),
		"NOTIMP":   rcode(mdns.RcodeNotImplemented),
		"BADVERS":  rcode(mdns.RcodeBadVers),
		"malformed": func(w mdns.ResponseWriter, q *mdns.Msg) {
			m := new(mdns.Msg)
			m.SetReply(q)
			b, _ := m.Pack()
			b[7] = 9 // announces nine answers and holds none
			w.Write(append(b, 0xc0))
		},
		"referral": func(w mdns.ResponseWriter, q *mdns.Msg) {
			m := new(mdns.Msg)
			m.SetReply(q)
			m.Ns = []mdns.RR{rr(t, "example. 60 IN NS ns.example.")}
			w.WriteMsg(m)
		},
		"alias loop": func(w mdns.ResponseWriter, q *mdns.Msg) {
			m := new(mdns.Msg)
			m.SetReply(q)
			m.Answer = []mdns.RR{rr(t, "a.example. 60 IN CNAME b.example."), rr(t, "b.example. 60 IN CNAME a.example.")}
			w.WriteMsg(m)
		},
		"truncated, and TCP fails": func(w mdns.ResponseWriter, q *mdns.Msg) {
			m := new(mdns.Msg)
			m.SetReply(q)
			m.Truncated = true
			m.Answer = []mdns.RR{rr(t, "a.example. 60 IN MX 1 mx.example.")}
			if overTCP(w) {
				w.Close()
				return
			}
			w.WriteMsg(m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newResolver(t, startServer(t, handle).addr)
			ans := r.MX(background(t), "a.example")
			if ans.Status != Failed || ans.Err == nil || ans.Records != nil {
				t.Errorf("got %v %v, err %v", ans.Status, ans.Records, ans.Err)
			}
		})
	}
}

func TestSilentServer(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	silent := pc.LocalAddr().String()
	good := startServer(t, zone(t, "a.example. 60 IN MX 1 mx.example."))

	t.Run("alone", func(t *testing.T) {
		r, _ := New([]string{silent}, 50*time.Millisecond)
		ans := r.MX(background(t), "a.example")
		if ans.Status != Failed || !errors.Is(ans.Err, context.DeadlineExceeded) {
			t.Errorf("got %v, err %v", ans.Status, ans.Err)
		}
	})
	t.Run("the next one answers", func(t *testing.T) {
		r, _ := New([]string{silent, good.addr}, 500*time.Millisecond)
		if ans := r.MX(background(t), "a.example"); ans.Status != Found {
			t.Errorf("got %v, err %v", ans.Status, ans.Err)
		}
	})
	t.Run("the caller gives up", func(t *testing.T) {
		r, _ := New([]string{silent}, time.Hour)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if ans := r.MX(ctx, "a.example"); ans.Status != Failed || !errors.Is(ans.Err, context.DeadlineExceeded) {
			t.Errorf("got %v, err %v", ans.Status, ans.Err)
		}
	})
}

func TestServerThatFailsIsNotAskedTwice(t *testing.T) {
	bad := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetRcode(q, mdns.RcodeServerFailure)
		w.WriteMsg(m)
	})
	good := startServer(t, zone(t, "a.example. 60 IN MX 1 mx.example."))
	ctx := background(t)
	if ans := newResolver(t, bad.addr, good.addr).MX(ctx, "a.example"); ans.Status != Found {
		t.Errorf("with a good server second: %v, err %v", ans.Status, ans.Err)
	}
	bad.udp.Store(0)
	if ans := newResolver(t, bad.addr).MX(ctx, "a.example"); ans.Status != Failed {
		t.Errorf("with the bad server alone: %v", ans.Status)
	}
	if n := bad.udp.Load(); n != 1 {
		t.Errorf("bad server was asked %d times", n)
	}
}

// TestForeignAnswers: what does not fit the query is passed over, and what
// fits is found among it.
func TestForeignAnswers(t *testing.T) {
	s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		forged := func(change func(m *mdns.Msg)) {
			m := new(mdns.Msg)
			m.SetReply(q)
			m.Answer = []mdns.RR{rr(t, "a.example. 60 IN MX 1 evil.example.")}
			change(m)
			w.WriteMsg(m)
		}
		forged(func(m *mdns.Msg) { m.Id++ })
		forged(func(m *mdns.Msg) { m.Question[0].Name = "b.example." })
		forged(func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeA })
		forged(func(m *mdns.Msg) { m.Question = nil })
		forged(func(m *mdns.Msg) { m.Response = false })
		forged(func(m *mdns.Msg) { m.Opcode = mdns.OpcodeNotify })
		w.Write([]byte{1, 2, 3})
		forged(func(m *mdns.Msg) {
			m.Answer = []mdns.RR{
				rr(t, "c.example. 60 IN MX 1 evil.example."),
				rr(t, "a.example. 60 CH MX 1 evil.example."),
				rr(t, "A.Example. 60 IN MX 1 good.example."),
			}
		})
	})
	ans := newResolver(t, s.addr).MX(background(t), "a.example")
	if ans.Status != Found || !slices.Equal(ans.Records, []MX{{1, "good.example"}}) {
		t.Errorf("got %v %v, err %v", ans.Status, ans.Records, ans.Err)
	}
}

func TestTooManyForeignAnswers(t *testing.T) {
	s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(q)
		m.Id++
		for range maxStrays + 1 {
			w.WriteMsg(m)
		}
	})
	r, _ := New([]string{s.addr}, 500*time.Millisecond)
	if ans := r.MX(background(t), "a.example"); ans.Status != Failed {
		t.Errorf("got %v", ans.Status)
	}
}

func TestTruncation(t *testing.T) {
	s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(q)
		m.Truncated = !overTCP(w)
		m.Answer = []mdns.RR{rr(t, "a.example. 60 IN MX 1 one.example.")}
		if overTCP(w) {
			for range 100 {
				m.Answer = append(m.Answer, rr(t, "a.example. 60 IN MX 1 more.example."))
			}
		}
		w.WriteMsg(m)
	})
	ans := newResolver(t, s.addr).MX(background(t), "a.example")
	if ans.Status != Found || len(ans.Records) != maxRecords {
		t.Errorf("got %v with %d records, err %v", ans.Status, len(ans.Records), ans.Err)
	}
	if s.udp.Load() != 1 || s.tcp.Load() != 1 {
		t.Errorf("%d datagrams, %d TCP queries", s.udp.Load(), s.tcp.Load())
	}
}

func TestSecure(t *testing.T) {
	answer := zone(t, "a.example. 60 IN MX 1 mx.example.", "a.example. 60 IN A 192.0.2.1")
	s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		opt := q.IsEdns0()
		if !q.AuthenticatedData || opt == nil || !opt.Do() || opt.UDPSize() != payload || !q.RecursionDesired {
			t.Errorf("query does not ask for what it should: %v", q)
		}
		answer(adWriter{w, q.Question[0].Qtype != mdns.TypeAAAA}, q)
	})
	r, ctx := newResolver(t, s.addr), background(t)
	for range 2 { // asked, then remembered
		if !r.MX(ctx, "a.example").Secure {
			t.Error("AD bit is lost")
		}
		if r.Addrs(ctx, "a.example").Secure {
			t.Error("addresses are secure though AAAA was not")
		}
	}
}

// adWriter sets the AD bit on its way.
type adWriter struct {
	mdns.ResponseWriter
	ad bool
}

func (w adWriter) WriteMsg(m *mdns.Msg) error {
	m.AuthenticatedData = w.ad
	return w.ResponseWriter.WriteMsg(m)
}

func TestOneFamilyFails(t *testing.T) {
	answer := zone(t, "a.example. 60 IN A 192.0.2.1", "b.example. 60 IN TXT x")
	s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
		if q.Question[0].Qtype == mdns.TypeAAAA {
			m := new(mdns.Msg)
			m.SetRcode(q, mdns.RcodeServerFailure)
			w.WriteMsg(m)
			return
		}
		answer(w, q)
	})
	r, ctx := newResolver(t, s.addr), background(t)
	if ans := r.Addrs(ctx, "a.example"); ans.Status != Found || len(ans.Records) != 1 {
		t.Errorf("with an A record: %v %v", ans.Status, ans.Records)
	}
	if ans := r.Addrs(ctx, "b.example"); ans.Status != Failed {
		t.Errorf("without an A record: %v", ans.Status)
	}
}

func TestNew(t *testing.T) {
	for _, c := range []struct {
		server, want string // want "": refused
	}{
		{"127.0.0.1:5353", "127.0.0.1:5353"},
		{"127.0.0.1", "127.0.0.1:53"},
		{"::1", "[::1]:53"},
		{"[::1]:5353", "[::1]:5353"},
		{"localhost:53", ""},
		{"127.0.0.1:0", ""},
		{"127.0.0.1:x", ""},
		{"", ""},
	} {
		r, err := New([]string{c.server}, 0)
		switch {
		case c.want == "" && (err == nil || !strings.Contains(err.Error(), "IP address")):
			t.Errorf("%q: got error %v", c.server, err)
		case c.want != "" && (err != nil || r.servers[0] != c.want || r.timeout != defaultTimeout):
			t.Errorf("%q: got %+v, %v", c.server, r, err)
		}
	}
}

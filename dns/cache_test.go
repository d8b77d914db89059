package dns

import (
	"fmt"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
)

func TestCacheHonoursTTL(t *testing.T) {
	soa := func(ttl, minimum int) string {
		return fmt.Sprintf("example. %d IN SOA ns.example. host.example. 1 2 3 4 %d", ttl, minimum)
	}
	for _, c := range []struct {
		name   string
		reply  func(m *mdns.Msg)
		status Status
		ttl    time.Duration // for which it is remembered
	}{
		{"a record", func(m *mdns.Msg) {
			m.Answer = []mdns.RR{rr(t, "a.example. 30 IN MX 1 mx.example.")}
		}, Found, 30 * time.Second},
		{"the shortest of several", func(m *mdns.Msg) {
			m.Answer = []mdns.RR{rr(t, "a.example. 20 IN CNAME b.example."), rr(t, "b.example. 30 IN MX 1 mx.example.")}
		}, Found, 20 * time.Second},
		{"at most five minutes", func(m *mdns.Msg) {
			m.Answer = []mdns.RR{rr(t, "a.example. 86400 IN MX 1 mx.example.")}
		}, Found, maxTTL},
		{"none", func(m *mdns.Msg) {
			m.Answer = []mdns.RR{rr(t, "a.example. 0 IN MX 1 mx.example.")}
		}, Found, 0},
		{"the highest bit", func(m *mdns.Msg) {
			m.Answer = []mdns.RR{rr(t, "a.example. 2147483648 IN MX 1 mx.example.")}
		}, Found, 0},
		{"NXDOMAIN by the minimum", func(m *mdns.Msg) {
			m.Rcode, m.Ns = mdns.RcodeNameError, []mdns.RR{rr(t, soa(60, 10))}
		}, NoDomain, 10 * time.Second},
		{"no data by the SOA's own TTL", func(m *mdns.Msg) {
			m.Ns = []mdns.RR{rr(t, soa(15, 60))}
		}, NoData, 15 * time.Second},
		{"absence without SOA", func(m *mdns.Msg) {}, NoData, 0},
		{"failure", func(m *mdns.Msg) {
			m.Rcode, m.Ns = mdns.RcodeServerFailure, []mdns.RR{rr(t, soa(60, 60))}
		}, Failed, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startServer(t, func(w mdns.ResponseWriter, q *mdns.Msg) {
				m := new(mdns.Msg)
				m.SetReply(q)
				c.reply(m)
				w.WriteMsg(m)
			})
			r, ctx := newResolver(t, s.addr), background(t)
			now := time.Now()
			r.cache.now = func() time.Time { return now }
			ask := func(when string, queries int32) {
				t.Helper()
				if ans := r.MX(ctx, "A.example"); ans.Status != c.status {
					t.Errorf("%s: status %v, want %v (err %v)", when, ans.Status, c.status, ans.Err)
				}
				if got := s.udp.Load(); got != queries {
					t.Errorf("%s: %d queries, want %d", when, got, queries)
				}
			}
			ask("at first", 1)
			if c.ttl == 0 {
				ask("at once again", 2)
				return
			}
			now = now.Add(c.ttl - time.Nanosecond)
			ask("just before the end", 1)
			now = now.Add(time.Nanosecond)
			ask("at the end", 2)
		})
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache(100)
	now := time.Now()
	c.now = func() time.Time { return now }
	key := func(i int) cacheKey { return cacheKey{name: fmt.Sprint(i), qtype: mdns.TypeMX} }
	for i := range 1000 {
		c.put(key(i), result{status: Found, ttl: time.Minute})
		if len(c.entries) > 100 {
			t.Fatalf("%d entries after %d", len(c.entries), i+1)
		}
		if _, ok := c.get(key(i)); !ok {
			t.Fatalf("entry %d is not there", i)
		}
	}
	if len(c.entries) != 100 {
		t.Errorf("%d entries, want the bound used", len(c.entries))
	}
	now = now.Add(time.Hour)
	c.put(key(5000), result{status: Found, ttl: time.Minute})
	if _, ok := c.get(key(5000)); !ok || len(c.entries) > 85 {
		t.Errorf("expired entries stay: %d", len(c.entries))
	}
}

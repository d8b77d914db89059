package trust

import (
	"context"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/trust/arc"
	"mailxmppd/trust/authres"
)

// caseBudget is the DNS time of one message in the table of bad input, and
// caseMemory what one may allocate in all, the DNS server of the test included:
// several times what the most expensive does.
const (
	caseBudget = 5 * time.Second
	caseMemory = 4 << 20
)

// watched is a resolver that tells of lookups whose time is not bounded by the
// budget of their message, and of those that it is asked for after the message
// was done.
type watched struct {
	Resolver
	t     testing.TB
	until time.Time

	mu   sync.Mutex
	done bool
}

// watch makes sure that what evaluate does is within the bounds of a message.
func watch(t testing.TB, r Resolver, evaluate func(Resolver) Evidence) Evidence {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	w := &watched{Resolver: r, t: t}
	ev := evaluate(w)
	runtime.ReadMemStats(&after)
	w.mu.Lock()
	w.done = true
	w.mu.Unlock()
	if n := after.TotalAlloc - before.TotalAlloc; n > caseMemory {
		t.Errorf("%d octets allocated", n)
	}
	return ev
}

// asked notes a lookup. The first one's deadline, which is not past the budget,
// is everyone's.
func (w *watched) asked(ctx context.Context) {
	w.mu.Lock()
	defer w.mu.Unlock()
	until, bounded := ctx.Deadline()
	if w.until.IsZero() {
		w.until = until
	}
	switch {
	case w.done:
		w.t.Error("a lookup after the message was done")
	case !bounded || time.Until(until) > caseBudget:
		w.t.Error("a lookup that the budget does not bound")
	case until.After(w.until):
		w.t.Error("a lookup with more time than the others of its message")
	}
}

func (w *watched) TXT(ctx context.Context, name string) dns.Answer[string] {
	w.asked(ctx)
	return w.Resolver.TXT(ctx, name)
}

func (w *watched) MX(ctx context.Context, domain string) dns.Answer[dns.MX] {
	w.asked(ctx)
	return w.Resolver.MX(ctx, domain)
}

func (w *watched) Family(ctx context.Context, host string, v6 bool) dns.Answer[netip.Addr] {
	w.asked(ctx)
	return w.Resolver.Family(ctx, host, v6)
}

func (w *watched) PTR(ctx context.Context, addr netip.Addr) dns.Answer[string] {
	w.asked(ctx)
	return w.Resolver.PTR(ctx, addr)
}

// TestBigSigned: 25 MB with a signature that is right, sealed by a forwarder, are
// verified as they stream by.
func TestBigSigned(t *testing.T) {
	s := startDNS(t, montague(t)...)
	head, _, _ := strings.Cut(plain, "It is")
	content := sign(t, head+strings.Repeat(strings.Repeat("x ", 38)+"\r\n", 25<<20/78), "montague.example", "s1", keys().rsa)
	set, err := arc.Sealer{Domain: "montague.example", Selector: "s1", Key: keys().rsa, AuthservID: "gw.montague.example"}.
		Seal(strings.NewReader(content), arc.Chain{Result: authres.None}, []authres.Method{{Name: "dkim", Result: authres.Pass}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	in := bySMTP(set+content, "romeo@montague.example")
	ev := watch(t, s.resolver(t), func(r Resolver) Evidence { return New(Config{DNS: r, Budget: caseBudget}).Evaluate(t.Context(), in) })
	if len(ev.DKIM) != 1 || ev.DKIM[0].Result != authres.Pass || ev.ARC.Result != authres.Pass {
		t.Errorf("%s", summary(ev))
	}
}

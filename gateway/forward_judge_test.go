package gateway

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
)

// TestForgedIsNotForwarded: forged mail that a domain would deliver tagged does
// not go on to others in our name, whichever way it came; nobody gets a report
// about it, and an alias that stays here delivers it with its verdict.
func TestForgedIsNotForwarded(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		withSRS(t)(c)
		withAliases(t, standsFor(t, "away@home.example", "b@other.example"), standsFor(t, "in@home.example", "juliet@home.example"))(c)
		c.Judge = trust.NewJudge(trust.JudgeConfig{
			Evaluator: trust.New(trust.Config{Hostname: "gw.home.example", DNS: zone{"_dmarc.friend.example": "v=DMARC1; p=reject"}}),
			Domains:   map[string]trust.DomainPolicy{"home.example": {}},
		})
	})
	const forged = "From: f@friend.example\r\nReceived: x\r\n\r\nx\r\n"
	stranger := mail.Client{Addr: netip.MustParseAddrPort("198.51.100.1:1")}
	if v := w.entrance.Accept(t.Context(), stranger, w.message(forged, "m@evil.example", "away@home.example"), false); v[0].Failure == nil || v[0].Failure.Status() != "5.7.1" {
		t.Errorf("got %+v", v)
	}
	if v := w.entrance.Accept(t.Context(), stranger, w.message(forged, "m@evil.example", "away@home.example", "in@home.example"), false); v[0].Failure != nil {
		t.Errorf("where a mailbox of ours takes it: %v", v[0].Failure)
	}
	until(t, "delivered here", func() bool { return len(w.local.deliveries()) == 1 })
	if got := w.local.deliveries()[0]; !strings.HasPrefix(got.content, "X-Mail-Trust: forged;") || got.rcpts[0] != "juliet@home.example" {
		t.Errorf("%v got %q", got.rcpts, got.content)
	}

	m := w.message(forged, "m@peer.example", "away@home.example")
	m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Received: time.Now()}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("e", 64)}
	b := mail.Binding{Local: "home.example", Remote: "peer.example", Proof: "pkix"}
	if _, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m); f[0] == nil || f[0].Status() != "5.7.1" {
		t.Errorf("over XMPP: %v", f)
	}
	// An address that our SRS has made takes reports from anybody, and nothing
	// forged.
	back, err := w.SRS.Forward(address(t, "a@far.example"))
	if err != nil {
		t.Fatal(err)
	}
	if v := w.entrance.Accept(t.Context(), stranger, w.message(forged, "m@evil.example", back.String()), false); v[0].Failure == nil || v[0].Failure.Status() != "5.7.1" {
		t.Errorf("the way back: got %+v", v)
	}
	// A mail server beside us has one answer for all: such an address goes alone.
	beside := &Entrance{Gateway: w.Gateway, Beside: true}
	for _, pair := range [][2]string{{"away@home.example", "juliet@home.example"}, {"juliet@home.example", "away@home.example"}} {
		env := mail.Envelope{Sender: address(t, "m@evil.example"), Recipients: []mail.Recipient{{Address: address(t, pair[0])}}}
		if f := beside.Recipient(t.Context(), stranger, env, mail.Recipient{Address: address(t, pair[1])}); f == nil || f.Status() != "4.5.3" {
			t.Errorf("beside us, %v: %v", pair, f)
		}
	}
	if n := len(w.legacy.deliveries()); n != 0 {
		t.Errorf("%d messages went out", n)
	}
}

// TestNamesOfOursAreNotLent: what strangers write under a name of ours does not go
// on to others, to whom we would prove it; what somebody of ours has written does,
// and so does other mail.
func TestNamesOfOursAreNotLent(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		withSRS(t)(c)
		withAliases(t, standsFor(t, "away@home.example", "b@other.example"), standsFor(t, "far@home.example", "b@peer.example"))(c)
		c.Judge = trust.NewJudge(trust.JudgeConfig{
			Evaluator: trust.New(trust.Config{Hostname: "gw.home.example", DNS: zone{
				"home.example": "v=spf1 ip4:198.51.100.7 -all", "friend.example": "v=spf1 ip4:198.51.100.1 -all", "second.example": "down"}}),
			Domains: map[string]trust.DomainPolicy{"home.example": {}, "second.example": {}},
		})
	})
	stranger := mail.Client{Addr: netip.MustParseAddrPort("198.51.100.1:1")}
	const lent = "not-permitted: 5.7.1 nothing proves that this is from "
	for _, c := range []struct {
		name, content, from, to string
		client                  mail.Client
		want                    string // the refusal
	}{
		{"both", by("romeo@home.example"), "romeo@home.example", "away@home.example", stranger, lent + "home.example"},
		{"to a peer", by("romeo@home.example"), "romeo@home.example", "far@home.example", stranger, lent + "home.example"},
		{"the author", by("romeo@home.example"), "f@friend.example", "away@home.example", stranger, lent + "home.example"},
		{"one of two authors", by("f@friend.example>, <romeo@second.example"), "f@friend.example", "away@home.example", stranger, lent + "second.example"},
		{"without a reverse-path", by("romeo@home.example"), "", "away@home.example", stranger, lent + "home.example"},
		{"the reverse-path", by("f@friend.example"), "romeo@second.example", "away@home.example", stranger, "refused-for-now: 4.7.0 it cannot be told now"},
		{"to a mailbox here", by("romeo@home.example"), "romeo@home.example", "juliet@home.example", stranger, ""},
		{"others' mail", by("f@friend.example"), "f@friend.example", "away@home.example", stranger, ""},
		{"from a host of ours", by("romeo@home.example"), "romeo@home.example", "away@home.example", mail.Client{Addr: netip.MustParseAddrPort("198.51.100.7:1")}, ""},
		{"of a neighbour", by("romeo@home.example"), "romeo@home.example", "away@home.example", mail.Client{}, ""},
	} {
		entrance := *w.entrance
		entrance.Local = c.client == mail.Client{}
		got := ""
		if f := entrance.Accept(t.Context(), c.client, w.message(c.content, c.from, c.to), false)[0].Failure; f != nil {
			got = f.Error()
		}
		if c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	m := w.message(by("romeo@home.example"), "m@peer.example", "away@home.example")
	m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Received: time.Now()}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("e", 64)}
	b := mail.Binding{Local: "home.example", Remote: "peer.example", Proof: "pkix"}
	if _, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m); f[0] == nil || f[0].Status() != "5.7.1" {
		t.Errorf("over XMPP: %v", f)
	}
}

// countedZone counts the questions that reach a zone.
type countedZone struct {
	zone
	mu sync.Mutex
	n  map[string]int
}

func (a *countedZone) TXT(ctx context.Context, name string) dns.Answer[string] {
	a.mu.Lock()
	a.n[name]++
	a.mu.Unlock()
	return a.zone.TXT(ctx, name)
}

// TestForwardedIsLookedAtOnce: what a message is judged by and what it goes on
// with are one look at it, by SMTP and from a peer.
func TestForwardedIsLookedAtOnce(t *testing.T) {
	names := &countedZone{zone: zone{"_dmarc.friend.example": "v=DMARC1; p=none"}, n: map[string]int{}}
	w := newWorld(t, func(c *Config) {
		withAliases(t, standsFor(t, "away@home.example", "b@other.example"))(c)
		j := trust.NewJudge(trust.JudgeConfig{
			Evaluator: trust.New(trust.Config{Hostname: "gw.home.example", DNS: names}),
			Domains:   map[string]trust.DomainPolicy{"home.example": {}},
		})
		c.Judge, c.Voucher = j, j
	})
	for n, accept := range []func(m *mail.Message) *mail.Failure{
		func(m *mail.Message) *mail.Failure {
			return w.entrance.Accept(t.Context(), mail.Client{Addr: netip.MustParseAddrPort("198.51.100.1:1")}, m, false)[0].Failure
		},
		func(m *mail.Message) *mail.Failure {
			m.Origin = mail.Origin{Transport: "xmpp", Peer: "friend.example", Received: time.Now()}
			k := store.TransferKey{Domain: "friend.example", Local: "home.example", ID: strings.Repeat("f", 64)}
			b := mail.Binding{Local: "home.example", Remote: "other.example", Proof: "pkix"}
			_, f := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m)
			return f[0]
		},
	} {
		if f := accept(w.message(by("f@friend.example"), "f@friend.example", "away@home.example")); f != nil {
			t.Fatal(f)
		}
		until(t, "forwarded", func() bool { return len(w.legacy.deliveries()) == n+1 })
		if got := w.legacy.deliveries()[n].content; strings.Count(got, "Authentication-Results: gw.home.example;") != 1 || !strings.Contains(got, "dmarc=fail") {
			t.Errorf("goes on as\n%s", got)
		}
		names.mu.Lock()
		if got := names.n["_dmarc.friend.example"]; got != n+1 {
			t.Errorf("message %d: its policy was asked for %d times in all", n, got)
		}
		names.mu.Unlock()
	}
}

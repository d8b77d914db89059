package trust

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"mailxmppd/mail"
	"mailxmppd/trust/author"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
)

// announced are the domains that send over XMPP only.
type announced map[string]error

func (a announced) SendsOnlyXMPP(_ context.Context, domain string) (bool, error) {
	err, there := a[domain]
	return there && err == nil, err
}

func summary(ev Evidence) string {
	var out []string
	for _, m := range ev.Methods() {
		out = append(out, m.Name+"="+string(m.Result))
	}
	return strings.Join(out, " ")
}

// TestWays: each way of coming has its own evidence.
func TestWays(t *testing.T) {
	s := startDNS(t, montague(t)...)
	s.add(t, txt("verona.example", "v=spf1 ip4:192.0.2.1 -all"))
	e := New(Config{DNS: s.resolver(t), Hostname: "gw.capulet.example", Forwarders: []string{"verona.example"},
		Secondaries: []Secondary{{Networks: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, AuthservID: "mx2.capulet.example"}}})
	signed := sign(t, plain, "montague.example", "s1", keys().rsa)
	xmpp := func(bound, from, message string) Input {
		return Input{Arrival: ByXMPP, Binding: mail.Binding{Remote: bound, Proof: "pkix"}, Sender: sender(from), Content: mail.Bytes(message)}
	}
	secondary := bySMTP("Received: from mx.montague.example by mx2.capulet.example; now\r\n"+
		"Authentication-Results: mx2.capulet.example; spf=pass smtp.mailfrom=montague.example\r\n"+
		"Authentication-Results: MX2.capulet.example; dkim=none\r\n"+
		"Authentication-Results: elsewhere.example; auth=pass\r\n"+
		"Authentication-Results: mx2.capulet.example; auth=pass\r\n"+plain, "romeo@montague.example")
	secondary.Client = netip.MustParseAddr("198.51.100.7")
	named := bySMTP(plain, "romeo@montague.example")
	named.ClientName = "mail.montague.example"
	withTrace := bySMTP(plain, "romeo@montague.example")
	withTrace.Trace = []byte(strings.TrimSuffix(signed, plain))

	for _, c := range []struct {
		name    string
		in      Input
		methods string
		proven  string // by what; "" if not
		forged  bool
		check   func(Evidence) bool
	}{
		{"not judged", Input{Content: mail.Bytes(plain)}, "", "", false, func(ev Evidence) bool { return !ev.Judged }},
		{"a user of ours", Input{Arrival: BySubmission, User: "juliet", Sender: sender("juliet@capulet.example"), Content: mail.Bytes("From: juliet@capulet.example\r\n\r\n")},
			"auth=pass dkim=none dmarc=none arc=none", "", false, func(ev Evidence) bool { return ev.Auth.User == "juliet" }},
		{"a peer, its own mail", xmpp("montague.example", "romeo@montague.example", plain), "x-xmpp=pass dkim=none arc=none", "xmpp", false,
			func(ev Evidence) bool {
				return ev.Relation == Relation{SameDomain, SameDomain, SameDomain} && ev.Binding.Proof == "pkix"
			}},
		{"a peer, another's mail", xmpp("verona.example", "list@verona.example", plain), "x-xmpp=pass dkim=none dmarc=fail arc=none x-relation=neutral", "", true,
			func(ev Evidence) bool {
				return ev.Relation == Relation{Different, SameDomain, Different} && ev.Carrier.Trusted == "verona.example"
			}},
		{"a peer, another's signed mail", xmpp("verona.example", "list@verona.example", signed), "x-xmpp=pass dkim=pass dmarc=pass arc=none x-relation=neutral", "dkim", false, nil},
		{"a peer of a child domain", xmpp("sub.montague.example", "x@sub.montague.example", plain), "x-xmpp=pass dkim=none dmarc=fail arc=none x-relation=pass", "", true,
			func(ev Evidence) bool { return ev.Relation.BoundToFrom == SameOrganization }},
		{"SMTP", bySMTP(plain, "romeo@montague.example"), "iprev=pass spf=pass spf=pass dkim=none dmarc=pass arc=none", "spf", false, nil},
		{"SMTP by a forwarder", bySMTP(signed, "list@verona.example"), "iprev=pass spf=pass spf=pass dkim=pass dmarc=pass arc=none x-relation=neutral", "dkim", false,
			func(ev Evidence) bool { return ev.Carrier.Trusted == "verona.example" }},
		{"SMTP, forged", bySMTP(plain, "x@evil.example"), "iprev=pass spf=none spf=pass dkim=none dmarc=fail arc=none x-relation=neutral", "", true, nil},
		{"SMTP, a bounce", bySMTP(plain, ""), "iprev=pass spf=pass spf=pass dkim=none dmarc=pass arc=none", "spf", false,
			func(ev Evidence) bool { return ev.Relation.SenderToFrom == NotThere }},
		{"a neighbour that tells the name", named, "iprev=pass spf=pass spf=pass dkim=none dmarc=pass arc=none", "spf", false,
			func(ev Evidence) bool { return ev.IPRev.Name == "mail.montague.example" }},
		{"a signature in the trace", withTrace, "iprev=pass spf=pass spf=pass dkim=pass dmarc=pass arc=none", "dkim", false, nil},
		{"a secondary", secondary, "dkim=none dmarc=fail arc=none", "", true,
			func(ev Evidence) bool {
				return ev.Carrier.Secondary && len(ev.Carrier.Results) == 2 && ev.Carrier.Results[0].Name == "spf" && ev.Carrier.Results[1].Name == "dkim"
			}},
		{"two From fields", bySMTP("From: x@verona.example\r\n"+signed, "romeo@montague.example"),
			"iprev=pass spf=pass spf=pass dkim=pass dmarc=none dmarc=pass arc=none x-relation=neutral x-from=policy", "", false,
			func(ev Evidence) bool { return ev.From.Has(author.SeveralFields) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			ev := e.Evaluate(t.Context(), c.in)
			if got := summary(ev); got != c.methods {
				t.Errorf("methods %s\nwant    %s", got, c.methods)
			}
			if by, _ := ev.Proven(); by != c.proven {
				t.Errorf("proven by %q, want %q", by, c.proven)
			}
			if why, forged := ev.Disproven(); forged != c.forged || forged != (why != "") {
				t.Errorf("disproven %v: %q", forged, why)
			}
			if c.check != nil && !c.check(ev) {
				t.Errorf("%+v", ev)
			}
		})
	}
}

// TestRelation: how the domains are related can be read where they are not the
// same.
func TestRelation(t *testing.T) {
	for _, c := range []struct {
		r    Relation
		want string
	}{
		{Relation{NotThere, NotThere, NotThere}, ""},
		{Relation{SameDomain, SameDomain, SameDomain}, ""},
		{Relation{SameOrganization, NotThere, NotThere}, "x-relation=pass policy.sender-from=organization"},
		{Relation{Different, NotThere, NotThere}, "x-relation=neutral policy.sender-from=different"},
		{Relation{Different, SameDomain, SameOrganization}, "x-relation=neutral policy.sender-from=different policy.bound-from=organization"},
		{Relation{SameOrganization, Different, Different}, "x-relation=neutral policy.sender-from=organization policy.bound-sender=different policy.bound-from=different"},
	} {
		field := New(Config{Hostname: "gw"}).AuthenticationResults(Evidence{Judged: true, Relation: c.r})
		_, got, _ := strings.Cut(strings.Join(strings.Fields(field), " "), "dkim=none")
		if got = strings.TrimPrefix(got, "; "); got != c.want {
			t.Errorf("%+v: %q, want %q", c.r, got, c.want)
		}
	}
}

// TestUnsureForwarder: a trusted forwarder that DNS does not tell of now does not
// make forged what it has handed on.
func TestUnsureForwarder(t *testing.T) {
	s := startDNS(t, append(montague(t), "verona.example SERVFAIL")...)
	ev := New(Config{DNS: s.resolver(t), Hostname: "gw.capulet.example", Forwarders: []string{"verona.example"}}).
		Evaluate(t.Context(), bySMTP(plain, "list@verona.example"))
	if r := Rule(&ev, Terms{}); r.Verdict != Unproven || ev.DMARC[0].Result != authres.Fail {
		t.Errorf("%s; %s", r, summary(ev))
	}
	ev = New(Config{DNS: s.resolver(t), Hostname: "gw.capulet.example"}).Evaluate(t.Context(), bySMTP(plain, "list@verona.example"))
	if r := Rule(&ev, Terms{}); r.Verdict != Forged {
		t.Errorf("%s; %s", r, summary(ev))
	}
	if r := Rule(&ev, Terms{Forwarders: []string{"verona.example"}}); r.Verdict != Unproven {
		t.Errorf("the recipient's own: %s", r)
	}
}

// TestShownSignature: of a signature its key's size and its end can be read.
func TestShownSignature(t *testing.T) {
	s := &dkim.Signature{Result: authres.Pass, Domain: "montague.example", KeyBits: 2048}
	for want, expires := range map[string]time.Time{
		"dkim=pass (2048-bit key) header.d":                     {},
		"dkim=pass (2048-bit key, expires 2026-12-01) header.d": time.Date(2026, 12, 1, 3, 0, 0, 0, time.UTC),
	} {
		s.Expires = expires
		field := New(Config{Hostname: "gw"}).AuthenticationResults(Evidence{Judged: true, DKIM: []*dkim.Signature{s}})
		if got := strings.Join(strings.Fields(field), " "); !strings.Contains(got, want) {
			t.Errorf("%q has no %q", got, want)
		}
	}
}

func TestIPRev(t *testing.T) {
	s := startDNS(t, montague(t)...)
	s.add(t, "2.2.0.192.in-addr.arpa. 60 IN PTR mx.montague.example.", "3.2.0.192.in-addr.arpa. 60 IN PTR nowhere.example.",
		"4.2.0.192.in-addr.arpa SERVFAIL", "5.2.0.192.in-addr.arpa. 60 IN PTR broken.example.", "broken.example SERVFAIL",
		"6.2.0.192.in-addr.arpa. 60 IN PTR nowhere.example.", "6.2.0.192.in-addr.arpa. 60 IN PTR six.example.", "six.example. 60 IN A 192.0.2.6")
	for i := range 20 {
		s.add(t, fmt.Sprintf("7.2.0.192.in-addr.arpa. 60 IN PTR n%d.example.", i))
	}
	e := New(Config{DNS: s.resolver(t)})
	for client, want := range map[string]IPRev{
		"192.0.2.1":        {Result: authres.Pass, Name: "mx.montague.example"},
		"::ffff:192.0.2.1": {Result: authres.Pass, Name: "mx.montague.example"},
		"192.0.2.2":        {Result: authres.Fail},
		"192.0.2.3":        {Result: authres.Fail},
		"192.0.2.4":        {Result: authres.TempError},
		"192.0.2.5":        {Result: authres.TempError},
		"192.0.2.6":        {Result: authres.Pass, Name: "six.example"},
		"192.0.2.7":        {Result: authres.Fail},
		"192.0.2.9":        {Result: authres.PermError},
	} {
		before := s.queries.Load()
		got := e.iprev(t.Context(), netip.MustParseAddr(client).Unmap(), "")
		if got.Result != want.Result || got.Name != want.Name || got.Result != authres.Pass && got.Reason == "" {
			t.Errorf("%s: %+v", client, got)
		}
		if n := s.queries.Load() - before; n > 1+maxNames+2 {
			t.Errorf("%s: %d queries", client, n)
		}
	}
	if got := e.iprev(t.Context(), netip.Addr{}, ""); got.Result != "" {
		t.Errorf("no address: %+v", got)
	}
}

// TestTestingKey: what a domain only tries out proves nothing (RFC 6376 section
// 3.6.1).
func TestTestingKey(t *testing.T) {
	s := startDNS(t, montague(t)...)
	s.add(t, txt("try._domainkey.montague.example", strings.Replace(keyRecord(t, keys().rsa), "k=rsa", "k=rsa; t=y", 1)))
	e := New(Config{DNS: s.resolver(t), Peers: announced{"montague.example": nil}})
	ev := e.Evaluate(t.Context(), bySMTP(sign(t, plain, "montague.example", "try", keys().rsa), "x@evil.example"))
	if ev.DKIM[0].Result != authres.Pass || !ev.DKIM[0].Testing || ev.DMARC[0].Result != authres.Fail || ev.Sends.Result != authres.Fail {
		t.Errorf("%s", summary(ev))
	}
}

// TestSends: who sends over XMPP only is not sent from by SMTP.
func TestSends(t *testing.T) {
	s := startDNS(t, montague(t)...)
	down := errors.New("store is down")
	e := New(Config{DNS: s.resolver(t), Peers: announced{"montague.example": nil, "unknown.example": down}})
	signed := sign(t, plain, "montague.example", "s1", keys().rsa)
	broken := strings.Replace(signed, "east", "west", 1)
	other := strings.ReplaceAll(plain, "montague", "verona")
	xmpp := Input{Arrival: ByXMPP, Binding: mail.Binding{Remote: "verona.example"}, Sender: sender("x@verona.example"), Content: mail.Bytes(plain)}
	nobody := strings.Replace(signed, "From: Romeo <romeo@montague.example>\r\n", "", 1)
	for _, c := range []struct {
		name   string
		in     Input
		want   authres.Result
		domain string
	}{
		{"author, unsigned, though SPF passes", bySMTP(plain, "romeo@montague.example"), authres.Fail, "montague.example"},
		{"author, signed", bySMTP(signed, "list@verona.example"), authres.Pass, "montague.example"},
		{"author, signature broken", bySMTP(broken, "list@verona.example"), authres.Fail, "montague.example"},
		{"reverse-path alone", bySMTP(other, "romeo@montague.example"), authres.Fail, "montague.example"},
		{"reverse-path, From gone", bySMTP(nobody, "romeo@montague.example"), authres.Fail, "montague.example"},
		{"others", bySMTP(other, "list@verona.example"), authres.None, ""},
		{"another peer's stream", xmpp, "", ""},
		{"cannot be told", bySMTP(strings.ReplaceAll(plain, "montague", "unknown"), "list@verona.example"), authres.TempError, "unknown.example"},
	} {
		if ev := e.Evaluate(t.Context(), c.in); ev.Sends.Result != c.want || ev.Sends.Domain != c.domain {
			t.Errorf("%s: %+v", c.name, ev.Sends)
		}
	}
	s.add(t, "s1._domainkey.montague.example SERVFAIL")
	e = New(Config{DNS: s.resolver(t), Peers: announced{"montague.example": nil}})
	if ev := e.Evaluate(t.Context(), bySMTP(signed, "list@verona.example")); ev.Sends.Result != authres.TempError {
		t.Errorf("key not to be had: %+v", ev.Sends)
	}
}

// brokenContent ends with an error.
type brokenContent struct {
	head string
	err  error
}

func (b brokenContent) Size() int64 { return 1000 }
func (b brokenContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(b.head), iotest.ErrReader(b.err))), nil
}

// TestContentFails: a store that fails is no failure of the sender's, and
// leaves nothing running.
func TestContentFails(t *testing.T) {
	s := startDNS(t, montague(t)...)
	e := New(Config{DNS: s.resolver(t)})
	two := sign(t, sign(t, plain, "montague.example", "s1", keys().rsa), "montague.example", "s2", keys().ed25519)
	for _, head := range []string{"", two[:100], strings.TrimSuffix(two, "the east.\r\n")} {
		in := bySMTP("", "romeo@montague.example")
		in.Content = brokenContent{head, errors.New("disk")}
		ev := e.Evaluate(t.Context(), in)
		if ev.Header == nil || len(ev.DKIM) > 0 || !strings.Contains(summary(ev), "dkim=temperror") || ev.MailFrom.Result != authres.Pass {
			t.Errorf("after %d octets: %s, %v", len(head), summary(ev), ev.Header)
		}
	}
}

// bigContent is a message of any size that is nowhere whole.
type bigContent struct {
	head string
	size int64
	line string
}

func (b bigContent) Size() int64 { return int64(len(b.head)) + b.size }
func (b bigContent) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(strings.NewReader(b.head), io.LimitReader(&repeat{b.line, 0}, b.size))), nil
}

type repeat struct {
	line string
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		c := copy(p[n:], r.line[r.at:])
		n, r.at = n+c, (r.at+c)%len(r.line)
	}
	return n, nil
}

// TestBigMessages: 25 MB go through ten signatures of both forms without being
// held, empty lines too.
func TestBigMessages(t *testing.T) {
	s := startDNS(t, montague(t)...)
	e := New(Config{DNS: s.resolver(t)})
	head := ""
	for i := range 10 {
		form := []string{"simple", "relaxed"}[i%2]
		head += "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/" + form + "; d=montague.example; s=s1; h=from;\r\n bh=AAAA; b=AAAA\r\n"
	}
	head, _, _ = strings.Cut(head+plain, "It is")
	for name, line := range map[string]string{"text": strings.Repeat("x ", 38) + "\r\n", "empty lines": "\r\n"} {
		in := bySMTP("", "romeo@montague.example")
		in.Content = bigContent{head, 25 << 20, line}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		ev := e.Evaluate(t.Context(), in)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
			t.Errorf("%s: %d octets allocated", name, n)
		}
		if len(ev.DKIM) != 10 || ev.DKIM[9].Reason != "the body is not what was signed" {
			t.Errorf("%s: %s", name, summary(ev))
		}
	}
}

// TestBudget: one budget holds for all lookups of a message, and the caller's
// context ends them sooner.
func TestBudget(t *testing.T) {
	s := startDNS(t, ". SILENT")
	e := New(Config{DNS: s.resolver(t), Budget: 300 * time.Millisecond})
	in := bySMTP(sign(t, plain, "montague.example", "s1", keys().rsa), "romeo@montague.example")
	const want = "iprev=temperror spf=temperror spf=temperror dkim=temperror dmarc=temperror arc=none"
	// The resolver would go on for much longer than the budget allows: if it
	// did, the test's own deadline would strike.
	if got := summary(e.Evaluate(t.Context(), in)); got != want {
		t.Error(got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := summary(e.Evaluate(ctx, in)); got != want {
		t.Error(got)
	}
}

// TestPeerNeedsNoDNS: a peer's own mail without signatures is proven whether DNS
// answers or not, and asks it nothing.
func TestPeerNeedsNoDNS(t *testing.T) {
	s := startDNS(t, "_dmarc.verona.example SERVFAIL")
	e := New(Config{DNS: s.resolver(t), Hostname: "gw.capulet.example"})
	in := Input{Arrival: ByXMPP, Binding: mail.Binding{Remote: "verona.example"}, Sender: sender("x@verona.example"),
		Content: mail.Bytes("From: x@verona.example\r\n\r\nbody\r\n")}
	ev := e.Evaluate(t.Context(), in)
	if by, ok := ev.Proven(); !ok || by != "xmpp" || s.queries.Load() != 0 {
		t.Errorf("proven by %q, %v, with %d questions", by, ok, s.queries.Load())
	}
	in.Content = mail.Bytes("From: x@verona.example, y@mantua.example\r\n\r\nbody\r\n")
	if ev := e.Evaluate(t.Context(), in); len(ev.DMARC) != 2 || s.queries.Load() == 0 {
		t.Errorf("with %d questions: %+v", s.queries.Load(), ev.DMARC)
	} else if _, ok := ev.Proven(); ok {
		t.Error("the second author is proven by nothing")
	}
}

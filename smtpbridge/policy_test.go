package smtpbridge

import (
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

// policyHost is one MX host, mx.dest.example, at a loopback address.
type policyHost struct {
	*hopScript
	port int
	book *ReportBook
}

func startPolicyHost(t *testing.T, cert *tls.Config) policyHost {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	offers := []string{"PIPELINING"}
	if cert != nil {
		offers = append(offers, "STARTTLS")
	}
	s := startScriptOn(t, ln, offers, script(nil)).withTLS(cert)
	return policyHost{s, ln.Addr().(*net.TCPAddr).Port, NewReportBook()}
}

func (h policyHost) dns() fakeDNS {
	return fakeDNS{
		mx: map[string][]dns.MX{"dest.example": {{Host: "mx.dest.example"}}}, addrs: map[string][]string{"mx.dest.example": {"127.0.0.1"}},
		tlsa: map[string][]dns.TLSA{}, txt: map[string][]string{}, failing: map[string]bool{}, unsigned: map[string]bool{},
	}
}

// reported writes the results of all sessions briefly.
func (h policyHost) reported() string {
	var out []string
	for _, d := range h.book.Take(time.Time{}) {
		for _, p := range d.Policies {
			if p.Successes > 0 {
				out = append(out, fmt.Sprintf("%s %s ok", d.Domain, p.Type))
			}
			for _, f := range p.Details {
				out = append(out, fmt.Sprintf("%s %s %s", d.Domain, p.Type, f.Result))
			}
		}
	}
	return strings.Join(out, ", ")
}

// TestPolicies: what becomes of a message, under which proof, and what is
// reported of it, for each policy and each kind of host.
func TestPolicies(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	certs := map[string]*tls.Config{
		"plain":      nil,
		"good":       ca.issue(t, "mx.dest.example"),
		"wrong name": ca.issue(t, "a.example", "b.example"),
		"expired":    ca.issueUntil(t, time.Now().Add(-24*time.Hour), "mx.dest.example"),
		"unknown CA": other.issue(t, "mx.dest.example"),
	}
	const (
		noPolicy, ee, ta, wrongTLSA, unusable, bogus = "no policy", "EE", "TA", "wrong TLSA", "unusable TLSA", "bogus TLSA"
		enforce, tested, alienEnforce, alienTesting  = "enforce", "testing", "another host enforced", "another host tested"
		both                                         = "EE and another host enforced"
	)
	for _, c := range []struct {
		policy, host string
		want         string
		tls          bool
		proof        string
		reported     string
		text         string // in the failure's
	}{
		{noPolicy, "plain", "delivered", false, "", "no-policy-found starttls-not-supported", ""},
		{noPolicy, "unknown CA", "delivered", true, "", "no-policy-found ok", ""},
		{ee, "good", "delivered", true, "dane", "tlsa ok", ""},
		{ee, "unknown CA", "delivered", true, "dane", "tlsa ok", ""},
		{ee, "plain", "451 4.7.4", false, "", "tlsa starttls-not-supported", "does not offer TLS"},
		{ta, "good", "delivered", true, "dane", "tlsa ok", ""},
		{ta, "wrong name", "451 4.7.5", false, "", "tlsa certificate-host-mismatch", "is not for dest.example but for a.example, b.example"},
		{ta, "expired", "451 4.7.5", false, "", "tlsa certificate-expired", "its times are "},
		{ta, "unknown CA", "451 4.7.5", false, "", "tlsa validation-failure", "certificate of mx.dest.example matches none of its TLSA records"},
		{wrongTLSA, "good", "451 4.7.5", false, "", "tlsa validation-failure", "certificate of mx.dest.example matches none of its TLSA records"},
		{unusable, "unknown CA", "delivered", true, "", "tlsa tlsa-invalid", ""},
		{unusable, "plain", "451 4.7.4", false, "", "tlsa starttls-not-supported", ""},
		{bogus, "good", "451 4.7.5", false, "", "tlsa dnssec-invalid", "DNS does not tell the TLSA records"},
		{enforce, "good", "delivered", true, "mta-sts", "sts ok", ""},
		{enforce, "plain", "451 4.7.4", false, "", "sts starttls-not-supported", ""},
		{enforce, "wrong name", "451 4.7.5", false, "", "sts certificate-host-mismatch", "certificate of mx.dest.example is not for mx.dest.example but for a.example, b.example"},
		{enforce, "expired", "451 4.7.5", false, "", "sts certificate-expired", "is not valid: its times are"},
		{enforce, "unknown CA", "451 4.7.5", false, "", "sts certificate-not-trusted", "unknown authority"},
		{alienEnforce, "good", "451 4.7.5", false, "", "sts validation-failure", "mx.dest.example is not in the MTA-STS policy of dest.example"},
		{tested, "good", "delivered", true, "", "sts ok", ""},
		{tested, "plain", "delivered", false, "", "sts starttls-not-supported", ""},
		{tested, "wrong name", "delivered", true, "", "sts certificate-host-mismatch", ""},
		{tested, "unknown CA", "delivered", true, "", "sts certificate-not-trusted", ""},
		{alienTesting, "good", "delivered", true, "", "sts validation-failure", ""},
		{both, "good", "delivered", true, "dane", "tlsa ok", ""},
	} {
		for _, waived := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%s/waived=%v", c.policy, c.host, waived), func(t *testing.T) {
				h := startPolicyHost(t, certs[c.host])
				d := h.dns()
				name := fmt.Sprintf("_%d._tcp.mx.dest.example", h.port)
				leaf := certs["good"]
				if certs[c.host] != nil {
					leaf = certs[c.host]
				}
				switch c.policy {
				case ee, both:
					d.tlsa[name] = []dns.TLSA{tlsa(3, 1, 1, leafOf(leaf))}
				case ta:
					d.tlsa[name] = []dns.TLSA{tlsa(2, 0, 1, ca.cert)}
				case wrongTLSA:
					d.tlsa[name] = []dns.TLSA{tlsa(3, 1, 1, other.cert)}
				case unusable:
					d.tlsa[name] = []dns.TLSA{tlsa(1, 1, 1, leafOf(leaf))}
				case bogus:
					d.failing["TLSA "+name] = true
				}
				files := map[string]string{
					enforce: "mode: enforce\nmx: mx.dest.example\n", tested: "mode: testing\nmx: *.dest.example\n",
					alienEnforce: "mode: enforce\nmx: *.mx.dest.example\n", alienTesting: "mode: testing\nmx: other.example\n",
				}
				files[both] = files[alienEnforce]
				dial := noPolicyHost
				if file := files[c.policy]; file != "" {
					d.txt["_mta-sts.dest.example"] = []string{"v=STSv1; id=1"}
					dial = startPolicyFile(t, ca.issue(t, "mta-sts.dest.example"), "version: STSv1\nmax_age: 600\n"+file).dial
				}
				client := newTestClient(t, func(cfg *ClientConfig) {
					cfg.DNS, cfg.MXPort, cfg.Roots, cfg.Validating, cfg.MTASTS, cfg.Reports, cfg.PolicyDial = d, h.port, ca.pool, true, true, h.book, dial
				})
				content := sample
				if waived {
					content = "TLS-Required: No\r\n" + sample
				}
				got := client.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP}, attemptOf(t, content, "a@dest.example"))[0]
				want, proof := c.want, c.proof
				if waived { // RFC 8689 section 5: as if there were no policy
					want, proof = "delivered", ""
				}
				if v := verdictOf(got.Failure); v != want || got.Proof != proof {
					t.Fatalf("%q by %q, want %q by %q: %v", v, got.Proof, want, proof, got.Failure)
				}
				messages, _ := h.gotInTheEnd(t, client)
				if (len(messages) == 1) != (want == "delivered") {
					t.Errorf("%d messages", len(messages))
				}
				if waived {
					return
				}
				if (got.TLS != "") != c.tls {
					t.Errorf("TLS %q", got.TLS)
				}
				if r := h.reported(); r != "dest.example "+c.reported {
					t.Errorf("reported %q, want %q", r, c.reported)
				}
				if c.text != "" && !strings.Contains(got.Failure.Text, c.text) {
					t.Errorf("text %q", got.Failure.Text)
				}
			})
		}
	}
}

// TestNeverPlain: under a policy, whatever is done to STARTTLS does not lead to
// a message in plain text; without one it does.
func TestNeverPlain(t *testing.T) {
	cert := newTestCA(t).issue(t, "mx.dest.example")
	for name, answer := range map[string]string{
		"offer stripped":           "",
		"refused":                  "454 4.7.0 not now",
		"refused for good":         "502 5.5.1 unknown",
		"no handshake":             "220 go" + thenHangUp,
		"words after the go-ahead": "220 go\r\n250 injected",
		"go-ahead without TLS":     "220 go",
	} {
		for _, policy := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/policy=%v", name, policy), func(t *testing.T) {
				h := startPolicyHost(t, nil)
				h.mu.Lock()
				if answer != "" {
					h.offers = append(h.offers, "STARTTLS")
				}
				h.answer = script(map[string]string{"starttls": answer})
				h.mu.Unlock()
				d := h.dns()
				if policy {
					d.tlsa[fmt.Sprintf("_%d._tcp.mx.dest.example", h.port)] = []dns.TLSA{tlsa(3, 1, 1, leafOf(cert))}
				}
				client := newTestClient(t, func(cfg *ClientConfig) {
					cfg.DNS, cfg.MXPort, cfg.Validating = d, h.port, true
					cfg.Timeouts.Connect = 5 * time.Second
				})
				got := client.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP}, attemptOf(t, sample, "a@dest.example"))
				messages, commands := h.gotInTheEnd(t, client)
				talked := slices.ContainsFunc(commands, func(s string) bool { return strings.HasPrefix(s, "MAIL") })
				if v := verdictsOf(got); (v[0] == "delivered") == policy || (len(messages) > 0) == policy || talked == policy {
					t.Errorf("%q, %d messages after %q", v, len(messages), commands)
				}
			})
		}
	}
}

// TestFindWaiver: RFC 8689 section 5.
func TestFindWaiver(t *testing.T) {
	for in, want := range map[string]bool{
		"TLS-Required: No\r\n\r\n":                                 true,
		"a: b\r\ntls-required:no\r\n\r\nbody\r\n":                  true,
		"TLS-Required:\r\n NO \r\n\r\n":                            true,
		"TLS-Required : No":                                        true,
		"TLS-Required: No\r\nb: c\r\n\r\n":                         true,
		"a: b\r\n\r\nTLS-Required: No\r\n":                         false,
		"TLS-Required: Yes\r\n\r\n":                                false,
		"TLS-Required: No thanks\r\n\r\n":                          false,
		"TLS-Required: No\r\n  thanks\r\n\r\n":                     false,
		"X-TLS-Required: No\r\n\r\n":                               false,
		"a: b\r\n TLS-Required: No\r\n\r\n":                        false,
		"TLS-Required: No" + strings.Repeat(" ", 400) + "x\r\n":    false,
		"a: " + strings.Repeat("x", 9000) + "\r\nTLS-Required: No": true,
		"":                             false,
		"\r\nTLS-Required: No\r\n":     false,
		"no colon\r\nTLS-Required: No": true,
		strings.Repeat("y", 3*(4<<10)): false,
	} {
		if got := findWaiver(strings.NewReader(in)); got != want {
			t.Errorf("%.60q: %v", in, got)
		}
	}
	a := attemptOf(t, "TLS-Required: No\r\n\r\n", "a@dest.example")
	if !waivesTLS(a) {
		t.Error("not seen in the content")
	}
	if a.Envelope.RequireTLS = true; waivesTLS(a) {
		t.Error("goes before REQUIRETLS")
	}
}

func FuzzFindWaiver(f *testing.F) {
	f.Add("TLS-Required: No\r\n\r\n")
	f.Add("a: b\r\n c\r\nTLS-Required:\r\n no\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		if findWaiver(strings.NewReader(in)) && !strings.Contains(strings.ToLower(in), "tls-required") {
			t.Fatalf("%q waives TLS", in)
		}
	})
}

// TestPlacesOfTheirOwn: literals, and hosts that are this gateway by address.
func TestPlacesOfTheirOwn(t *testing.T) {
	d := fakeDNS{
		mx: map[string][]dns.MX{"dest.example": {{Preference: 1, Host: "a.example"}, {Preference: 2, Host: "nat.example"}, {Preference: 3, Host: "b.example"}}},
		addrs: map[string][]string{
			"a.example": {"192.0.2.1"}, "b.example": {"192.0.2.2"}, "nat.example": {"192.0.2.9", "192.0.2.77"},
		},
	}
	for _, c := range []struct {
		domain   string
		literals bool
		want     []string
	}{
		{"dest.example", false, []string{"192.0.2.1:25", "554 5.4.6"}},
		{"[192.0.2.5]", false, []string{"550 5.1.2"}},
		{"[192.0.2.5]", true, []string{"192.0.2.5:25"}},
		{"[IPv6:2001:db8::5]", true, []string{"[2001:db8::5]:25"}},
		{"[192.0.2.77]", true, []string{"554 5.4.6"}},
		{"[127.0.0.1]", true, []string{"550 5.1.2"}},
		{"[0.0.0.0]", true, []string{"550 5.1.2"}},
		{"[IPv6:::1]", true, []string{"550 5.1.2"}},
		{"[IPv6:fe80::1]", true, []string{"550 5.1.2"}},
		{"[224.0.0.1]", true, []string{"550 5.1.2"}},
		{"[no literal]", true, []string{"550 5.1.2"}},
	} {
		client := newTestClient(t, func(cfg *ClientConfig) {
			cfg.DNS, cfg.Literals, cfg.OwnAddrs = d, c.literals, addrsOf("192.0.2.77")
		})
		var got []string
		for p, f := range client.route(t.Context(), errand{domain: c.domain, waived: func() bool { return false }}) {
			if f != nil {
				got = append(got, verdictOf(f))
			} else {
				got = append(got, p.addr)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", c.domain, got, c.want)
		}
	}
}

// TestImplicitTLS: TLS from the first octet, and no word before it.
func TestImplicitTLS(t *testing.T) {
	ca := newTestCA(t)
	for _, c := range []struct {
		name   string
		cert   *tls.Config
		mode   TLSMode
		want   string
		proof  string
		server bool // speaks TLS at once
	}{
		{"verified", ca.issue(t, "mx.example"), TLSVerified, "delivered", "pkix", true},
		{"wrong name", ca.issue(t, "other.example"), TLSVerified, "451 4.7.5", "", true},
		{"wrong name, opportunistic", ca.issue(t, "other.example"), TLSOpportunistic, "delivered", "", true},
		{"none is verified all the same", ca.issue(t, "other.example"), TLSNone, "451 4.7.5", "", true},
		{"plain text at the other end", ca.issue(t, "mx.example"), TLSOpportunistic, "451 4.7.5", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, []string{"PIPELINING"}, script(nil))
			s.mu.Lock()
			s.tls, s.implicit = c.cert, c.server
			s.mu.Unlock()
			hop := s.hop()
			hop.Implicit, hop.TLS, hop.ServerName = true, c.mode, "mx.example"
			client := newTestClient(t, func(cfg *ClientConfig) {
				cfg.Roots, cfg.Timeouts = ca.pool, ClientTimeouts{Connect: 5 * time.Second, Greeting: 5 * time.Second}
			})
			got := client.Deliver(t.Context(), hop, attemptOf(t, sample, "a@dest.example"))[0]
			messages, _ := s.gotInTheEnd(t, client)
			if v := verdictOf(got.Failure); v != c.want || got.Proof != c.proof || (len(messages) == 1) != (c.want == "delivered") {
				t.Errorf("%q by %q, %d messages: %v", v, got.Proof, len(messages), got.Failure)
			}
		})
	}
}

// TestFailedPlaceComesLast: a host that could not be connected to is not
// waited for again while another takes the mail, and is asked where none does.
func TestFailedPlaceComesLast(t *testing.T) {
	a, b, port := loopbackPair(t)
	a.Close()
	second := startScriptOn(t, b, nil, script(nil))
	client := newTestClient(t, func(cfg *ClientConfig) { cfg.MXPort, cfg.DNS = port, twoHosts() })
	deliver := func() mail.Outcome {
		return client.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP}, attemptOf(t, sample, "r@dest.example"))[0]
	}
	if o := deliver(); o.Remote != "b.example" || o.Failure != nil {
		t.Fatalf("%+v", o)
	}
	first, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	revived := startScriptOn(t, first, nil, script(nil))
	if o := deliver(); o.Remote != "b.example" || o.Failure != nil {
		t.Errorf("while it is remembered: %+v", o)
	}
	if _, _, n := revived.got(); n != 0 {
		t.Errorf("%d sessions with the host that had failed", n)
	}
	client.failed.now = func() time.Time { return time.Now().Add(time.Minute) }
	if o := deliver(); o.Remote != "a.example" || o.Failure != nil {
		t.Errorf("once it is forgotten: %+v", o)
	}
	second.answer = script(map[string]string{"mail": "450 4.3.2 no"})
	client.failed.now = time.Now
	client.failed.failed(first.Addr().String())
	client.failed.failed(b.Addr().String())
	if o := deliver(); o.Remote != "a.example" || o.Failure != nil {
		t.Errorf("where all have failed: %+v", o)
	}
}

func TestFailedPlaces(t *testing.T) {
	m := newFailedPlaces(time.Minute)
	now := time.Now()
	m.now = func() time.Time { return now }
	for i := range 7 {
		m.failed("a:25")
		wait := time.Duration(min(i+1, 5)) * time.Minute
		if now = now.Add(wait - 1); !m.recently("a:25") {
			t.Errorf("after %d failures: over before %v", i+1, wait)
		}
		if now = now.Add(1); m.recently("a:25") {
			t.Errorf("after %d failures: not over at %v", i+1, wait)
		}
	}
	m.reached("a:25")
	if m.failed("a:25"); len(m.at) != 1 || m.at["a:25"].times != 1 {
		t.Errorf("after a success: %+v", m.at)
	}
	for i := range 3 * maxFailedPlaces {
		m.failed(fmt.Sprint(i))
	}
	if len(m.at) > maxFailedPlaces {
		t.Errorf("%d places", len(m.at))
	}
}

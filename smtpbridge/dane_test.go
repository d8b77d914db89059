package smtpbridge

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/dns"
)

// testCA issues certificates that go out with the CA's own behind them.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newTestCA(t testing.TB) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{key: key, pool: x509.NewCertPool()}
	ca.cert = ca.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, key)
	ca.pool.AddCert(ca.cert)
	return ca
}

func (ca *testCA) sign(t testing.TB, template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = template
	}
	template.SerialNumber, template.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-48*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func (ca *testCA) issue(t testing.TB, names ...string) *tls.Config {
	return ca.issueUntil(t, time.Now().Add(time.Hour), names...)
}

func (ca *testCA) issueUntil(t testing.TB, end time.Time, names ...string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := ca.sign(t, &x509.Certificate{
		DNSNames: names, NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, ca.cert, key)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf.Raw, ca.cert.Raw}, PrivateKey: key, Leaf: leaf}}}
}

func leafOf(cfg *tls.Config) *x509.Certificate { return cfg.Certificates[0].Leaf }

func record(usage, selector, matching uint8, data []byte) dns.TLSA {
	return dns.TLSA{Usage: usage, Selector: selector, Matching: matching, Data: data}
}

// tlsa makes a record for a certificate.
func tlsa(usage, selector, matching uint8, cert *x509.Certificate) dns.TLSA {
	data := cert.Raw
	if selector == selectorSPKI {
		data = cert.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return record(usage, selector, matching, data)
}

// twoHosts is dest.example behind a.example at 127.0.0.2 and b.example at
// 127.0.0.3, all signed.
func twoHosts() fakeDNS {
	return fakeDNS{
		mx:    map[string][]dns.MX{"dest.example": {{Preference: 1, Host: "a.example"}, {Preference: 2, Host: "b.example"}}},
		addrs: map[string][]string{"a.example": {"127.0.0.2"}, "b.example": {"127.0.0.3"}},
	}
}

// TestVerifyDANE: which certificates which records speak for.
func TestVerifyDANE(t *testing.T) {
	ca, other := newTestCA(t), newTestCA(t)
	good := ca.issue(t, "mx.dest.example")
	wrongName := ca.issue(t, "other.example")
	expired := ca.issueUntil(t, time.Now().Add(-time.Hour), "mx.dest.example")
	byDomain := ca.issue(t, "dest.example")
	names := []string{"mx.dest.example", "dest.example"}
	var every []dns.TLSA // form of record for the good leaf and for its CA
	for _, selector := range []uint8{selectorCert, selectorSPKI} {
		for _, matching := range []uint8{matchFull, matchSHA256, matchSHA512} {
			every = append(every, tlsa(usageDANEEE, selector, matching, leafOf(good)), tlsa(usageDANETA, selector, matching, ca.cert))
		}
	}
	for _, c := range []struct {
		name    string
		records []dns.TLSA
		shown   *tls.Config
		result  string // "": passes
	}{
		{"EE, wrong key", []dns.TLSA{tlsa(3, 1, 1, leafOf(wrongName))}, good, resultValidation},
		{"EE for the CA", []dns.TLSA{tlsa(3, 1, 1, ca.cert)}, good, resultValidation},
		{"TA for the leaf of another CA", []dns.TLSA{tlsa(2, 1, 1, other.cert)}, good, resultValidation},
		{"EE, another name", []dns.TLSA{tlsa(3, 1, 1, leafOf(wrongName))}, wrongName, ""},
		{"EE, expired", []dns.TLSA{tlsa(3, 0, 1, leafOf(expired))}, expired, ""},
		{"TA, another name", []dns.TLSA{tlsa(2, 0, 1, ca.cert)}, wrongName, resultHostMismatch},
		{"TA, expired", []dns.TLSA{tlsa(2, 0, 1, ca.cert)}, expired, resultExpired},
		{"TA, the domain's name", []dns.TLSA{tlsa(2, 0, 1, ca.cert)}, byDomain, ""},
		{"one of several", []dns.TLSA{tlsa(3, 1, 1, leafOf(expired)), tlsa(2, 1, 2, other.cert), tlsa(3, 1, 1, leafOf(good))}, good, ""},
		{"a bad TA and a good EE", []dns.TLSA{tlsa(2, 0, 1, ca.cert), tlsa(3, 1, 1, leafOf(wrongName))}, wrongName, ""},
	} {
		trouble := verifyDANE("mx.dest.example", c.records, names, time.Now())(stateOf(t, c.shown))
		if (trouble == nil) != (c.result == "") || trouble != nil && trouble.result != c.result {
			t.Errorf("%s: %v, want %q", c.name, trouble, c.result)
		}
	}
	for _, r := range every {
		if trouble := verifyDANE("mx.dest.example", []dns.TLSA{r}, names, time.Now())(stateOf(t, good)); trouble != nil {
			t.Errorf("record %d %d %d: %v", r.Usage, r.Selector, r.Matching, trouble)
		}
		if got := usableTLSA([]dns.TLSA{r}); len(got) != 1 {
			t.Errorf("record %d %d %d counts as unusable", r.Usage, r.Selector, r.Matching)
		}
	}
	// The CA's certificate in the record need not be shown.
	bare := good.Clone()
	bare.Certificates[0].Certificate = bare.Certificates[0].Certificate[:1]
	if trouble := verifyDANE("mx", []dns.TLSA{tlsa(2, 0, 0, ca.cert)}, names, time.Now())(stateOf(t, bare)); trouble != nil {
		t.Errorf("TA from the record: %v", trouble)
	}
	if trouble := verifyDANE("mx", every, names, time.Now())(tls.ConnectionState{}); trouble == nil {
		t.Error("no certificate passes")
	}
}

func stateOf(t *testing.T, cfg *tls.Config) (cs tls.ConnectionState) {
	t.Helper()
	for _, der := range cfg.Certificates[0].Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		cs.PeerCertificates = append(cs.PeerCertificates, cert)
	}
	return cs
}

func TestUsableTLSA(t *testing.T) {
	sum256, sum512 := make([]byte, 32), make([]byte, 64)
	for _, c := range []struct {
		name string
		in   dns.TLSA
		want bool
	}{
		{"DANE-EE", dns.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: sum256}, true},
		{"DANE-TA", dns.TLSA{Usage: 2, Selector: 0, Matching: 2, Data: sum512}, true},
		{"PKIX-TA", dns.TLSA{Usage: 0, Selector: 1, Matching: 1, Data: sum256}, false},
		{"PKIX-EE", dns.TLSA{Usage: 1, Selector: 1, Matching: 1, Data: sum256}, false},
		{"unknown usage", dns.TLSA{Usage: 4, Selector: 1, Matching: 1, Data: sum256}, false},
		{"unknown selector", dns.TLSA{Usage: 3, Selector: 2, Matching: 1, Data: sum256}, false},
		{"unknown matching", dns.TLSA{Usage: 3, Selector: 1, Matching: 3, Data: sum256}, false},
		{"short digest", dns.TLSA{Usage: 3, Selector: 1, Matching: 1, Data: sum256[:31]}, false},
		{"digest of the other kind", dns.TLSA{Usage: 3, Selector: 1, Matching: 2, Data: sum256}, false},
		{"no digest", dns.TLSA{Usage: 3, Selector: 1, Matching: 1}, false},
		{"no certificate", dns.TLSA{Usage: 3, Selector: 0, Matching: 0, Data: sum256}, false},
		{"no key", dns.TLSA{Usage: 3, Selector: 1, Matching: 0, Data: sum256}, false},
	} {
		if got := len(usableTLSA([]dns.TLSA{c.in})) == 1; got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	both := []dns.TLSA{record(3, 1, 1, sum256), record(3, 1, 2, sum512), record(2, 1, 1, sum256)}
	if got := usableTLSA(both); !reflect.DeepEqual(got, both[1:]) {
		t.Errorf("the weaker digest counts beside the stronger: %v", got)
	}
}

// TestDANEPolicy: which answers lead to which policy.
func TestDANEPolicy(t *testing.T) {
	ee := []dns.TLSA{record(3, 1, 1, make([]byte, 32))}
	unusable := []dns.TLSA{record(1, 1, 1, make([]byte, 32))}
	alias := func(d *fakeDNS) { d.alias = map[string]string{"mx.example": "real.example"} }
	under := func(records []dns.TLSA, names ...string) func(*fakeDNS) {
		return func(d *fakeDNS) {
			for _, n := range names {
				d.tlsa["_25._tcp."+n] = records
			}
		}
	}
	unsigned := func(what ...string) func(*fakeDNS) {
		return func(d *fakeDNS) {
			for _, w := range what {
				d.unsigned[w] = true
			}
		}
	}
	failing := func(what string) func(*fakeDNS) { return func(d *fakeDNS) { d.failing[what] = true } }
	for _, c := range []struct {
		name   string
		change []func(*fakeDNS)
		want   string // kind, base and names, or the verdict
	}{
		{"no records", nil, "0 []"},
		{"records", []func(*fakeDNS){under(ee, "mx.example")}, "1 mx.example [mx.example dest.example]"},
		{"none usable", []func(*fakeDNS){under(unusable, "mx.example")}, "2 mx.example [mx.example dest.example]"},
		{"unsigned records", []func(*fakeDNS){under(ee, "mx.example"), unsigned("TLSA _25._tcp.mx.example")}, "0 []"},
		{"unsigned MX", []func(*fakeDNS){under(ee, "mx.example"), unsigned("MX dest.example")}, "0 []"},
		{"unsigned addresses", []func(*fakeDNS){under(ee, "mx.example"), unsigned("A mx.example")}, "0 []"},
		{"records that fail", []func(*fakeDNS){failing("TLSA _25._tcp.mx.example")}, "451 4.7.5"},
		{"records that fail, unsigned addresses", []func(*fakeDNS){failing("TLSA _25._tcp.mx.example"), unsigned("A mx.example")}, "0 []"},
		{"signed alias, records at its end", []func(*fakeDNS){alias, under(ee, "real.example")}, "1 real.example [real.example mx.example dest.example]"},
		{"signed alias, records at both", []func(*fakeDNS){alias, under(ee, "real.example", "mx.example")}, "1 real.example [real.example mx.example dest.example]"},
		{"signed alias, records at its start", []func(*fakeDNS){alias, under(ee, "mx.example")}, "1 mx.example [mx.example dest.example]"},
		{"signed alias, its end fails", []func(*fakeDNS){alias, under(ee, "mx.example"), failing("TLSA _25._tcp.real.example")}, "451 4.7.5"},
		{"alias into an unsigned zone", []func(*fakeDNS){alias, under(ee, "mx.example", "real.example"), unsigned("A mx.example")}, "1 mx.example [mx.example dest.example]"},
		{"unsigned alias", []func(*fakeDNS){alias, under(ee, "mx.example"), unsigned("A mx.example", "CNAME mx.example")}, "0 []"},
		{"alias that fails", []func(*fakeDNS){alias, under(ee, "mx.example"), unsigned("A mx.example"), failing("CNAME mx.example")}, "451 4.7.5"},
	} {
		d := fakeDNS{
			mx: map[string][]dns.MX{"dest.example": {{Host: "mx.example"}}}, addrs: map[string][]string{"mx.example": {"192.0.2.1"}},
			tlsa: map[string][]dns.TLSA{}, unsigned: map[string]bool{}, failing: map[string]bool{},
		}
		for _, change := range c.change {
			change(&d)
		}
		client := newTestClient(t, func(cfg *ClientConfig) { cfg.DNS, cfg.Validating = d, true })
		got := ""
		for p, f := range client.route(t.Context(), errand{domain: "dest.example", waived: func() bool { return false }}) {
			if f != nil {
				got += verdictOf(f)
				continue
			}
			got += strings.TrimLeft(fmt.Sprint(int(p.policy.kind), " ", p.policy.base, " ", p.policy.names), " ")
		}
		if got = strings.ReplaceAll(got, "  ", " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	t.Run("not validating", func(t *testing.T) {
		d := twoHosts()
		d.tlsa = map[string][]dns.TLSA{"_25._tcp.a.example": ee}
		client := newTestClient(t, func(cfg *ClientConfig) { cfg.DNS = d })
		for p := range client.route(t.Context(), errand{domain: "dest.example", waived: func() bool { return false }}) {
			if p.policy.kind != policyNone || p.trusted {
				t.Errorf("%+v", p)
			}
		}
	})
}

// TestFamilies: which addresses are tried, in which order.
func TestFamilies(t *testing.T) {
	var in []netip.Addr
	for _, s := range []string{"192.0.2.1", "192.0.2.2", "2001:db8::1", "192.0.2.3"} {
		in = append(in, netip.MustParseAddr(s))
	}
	for f, want := range map[Family][]int{
		"": {2, 0, 1, 3}, FamilyIPv6First: {2, 0, 1, 3}, FamilyIPv4First: {0, 2, 1, 3}, FamilyIPv4: {0, 1, 3}, FamilyIPv6: {2},
	} {
		var order []netip.Addr
		for _, i := range want {
			order = append(order, in[i])
		}
		if got := f.order(in); !slices.Equal(got, order) {
			t.Errorf("%q: %v, want %v", f, got, order)
		}
	}
}

// FuzzTLSA: whatever a record holds, only what was meant matches.
func FuzzTLSA(f *testing.F) {
	ca := newTestCA(f)
	f.Add(uint8(3), uint8(1), uint8(1), make([]byte, 32))
	f.Add(uint8(2), uint8(0), uint8(0), ca.cert.Raw)
	f.Add(uint8(2), uint8(1), uint8(0), ca.cert.RawSubjectPublicKeyInfo)
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.cert}}
	f.Fuzz(func(t *testing.T, usage, selector, matching uint8, data []byte) {
		records := usableTLSA([]dns.TLSA{record(usage, selector, matching, data)})
		if len(records) == 0 {
			return
		}
		if verifyDANE("mx", records, []string{"mx"}, time.Now())(state) == nil && !reflect.DeepEqual(records[0], tlsa(usage, selector, matching, ca.cert)) {
			t.Fatalf("%+v matches", records[0])
		}
	})
}

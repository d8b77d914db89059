package stream

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"mailxmppd/mail"
)

func leafOf(t *testing.T, c *tls.Certificate) []*x509.Certificate {
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return []*x509.Certificate{leaf}
}

func TestVerifyCertificate(t *testing.T) {
	ca := newAuthority(t)
	limited := newAuthority(t, func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"other.example"}, true
	})
	roots := ca.pool()
	roots.AddCert(limited.cert)
	names := func(n ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames = n }
	}
	srv := func(v string) func(*x509.Certificate) { return otherNameSAN(t, oidSRVName, asn1.TagIA5String, v) }
	xmpp := func(v string) func(*x509.Certificate) { return otherNameSAN(t, oidXmppAddr, asn1.TagUTF8String, v) }
	critical := func(c *x509.Certificate) {
		c.Subject = pkix.Name{}
		c.ExtraExtensions[0].Critical = true
	}
	for _, tt := range []struct {
		name   string
		cert   *tls.Certificate
		domain string
		ok     bool
	}{
		{"dNSName", ca.issue("a.example"), "a.example", true},
		{"dNSName in capitals", ca.issue("x", names("A.Example")), "a.example", true},
		{"second name", ca.issue("x", names("b.example", "a.example")), "a.example", true},
		{"many names, the last is it", ca.issue("a.example", manyNames(1000)), "a.example", true},
		{"many names, none is it", ca.issue("b.example", manyNames(1000)), "a.example", false},
		{"other name", ca.issue("b.example"), "a.example", false},
		{"parent's name", ca.issue("example.net"), "a.example.net", false},
		{"wildcard", ca.issue("x", names("*.example.net")), "a.example.net", true},
		{"wildcard, no label", ca.issue("x", names("*.example.net")), "example.net", false},
		{"wildcard, two labels", ca.issue("x", names("*.example.net")), "a.b.example.net", false},
		{"wildcard inside a label", ca.issue("x", names("a*.example.net")), "ab.example.net", false},
		{"wildcard not left-most", ca.issue("x", names("a.*.net")), "a.example.net", false},
		{"wildcard over a top-level domain", ca.issue("x", names("*.example")), "a.example", false},
		{"bare wildcard", ca.issue("x", names("*")), "example", false},
		{"CN only", ca.issue("a.example", cnOnly), "a.example", false},
		{"expired", ca.issue("a.example", expired), "a.example", false},
		{"self-signed", selfSigned(t, "a.example"), "a.example", false},
		{"other authority", newAuthority(t).issue("a.example"), "a.example", false},
		{"no usage for it", ca.issue("a.example", func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}
		}), "a.example", false},
		{"clientAuth only", ca.issue("a.example", clientAuth), "a.example", true},
		{"SRVName", ca.issue("x", srv("_xmpp-server.a.example")), "a.example", true},
		{"SRVName, critical", ca.issue("x", srv("_xmpp-server.a.example"), critical), "a.example", true},
		{"SRVName of clients", ca.issue("x", srv("_xmpp-client.a.example")), "a.example", false},
		{"SRVName without a service", ca.issue("x", srv("a.example")), "a.example", false},
		{"SRVName of another", ca.issue("x", srv("_xmpp-server.b.example")), "a.example", false},
		{"SRVName with a wildcard", ca.issue("x", srv("_xmpp-server.*.example.net")), "a.example.net", false},
		{"SRVName as UTF8String", ca.issue("x", otherNameSAN(t, oidSRVName, asn1.TagUTF8String, "_xmpp-server.a.example")), "a.example", false},
		{"XmppAddr", ca.issue("x", xmpp("a.example")), "a.example", true},
		{"XmppAddr in U-labels", ca.issue("x", xmpp("bücher.example")), "xn--bcher-kva.example", true},
		{"XmppAddr of a user", ca.issue("x", xmpp("romeo@a.example")), "a.example", false},
		{"XmppAddr with a resource", ca.issue("x", xmpp("a.example/b")), "a.example", false},
		{"XmppAddr with a NUL", ca.issue("x", xmpp("a.example\x00.b.example")), "a.example", false},
		{"another otherName", ca.issue("x", otherNameSAN(t, asn1.ObjectIdentifier{1, 2, 3}, asn1.TagUTF8String, "a.example")), "a.example", false},
		{"limited authority", limited.issue("a.example"), "a.example", false},
		{"limited authority, its own", limited.issue("a.other.example"), "a.other.example", true},
		{"limited authority, XmppAddr", limited.issue("x", xmpp("a.example")), "a.example", false},
		{"limited authority, SRVName", limited.issue("x", srv("_xmpp-server.a.example")), "a.example", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := verifyCertificate(leafOf(t, tt.cert), roots, tt.domain, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth)
			if (err == nil) != tt.ok {
				t.Fatalf("proven: %v, want %v (%v)", err == nil, tt.ok, err)
			}
			if err != nil && !errors.Is(err, errUnproven) {
				t.Error("not errUnproven:", err)
			}
		})
	}
	if _, err := verifyCertificate(nil, roots, "a.example"); err == nil {
		t.Error("no certificate at all proves something")
	}
	if _, err := verifyCertificate(leafOf(t, ca.issue("a.example", clientAuth)), roots, "a.example", x509.ExtKeyUsageServerAuth); err == nil {
		t.Error("clientAuth only taken for a server")
	}
}

func FuzzOtherNames(f *testing.F) {
	for _, c := range []func(*x509.Certificate){
		otherNameSAN(f, oidSRVName, asn1.TagIA5String, "_xmpp-server.a.example"),
		otherNameSAN(f, oidXmppAddr, asn1.TagUTF8String, "a.example"),
	} {
		var cert x509.Certificate
		c(&cert)
		f.Add(cert.ExtraExtensions[0].Value)
	}
	f.Add([]byte{0x30, 0x80})
	f.Fuzz(func(t *testing.T, der []byte) {
		n, err := otherNames(&x509.Certificate{Extensions: []pkix.Extension{{Id: oidSubjectAltName, Value: der}}})
		if err == nil && n.match("a.example") && len(der) < len("a.example") {
			t.Fatal("a name from nothing")
		}
	})
}

func TestDomainOf(t *testing.T) {
	for in, want := range map[string]struct {
		domain string
		bare   bool
	}{
		"capulet.example":           {"capulet.example", true},
		"Capulet.EXAMPLE":           {"capulet.example", true},
		"capulet.example.":          {"capulet.example", true},
		"bücher.example":            {"xn--bcher-kva.example", true},
		"xn--bcher-kva.example":     {"xn--bcher-kva.example", true},
		"romeo@capulet.example":     {"capulet.example", false},
		"capulet.example/x":         {"capulet.example", false},
		"romeo@capulet.example/x@y": {"capulet.example", false},
		"[192.0.2.1]":               {"[192.0.2.1]", true},
	} {
		domain, bare, err := domainOf(in)
		if err != nil || domain != want.domain || bare != want.bare {
			t.Errorf("%s: %s %v %v", in, domain, bare, err)
		}
	}
	for _, in := range []string{"", "@", "/", "a@", "a@/b", "@capulet.example", "capulet.example/", "capulet..example", ".", "a b.example", "capulet.example..", "a\x00.example"} {
		if domain, bare, err := domainOf(in); err == nil && bare {
			t.Errorf("%q taken as %s", in, domain)
		}
	}
}

func TestFirstExpiry(t *testing.T) {
	ca := newAuthority(t)
	leaf := leafOf(t, ca.issue("a.example"))[0]
	if got := firstExpiry(slices.Concat([]*x509.Certificate{leaf}, []*x509.Certificate{ca.cert})); !got.Equal(leaf.NotAfter) {
		t.Error(got)
	}
	old := newAuthority(t, expired)
	if got := firstExpiry([]*x509.Certificate{leaf, old.cert}); !got.Equal(old.cert.NotAfter) {
		t.Error(got)
	}
}

// TestOtherNamesOfOpenSSL reads the alternative names that OpenSSL writes for
// otherName:1.3.6.1.5.5.7.8.7;IA5STRING:_xmpp-server.a.example,
// otherName:1.3.6.1.5.5.7.8.5;UTF8:b.example,DNS:c.example.
func TestOtherNamesOfOpenSSL(t *testing.T) {
	der, err := hex.DecodeString("304aa02406082b06010505070807a01816165f786d70702d7365727665722e612e6578616d706c65" +
		"a01706082b06010505070805a00b0c09622e6578616d706c658209632e6578616d706c65")
	if err != nil {
		t.Fatal(err)
	}
	n, err := otherNames(&x509.Certificate{Extensions: []pkix.Extension{{Id: oidSubjectAltName, Value: der}}})
	if err != nil || !n.match("a.example") || !n.match("b.example") || n.match("c.example") {
		t.Fatal(n, err)
	}
	for i := range der { // cut anywhere it is refused, never misread
		if _, err := otherNames(&x509.Certificate{Extensions: []pkix.Extension{{Id: oidSubjectAltName, Value: der[:i]}}}); err == nil {
			t.Fatal("taken when cut at", i)
		}
	}
}

func FuzzDomainOf(f *testing.F) {
	for _, s := range []string{"capulet.example", "a@b.example/c@d", "bücher.example.", "[::1]", "@", "/", "\xff", "a\x00.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		domain, bare, err := domainOf(s)
		if err != nil {
			return
		}
		if again, err := mail.ParseDomain(domain); err != nil || again != domain {
			t.Fatalf("%q gave %q, which is no domain", s, domain)
		}
		if bare != !strings.ContainsAny(s, "@/") {
			t.Fatalf("%q is bare: %v", s, bare)
		}
	})
}

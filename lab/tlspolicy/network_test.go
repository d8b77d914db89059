// Package tlspolicy runs a gateway against real servers that publish what they
// ask of TLS: policies from an HTTPS server (MTA-STS) and signed TLSA records
// from a validating resolver (DANE), with Postfix at the end. It looks at what
// arrives, at what was said in plain text, and at the day's TLS report.
package tlspolicy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/lab/dnssec"
	"mailxmppd/lab/harness"
	"mailxmppd/lab/postfix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// This package's servers are at 127.0.42.x.
const (
	goodIP    = "127.0.42.1" // mx.tls.example, with a certificate for it
	expiredIP = "127.0.42.2" // with one that has expired
	plainIP   = "127.0.42.3" // without TLS
	policyIP  = "127.0.42.4"
	dnsIP     = "127.0.42.5"
)

func must(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, postfix.ErrNotInstalled) || errors.Is(err, dnssec.ErrNotInstalled) {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// destination is a domain that mail is sent to.
type destination struct {
	name   string
	mx     string // host below tls.example; with DANE: at which server its own host is
	policy string // of its HTTPS server; "": none
	tlsa   string // "good", "wrong", "bogus"; "": no DANE

	arrives bool
	proof   string // of what arrives
	result  string // of the report; "" for a success
	kind    string // of the report's policy
}

func policyOf(mode string, mx ...string) string {
	text := "version: STSv1\r\nmode: " + mode + "\r\nmax_age: 86400\r\n"
	for _, m := range mx {
		text += "mx: " + m + "\r\n"
	}
	return text
}

// badPolicyHost is the domain whose policy host shows somebody else's
// certificate.
const badPolicyHost = "policyhost.example"

func destinations() []destination {
	return []destination{
		{name: "enforced.example", mx: "mx", policy: policyOf("enforce", "mx.tls.example"), arrives: true, proof: "mta-sts", kind: "sts"},
		{name: "wrongname.example", mx: "other", policy: policyOf("enforce", "*.tls.example"), result: "certificate-host-mismatch", kind: "sts"},
		{name: "expired.example", mx: "expired", policy: policyOf("enforce", "expired.tls.example"), result: "certificate-expired", kind: "sts"},
		{name: "plain.example", mx: "plain", policy: policyOf("enforce", "plain.tls.example"), result: "starttls-not-supported", kind: "sts"},
		{name: "foreign.example", mx: "mx", policy: policyOf("enforce", "mail.foreign.example"), result: "validation-failure", kind: "sts"},
		{name: "testing.example", mx: "expired", policy: policyOf("testing", "*.tls.example"), arrives: true, result: "certificate-expired", kind: "sts"},
		{name: badPolicyHost, mx: "mx", policy: policyOf("enforce", "mx.tls.example"), arrives: true, result: "sts-webpki-invalid", kind: "sts"},
		{name: "nothing.example", mx: "mx", arrives: true, kind: "no-policy-found"},
		{name: "dane.example", mx: goodIP, tlsa: "good", arrives: true, proof: "dane", kind: "tlsa"},
		{name: "danewrong.example", mx: goodIP, tlsa: "wrong", result: "validation-failure", kind: "tlsa"},
		{name: "danebogus.example", mx: goodIP, tlsa: "bogus", result: "dnssec-invalid", kind: "tlsa"},
		{name: "daneplain.example", mx: plainIP, tlsa: "good", result: "starttls-not-supported", kind: "tlsa"},
	}
}

// network is all that the gateway meets.
type network struct {
	ca      *harness.CA
	sink    *harness.Sink
	port    string // of all MX hosts
	servers map[string]*postfix.Server
	dns     *dnssec.Server
	leaf    *x509.Certificate // of the good one
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{servers: map[string]*postfix.Server{}}
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	n.ca, err = harness.NewCA(dir)
	must(t, err)
	n.sink, err = harness.NewSink("127.0.42.6:0", func(b []byte) string { return string(b) })
	must(t, err)
	t.Cleanup(n.sink.Close)
	addrs, err := harness.FreeAddrs(1)
	must(t, err)
	_, n.port, _ = strings.Cut(addrs[0], ":")

	cert, key, err := n.ca.Issue("mx.tls.example")
	must(t, err)
	n.startPostfix(t, goodIP, cert, key)
	text, err := os.ReadFile(cert)
	must(t, err)
	block, _ := pem.Decode(text)
	n.leaf, err = x509.ParseCertificate(block.Bytes)
	must(t, err)
	cert, key, err = n.ca.IssueExpired("expired.tls.example")
	must(t, err)
	n.startPostfix(t, expiredIP, cert, key)
	n.startPostfix(t, plainIP, "", "")
	n.startPolicies(t)
	n.startDNS(t)
	return n
}

func (n *network) startPostfix(t *testing.T, ip, cert, key string) {
	t.Helper()
	var domains []string
	for _, d := range destinations() {
		domains = append(domains, d.name)
	}
	srv, err := postfix.Start(postfix.Spec{
		Listen: ip + ":" + n.port, Host: "mx.tls.example", Domains: domains, Cert: cert, Key: key, Sink: n.sink.Addr,
	})
	must(t, err)
	n.servers[ip] = srv
	t.Cleanup(func() {
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// startPolicies serves every domain's policy under its own name.
func (n *network) startPolicies(t *testing.T) {
	t.Helper()
	policies, certs := map[string]string{}, map[string]*tls.Certificate{}
	for _, d := range destinations() {
		host := "mta-sts." + d.name
		named := host
		if d.name == badPolicyHost {
			named = "somebody.else.example"
		}
		cert, key, err := n.ca.Issue(named)
		must(t, err)
		pair, err := tls.LoadX509KeyPair(cert, key)
		must(t, err)
		policies[host], certs[host] = d.policy, &pair
	}
	ln, err := net.Listen("tcp", policyIP+":443")
	must(t, err)
	srv := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			io.WriteString(w, policies[r.Host])
		}),
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(tls.NewListener(ln, &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := certs[h.ServerName]; c != nil {
				return c, nil
			}
			return nil, errors.New("nobody of that name")
		}}))
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
}

func (n *network) startDNS(t *testing.T) {
	t.Helper()
	zones := []dnssec.Zone{{Name: "tls.example", Records: []string{"mx A " + goodIP, "other A " + goodIP, "expired A " + expiredIP, "plain A " + plainIP}}}
	good := sha256.Sum256(n.leaf.RawSubjectPublicKeyInfo)
	wrong := sha256.Sum256([]byte("another key"))
	for _, d := range destinations() {
		z := dnssec.Zone{Name: d.name, Records: []string{"@ MX 10 " + d.mx + ".tls.example."}}
		if d.policy != "" {
			z.Records = append(z.Records, `_mta-sts TXT "v=STSv1; id=1;"`, "mta-sts A "+policyIP)
		}
		if d.tlsa != "" {
			hash := good
			if d.tlsa == "wrong" {
				hash = wrong
			}
			z.Signed = true
			z.Records = []string{"@ MX 10 mx", "mx A " + d.mx, fmt.Sprintf("_%s._tcp.mx TLSA 3 1 1 %s", n.port, hex.EncodeToString(hash[:]))}
			if d.tlsa == "bogus" {
				z.Spoilt = "TLSA"
			}
		}
		if d.name == "testing.example" {
			z.Records = append(z.Records, `_smtp._tls TXT "v=TLSRPTv1; rua=mailto:reports@enforced.example"`)
		}
		zones = append(zones, z)
	}
	ln, err := net.Listen("tcp", dnsIP+":0")
	must(t, err)
	addr := ln.Addr().String()
	ln.Close()
	n.dns, err = dnssec.Start(addr, zones)
	must(t, err)
	t.Cleanup(func() {
		if err := n.dns.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// gateway configures one for home.example.
func (n *network) gateway(t *testing.T, exe, dir string) *harness.Gateway {
	t.Helper()
	addrs, err := harness.FreeAddrs(2)
	must(t, err)
	g, err := harness.NewGateway(harness.Spec{
		Exe: exe, Dir: filepath.Join(dir, "gw"), CA: n.ca, Domain: "home.example", SMTP: addrs[0], XMPP: addrs[1], DNS: n.dns.Addr,
		Store: "sqlite://" + filepath.Join(dir, "mail.db"), Deliver: "lmtp://127.0.0.1:9",
		Extra: "[smtp]\nmx_port = " + n.port + "\ntls_reports = true\ntls_reports_from = \"tls@home.example\"\ntls_reports_organisation = \"Home\"\n" +
			"[queue]\nretry_first = \"1h\"\n",
	})
	must(t, err)
	text, err := os.ReadFile(g.Config)
	must(t, err)
	// Beside the servers, which the harness writes.
	text = []byte(strings.Replace(string(text), "[dns]\n", "[dns]\nvalidating = true\n", 1))
	must(t, os.WriteFile(g.Config, text, 0o600))
	t.Cleanup(func() {
		g.Kill()
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", g.Log())
		}
	})
	return g
}

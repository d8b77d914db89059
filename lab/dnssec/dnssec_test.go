package dnssec

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/xmpp/proof"
	"mailxmppd/xmpp/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, zones []Zone) *Server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.33.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	srv, err := Start(addr, zones)
	if errors.Is(err, ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(srv.Log())
		}
		if err := srv.Stop(); err != nil {
			t.Error(err)
		}
	})
	return srv
}

// certificate is one that no authority has signed and that names nobody.
func certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

const host = "xmpp"

func located(target string) string { return "_xmpp-server._tcp SRV 0 0 5269 " + target }

func keyed(host string, c *x509.Certificate) string {
	return fmt.Sprintf("_5269._tcp.%s TLSA 3 1 1 %s", host, proof.PinOf(c))
}

// TestDANE proves a self-signed certificate by signed zones, with a real
// validating resolver, and only by those: whether the peer was dialled or has
// connected.
func TestDANE(t *testing.T) {
	peer, other := certificate(t), certificate(t)
	good, wrong := keyed(host, peer), keyed(host, other)
	cases := []struct {
		Zone
		host string // where the peer is dialled; "": the zone's own
		want string // "": proven
	}{
		{Zone: Zone{Name: "secure.example", Signed: true, Records: []string{located(host), good}}},
		{Zone: Zone{Name: "second.example", Signed: true, Records: []string{located(host), wrong, good}}},
		{Zone: Zone{Name: "hosted.example", Signed: true, Records: []string{located("xmpp.secure.example.")}}, host: "xmpp.secure.example"},
		{Zone: Zone{Name: "alias.example", Signed: true, Records: []string{located(host), "_5269._tcp.xmpp CNAME _5269._tcp.xmpp.secure.example."}}},
		{Zone: Zone{Name: "wildcard.example", Signed: true, Records: []string{located(host), "*." + strings.TrimPrefix(good, "_5269.")}}},
		{Zone: Zone{Name: "wrong.example", Signed: true, Records: []string{located(host), wrong}},
			want: "dane at _5269._tcp.xmpp.wrong.example: matches none of the TLSA records"},
		{Zone: Zone{Name: "without.example", Signed: true, Records: []string{located(host)}},
			want: "dane at _5269._tcp.xmpp.without.example: no TLSA records"},
		{Zone: Zone{Name: "insecure.example", Records: []string{located(host), good}},
			want: "dane at _xmpp-server._tcp.insecure.example: SRV records are not signed"},
		{Zone: Zone{Name: "away.example", Signed: true, Records: []string{located("xmpp.insecure.example.")}}, host: "xmpp.insecure.example",
			want: "dane at _5269._tcp.xmpp.insecure.example: TLSA records are not signed"},
		{Zone: Zone{Name: "strayed.example", Signed: true, Records: []string{located(host), "_5269._tcp.xmpp CNAME _5269._tcp.xmpp.insecure.example."}},
			want: "dane at _5269._tcp.xmpp.strayed.example: TLSA records are not signed"},
		{Zone: Zone{Name: "claims.example", Records: []string{located("xmpp.secure.example.")}}, host: "xmpp.secure.example",
			want: "dane at _xmpp-server._tcp.claims.example: SRV records are not signed"},
		{Zone: Zone{Name: "bogus-srv.example", Signed: true, Spoilt: "SRV", Records: []string{located(host), good}},
			want: "dane at _xmpp-server._tcp.bogus-srv.example: SRV records cannot be had"},
		{Zone: Zone{Name: "bogus-tlsa.example", Signed: true, Spoilt: "TLSA", Records: []string{located(host), good}},
			want: "dane at _5269._tcp.xmpp.bogus-tlsa.example: TLSA records cannot be had"},
		{Zone: Zone{Name: "expired.example", Signed: true, Expired: true, Records: []string{located(host), good}},
			want: "dane at _xmpp-server._tcp.expired.example: SRV records cannot be had"},
	}
	var zones []Zone
	for _, c := range cases {
		zones = append(zones, c.Zone)
	}
	resolver, err := dns.New([]string{start(t, zones).Addr}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	prover, err := proof.New(proof.Config{DNS: resolver, DANE: true, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(prover.Close)
	for _, c := range cases {
		at := c.host
		if at == "" {
			at = host + "." + c.Name
		}
		for role, target := range map[string]*stream.Target{"accepted": nil, "dialled": {Host: at, Port: 5269}} {
			t.Run(c.Name+", "+role, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				got, err := prover.Prove(ctx, stream.Evidence{
					Local: "capulet.example", Remote: c.Name, Dialled: target, PKIX: errors.New("self-signed"),
					State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{peer}},
				})
				switch {
				case c.want == "" && (err != nil || got != "dane"):
					t.Errorf("proof %q, %v", got, err)
				case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
					t.Errorf("proof %q, %v; want %q", got, err, c.want)
				}
			})
		}
	}
}

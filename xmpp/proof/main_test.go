package proof

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/xmpp/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issued is a certificate with its key; chain is what its holder shows.
type issued struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate
}

func (i *issued) tls() *tls.Certificate {
	c := &tls.Certificate{PrivateKey: i.key, Leaf: i.cert}
	for _, x := range i.chain {
		c.Certificate = append(c.Certificate, x.Raw)
	}
	return c
}

func (i *issued) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(i.cert)
	return p
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func template(t testing.TB, names ...string) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "test " + serial.String()}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// sign makes a certificate; without an issuer it signs itself.
func sign(t testing.TB, tmpl *x509.Certificate, key *ecdsa.PrivateKey, by *issued) *issued {
	t.Helper()
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	out := &issued{cert: cert, key: key, chain: []*x509.Certificate{cert}}
	if by != nil {
		out.chain = append(out.chain, by.chain...)
	}
	return out
}

func authority(t testing.TB, by *issued) *issued {
	t.Helper()
	tmpl := template(t)
	tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage, tmpl.ExtKeyUsage = true, true, x509.KeyUsageCertSign, nil
	return sign(t, tmpl, newKey(t), by)
}

func selfSigned(t testing.TB, names ...string) *issued {
	t.Helper()
	return sign(t, template(t, names...), newKey(t), nil)
}

func outOfDate(t testing.TB, names ...string) *issued {
	t.Helper()
	tmpl := template(t, names...)
	tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	return sign(t, tmpl, newKey(t), nil)
}

var errNoChain = errors.New("no chain")

// accepted and dialled are evidence of a peer montague.example, which PKIX
// does not prove.
func accepted(c *issued) stream.Evidence {
	return stream.Evidence{
		Local: "capulet.example", Remote: "montague.example", PKIX: errNoChain,
		State: tls.ConnectionState{PeerCertificates: c.chain},
	}
}

func dialled(c *issued, host string, port uint16) stream.Evidence {
	e := accepted(c)
	e.Dialled = &stream.Target{Host: host, Port: port, Addr: "127.0.0.1:1"}
	return e
}

// zone is a DNS server for a few records. Names that begin with a text of
// unsigned are answered without AD, those with one of failing by SERVFAIL.
type zone struct {
	addr              string
	records           []string
	unsigned, failing []string

	lock  sync.Mutex
	names map[string]int // asked for, and how often

	rrs []mdns.RR // of records
}

func (z *zone) asked() map[string]int {
	z.lock.Lock()
	defer z.lock.Unlock()
	return maps.Clone(z.names)
}

func startZone(t testing.TB, records ...string) *zone {
	t.Helper()
	return serveZone(t, &zone{records: records})
}

func serveZone(t testing.TB, z *zone) *zone {
	t.Helper()
	z.names = map[string]int{}
	for _, s := range z.records {
		rr, err := mdns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		z.rrs = append(z.rrs, rr)
	}
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z.addr = pc.LocalAddr().String()
	up, done := make(chan struct{}), make(chan struct{})
	srv := &mdns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: func() { close(up) }}
	go func() {
		defer close(done)
		srv.ActivateAndServe()
	}()
	<-up
	t.Cleanup(func() {
		srv.Shutdown()
		<-done
	})
	return z
}

func hasPrefix(name string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func (z *zone) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	name := mdns.CanonicalName(q.Question[0].Name)
	z.lock.Lock()
	z.names[name]++
	z.lock.Unlock()
	m := new(mdns.Msg)
	m.SetReply(q)
	m.AuthenticatedData = !hasPrefix(name, z.unsigned)
	if hasPrefix(name, z.failing) {
		m.SetRcode(q, mdns.RcodeServerFailure)
		w.WriteMsg(m)
		return
	}
	for _, rr := range z.rrs {
		if mdns.CanonicalName(rr.Header().Name) == name && rr.Header().Rrtype == q.Question[0].Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	if len(m.Answer) == 0 {
		m.Rcode = mdns.RcodeNameError
	}
	w.WriteMsg(m)
}

func (z *zone) resolver(t testing.TB) *dns.Resolver {
	t.Helper()
	r, err := dns.New([]string{z.addr}, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func srv(service, domain, host string, port uint16) string {
	return fmt.Sprintf("%s._tcp.%s. 60 IN SRV 0 0 %d %s.", service, domain, port, host)
}

func tlsa(host string, port uint16, usage, selector, matching int, data []byte) string {
	return fmt.Sprintf("_%d._tcp.%s. 60 IN TLSA %d %d %d %s", port, host, usage, selector, matching, hex.EncodeToString(data))
}

// daneEE is the usual record: DANE-EE, the key, by SHA-256.
func daneEE(host string, port uint16, c *issued) string {
	pin := PinOf(c.cert)
	return tlsa(host, port, usageDANEEE, selectorSPKI, matchSHA256, pin[:])
}

func newProver(t testing.TB, cfg Config) *Prover {
	t.Helper()
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// check compares an outcome: proof "" wants an *Unproven whose text holds why.
func check(t testing.TB, proof string, err error, want, why string) {
	t.Helper()
	if want != "" {
		if err != nil || proof != want {
			t.Errorf("proof %q, %v; want %q", proof, err, want)
		}
		return
	}
	no, ok := errors.AsType[*Unproven](err)
	if !ok || proof != "" {
		t.Errorf("proof %q, %v; want none", proof, err)
		return
	}
	if no.Domain != "montague.example" || !strings.Contains(no.Error(), why) {
		t.Errorf("reason %q; want %q in it", no, why)
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func portOf(t testing.TB, s string) uint16 {
	t.Helper()
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n)
}

package postfix

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/lab/harness"
	"mailxmppd/smtpbridge"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// This package's servers are at 127.0.31.x.
const (
	postfixIP = "127.0.31.1"
	host      = "mx.dest.example"
)

// network is a Postfix for dest.example, the DNS that leads to it, and what
// became of its mail.
type network struct {
	ca      *harness.CA
	roots   *x509.CertPool
	leaf    *x509.Certificate
	sink    *harness.Sink
	postfix *Server
	port    int
	zone    *zone
}

// startNetwork starts all of it, once for the package's one test.
func startNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{}
	var err error
	if n.ca, err = harness.NewCA(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	caPEM, err := os.ReadFile(n.ca.File)
	if err != nil {
		t.Fatal(err)
	}
	n.roots = x509.NewCertPool()
	n.roots.AppendCertsFromPEM(caPEM)
	cert, key, err := n.ca.Issue(host)
	if err != nil {
		t.Fatal(err)
	}
	n.leaf = readCert(t, cert)
	leafPEM, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	chain := filepath.Join(n.ca.Dir, "chain.pem")
	if err := os.WriteFile(chain, append(leafPEM, caPEM...), 0o644); err != nil {
		t.Fatal(err)
	}
	if n.sink, err = harness.NewSink("127.0.31.2:0", func(b []byte) string { return string(b) }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.sink.Close)
	n.port = freePort(t, postfixIP)
	n.postfix, err = Start(Spec{
		Listen: fmt.Sprintf("%s:%d", postfixIP, n.port), Host: host, Domains: []string{"dest.example"}, Refuse: []string{"no@dest.example"},
		Cert: chain, Key: key, Sink: n.sink.Addr,
	})
	if errors.Is(err, ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.postfix.Stop(); err != nil {
			t.Error(err)
		}
	})
	n.zone = startZone(t)
	n.zone.set(t, true, n.records()...)
	return n
}

func (n *network) records(more ...string) []string {
	return append([]string{"dest.example. 60 IN MX 10 " + host + ".", host + ". 60 IN A " + postfixIP}, more...)
}

// tlsaRecord is a TLSA record of the host with the SHA-256 of data.
func (n *network) tlsaRecord(usage, selector int, data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("_%d._tcp.%s. 60 IN TLSA %d %d 1 %s", n.port, host, usage, selector, hex.EncodeToString(sum[:]))
}

// client asks the network's DNS anew.
func (n *network) client(t *testing.T, change func(*smtpbridge.ClientConfig)) *smtpbridge.Client {
	t.Helper()
	resolver, err := dns.New([]string{n.zone.addr}, 0)
	if err != nil {
		t.Fatal(err)
	}
	cfg := smtpbridge.ClientConfig{Hostname: "gw.example", DNS: resolver, MXPort: n.port, Roots: n.roots, Validating: true}
	if change != nil {
		change(&cfg)
	}
	c := smtpbridge.NewClient(cfg)
	t.Cleanup(c.Close)
	return c
}

func freePort(t *testing.T, ip string) int {
	t.Helper()
	ln, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

func readCert(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// zone is a DNS server over UDP that says of its answers whether they are
// signed, as a validating resolver does, and fails for what it is told to.
type zone struct {
	addr string

	mu      sync.Mutex
	records []mdns.RR
	signed  bool
	failing string // a type of which every question fails
}

func startZone(t *testing.T) *zone {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.31.3:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{addr: pc.LocalAddr().String()}
	up := make(chan struct{})
	srv := &mdns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: func() { close(up) }}
	done := make(chan struct{})
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

func (z *zone) set(t *testing.T, signed bool, records ...string) {
	t.Helper()
	z.mu.Lock()
	defer z.mu.Unlock()
	z.signed, z.records, z.failing = signed, nil, ""
	for _, s := range records {
		rr, err := mdns.NewRR(s)
		if err != nil {
			t.Fatal(err)
		}
		z.records = append(z.records, rr)
	}
}

func (z *zone) fail(qtype string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.failing = qtype
}

// ServeDNS answers from the records.
func (z *zone) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(mdns.Msg)
	m.SetReply(q)
	question := q.Question[0]
	known := false
	for _, rr := range z.records {
		if mdns.CanonicalName(rr.Header().Name) != mdns.CanonicalName(question.Name) {
			continue
		}
		known = true
		if rr.Header().Rrtype == question.Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	m.AuthenticatedData = z.signed
	switch {
	case mdns.TypeToString[question.Qtype] == z.failing:
		m.SetRcode(q, mdns.RcodeServerFailure)
	case !known:
		m.Rcode = mdns.RcodeNameError
	}
	w.WriteMsg(m)
}

// startPolicyHost serves an MTA-STS policy as mta-sts.dest.example.
func (n *network) startPolicyHost(t *testing.T, policy string) *httptest.Server {
	t.Helper()
	cert, key, err := n.ca.Issue("mta-sts.dest.example")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		fmt.Fprint(w, policy)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv
}

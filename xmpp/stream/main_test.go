package stream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/xmpp/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is a throwaway CA.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, change ...func(*x509.Certificate)) *authority {
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(48 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	for _, f := range change {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &authority{t, cert, key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// issue makes a certificate for a domain, as public authorities do it:
// serverAuth only.
func (a *authority) issue(domain string, change ...func(*x509.Certificate)) *tls.Certificate {
	key := newKey(a.t)
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: domain}, DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, f := range change {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func expired(c *x509.Certificate)    { c.NotAfter = time.Now().Add(-time.Minute) }
func cnOnly(c *x509.Certificate)     { c.DNSNames = nil }
func clientAuth(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }

// otherNameSAN replaces the alternative names by one otherName.
func otherNameSAN(t testing.TB, id asn1.ObjectIdentifier, tag int, value string) func(*x509.Certificate) {
	inner, err := asn1.Marshal(asn1.RawValue{Tag: tag, Bytes: []byte(value)})
	if err != nil {
		t.Fatal(err)
	}
	der, err := asn1.MarshalWithParams(struct {
		ID    asn1.ObjectIdentifier
		Value asn1.RawValue
	}{id, asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: inner}}, "tag:0")
	if err != nil {
		t.Fatal(err)
	}
	list, err := asn1.Marshal([]asn1.RawValue{{FullBytes: der}})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) {
		c.DNSNames = nil
		c.ExtraExtensions = []pkix.Extension{{Id: oidSubjectAltName, Value: list}}
	}
}

func selfSigned(t testing.TB, domain string) *tls.Certificate {
	own := newAuthority(t, func(c *x509.Certificate) {
		c.DNSNames = []string{domain}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	return &tls.Certificate{Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key}
}

// node is a manager with its listener.
type node struct {
	*Manager
	addr string
	lock sync.Mutex
	logs []string // of Up and Down
}

// startNode serves the domains of the certificates. Its times are short, so
// that what waits for them is quick, but long enough for a busy machine.
func startNode(t testing.TB, ca *authority, certs map[string]*tls.Certificate, change ...func(*Config)) *node {
	n := &node{}
	cfg := Config{
		Certificate: func(domain string) (*tls.Certificate, error) {
			if c := certs[domain]; c != nil {
				return c, nil
			}
			return nil, errors.New("not our domain")
		},
		Roots:            ca.pool(),
		NegotiateTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second, CloseTimeout: 2 * time.Second,
		BackOff: 20 * time.Millisecond,
		Up:      func(local, remote string) { n.log("up " + local + " " + remote) },
		Down:    func(local, remote string) { n.log("down " + local + " " + remote) },
		Handle:  echo,
	}
	for _, f := range change {
		f(&cfg)
	}
	n.Manager = NewManager(cfg)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- n.Serve(t.Context(), ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		n.Shutdown(ctx)
		if err := <-served; err != nil && err != ErrShutdown {
			t.Error("serve:", err)
		}
	})
	return n
}

func (n *node) log(s string) {
	n.lock.Lock()
	defer n.lock.Unlock()
	n.logs = append(n.logs, s)
}

func (n *node) logged() []string {
	n.lock.Lock()
	defer n.lock.Unlock()
	return append([]string(nil), n.logs...)
}

func (n *node) target() []Target { return []Target{{Host: "test", Addr: n.addr}} }

// echo answers <echo xmlns='urn:test'> with its text.
func echo(ctx context.Context, l *Link, iq *IQ) Reply {
	if !iq.Payload.Is("urn:test", "echo") {
		return Reply{Error: &ErrorReply{Type: "cancel", Condition: "service-unavailable"}}
	}
	return Reply{Payload: echoPayload(string(iq.Payload.Text))}
}

func echoPayload(text string) []byte {
	e := wire.NewEncoder(nil)
	e.Start("echo", "urn:test")
	e.Text(text)
	e.End()
	b, _ := e.Bytes()
	return b
}

// capulet and montague are two gateways that trust the same authority.
func twoNodes(t testing.TB, change ...func(*Config)) (capulet, montague *node, ca *authority) {
	ca = newAuthority(t)
	capulet = startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")}, change...)
	montague = startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("montague.example")}, change...)
	return
}

func mustLink(t testing.TB, from *node, local, remote string, to *node) *Link {
	t.Helper()
	l, err := from.Link(t.Context(), local, remote, to.target())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// liveAt waits for a link at the accepting side, which has it a moment after
// the connecting one.
func liveAt(t testing.TB, n *node, local, remote string) (l *Link) {
	t.Helper()
	eventually(t, "link of "+local+" with "+remote, func() bool {
		l = n.Live(local, remote)
		return l != nil
	})
	return l
}

// eventually polls a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func waitClosed(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("never: " + what)
	}
}

// rawPeer speaks the protocol by hand, right or wrong.
type rawPeer struct {
	t      testing.TB
	conn   *tls.Conn
	parser *wire.Parser
}

func newRawPeer(t testing.TB, conn *tls.Conn) *rawPeer {
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	t.Cleanup(func() { conn.NetConn().Close() })
	return &rawPeer{t, conn, wire.NewParser(conn, wire.Default())}
}

// dialRaw connects with TLS to a node; cert may be nil.
func dialRaw(t testing.TB, n *node, serverName string, cert *tls.Certificate) *rawPeer {
	t.Helper()
	cfg := &tls.Config{ServerName: serverName, InsecureSkipVerify: true, NextProtos: []string{alpn}}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	conn, err := tls.Dial("tcp", n.addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return newRawPeer(t, conn)
}

func (r *rawPeer) send(s string) {
	r.t.Helper()
	if _, err := r.conn.Write([]byte(s)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rawPeer) next() *wire.Element {
	r.t.Helper()
	el, err := r.parser.Next()
	if err != nil {
		r.t.Fatal(err)
	}
	return el
}

func rawHeader(from, to string) string {
	s := "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'"
	if from != "" {
		s += " from='" + from + "'"
	}
	if to != "" {
		s += " to='" + to + "'"
	}
	return s + ">"
}

const (
	rawBidi = "<bidi xmlns='urn:xmpp:bidi'/>"
	rawAuth = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"
)

// open sends a header and returns the features that come back.
func (r *rawPeer) open(from, to string) *wire.Element {
	r.t.Helper()
	r.send(rawHeader(from, to))
	if _, err := r.parser.Header(); err != nil {
		r.t.Fatal(err)
	}
	return r.next()
}

// ready negotiates all the way.
func (r *rawPeer) ready(from, to string) *rawPeer {
	r.t.Helper()
	r.open(from, to)
	r.send(rawBidi + rawAuth)
	if el := r.next(); el.Name.Local != "success" {
		r.t.Fatal("not authenticated:", el.Name.Local)
	}
	if err := r.parser.Reset(r.conn); err != nil {
		r.t.Fatal(err)
	}
	r.open(from, to)
	return r
}

// streamError reads on until the stream ends and returns the condition that
// it ended with, "" for none.
func (r *rawPeer) streamError() string {
	r.t.Helper()
	condition := ""
	for {
		el, err := r.parser.Next()
		switch {
		case err == io.EOF:
			return condition
		case err != nil:
			r.t.Fatalf("connection ended without a closing tag (condition %q): %v", condition, err)
		case el.Is(wire.StreamNS, "error"):
			condition = readPeerError(el).condition
		}
	}
}

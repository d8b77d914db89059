package stream

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

// rawPeer speaks the protocol by hand, right or wrong.
type rawPeer struct {
	t      testing.TB
	conn   secured
	parser *wire.Parser
}

func newRawPeer(t testing.TB, conn secured) *rawPeer {
	conn.SetDeadline(time.Now().Add(15 * time.Second))
	t.Cleanup(func() { conn.NetConn().Close() })
	return &rawPeer{t, conn, wire.NewParser(conn, wire.Default())}
}

// dialRaw connects with TLS to a node; cert may be nil.
func dialRaw(t testing.TB, n *node, serverName string, cert *tls.Certificate) *rawPeer {
	t.Helper()
	cfg := clientConfig(serverName, cert)
	cfg.NextProtos = []string{alpn}
	conn, err := tls.Dial("tcp", n.addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return newRawPeer(t, conn)
}

func clientConfig(serverName string, cert *tls.Certificate) *tls.Config {
	cfg := &tls.Config{ServerName: serverName, InsecureSkipVerify: true}
	if cert != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return cfg
}

// dialClear connects to a node's port for STARTTLS and says nothing yet.
func dialClear(t testing.TB, n *node) *rawPeer {
	t.Helper()
	conn, err := net.Dial("tcp", n.clear)
	if err != nil {
		t.Fatal(err)
	}
	return newRawPeer(t, inClear{conn})
}

// dialStartTLS connects to a node and takes it up to TLS.
func dialStartTLS(t testing.TB, n *node, serverName string, cert *tls.Certificate) *rawPeer {
	t.Helper()
	r := dialClear(t, n)
	if f := r.open("", serverName); f.Child(nsTLS, "starttls") == nil || len(f.Children) != 1 {
		t.Fatalf("features before TLS: %v", f.Children)
	}
	r.send(requestTLS)
	if el := r.next(); !el.Is(nsTLS, "proceed") {
		t.Fatal("no proceed but", el.Name)
	}
	return r.secure(serverName, cert)
}

// secure does the TLS handshake on a connection in the clear.
func (r *rawPeer) secure(serverName string, cert *tls.Certificate) *rawPeer {
	r.t.Helper()
	conn := tls.Client(r.conn.NetConn(), clientConfig(serverName, cert))
	if err := conn.Handshake(); err != nil {
		r.t.Fatal(err)
	}
	return newRawPeer(r.t, conn)
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

package stream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// certificateCases are judged alike in both roles.
func certificateCases(t *testing.T, ca *authority, domain string) []struct {
	name   string
	cert   *tls.Certificate
	accept bool
} {
	return []struct {
		name   string
		cert   *tls.Certificate
		accept bool
	}{
		{"serverAuth only", ca.issue(domain), true},
		{"both usages", ca.issue(domain, func(c *x509.Certificate) {
			c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		}), true},
		{"SRVName", ca.issue("x", otherNameSAN(t, oidSRVName, asn1.TagIA5String, "_xmpp-server."+domain)), true},
		{"XmppAddr", ca.issue("x", otherNameSAN(t, oidXmppAddr, asn1.TagUTF8String, domain)), true},
		{"many names", ca.issue(domain, manyNames(1000)), true},
		{"many names, none the right one", ca.issue("mallory.example", manyNames(1000)), false},
		{"wrong name", ca.issue("mallory.example"), false},
		{"expired", ca.issue(domain, expired), false},
		{"self-signed", selfSigned(t, domain), false},
		{"wrong authority", newAuthority(t).issue(domain), false},
		{"CN only", ca.issue(domain, cnOnly), false},
	}
}

func TestCertificatesOfServers(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	for _, tt := range certificateCases(t, ca, "montague.example") {
		t.Run(tt.name, func(t *testing.T) {
			montague := startNode(t, ca, map[string]*tls.Certificate{"montague.example": tt.cert})
			defer eventually(t, "back-off over", func() bool {
				capulet.mu.Lock()
				defer capulet.mu.Unlock()
				r := capulet.routes[pair{"capulet.example", "montague.example"}]
				return r == nil || time.Now().After(r.first.notBefore)
			})
			l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", montague.target())
			if tt.accept {
				if err != nil {
					t.Fatal(err)
				}
				mustEcho(t, l)
				l.Close("")
				waitClosed(t, "link closed", l.Done())
				return
			}
			failure, ok := errors.AsType[*NegotiationError](err)
			if !ok || failure.Stage != StageTLS || !failure.Permanent || failure.Peer || !errors.Is(err, errUnproven) {
				t.Fatalf("%#v", err)
			}
		})
	}
}

func TestCertificatesOfClients(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	cases := certificateCases(t, ca, "montague.example")
	cases = append(cases, struct {
		name   string
		cert   *tls.Certificate
		accept bool
	}{"none", nil, false}, struct {
		name   string
		cert   *tls.Certificate
		accept bool
	}{"clientAuth only", ca.issue("montague.example", clientAuth), true})
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			if tt.accept {
				r := dialRaw(t, capulet, "capulet.example", tt.cert).ready("montague.example", "capulet.example")
				r.send("<iq type='get' id='1' from='montague.example' to='capulet.example'><ping xmlns='urn:xmpp:ping'/></iq>")
				if el := r.next(); el.Attr("type") != "result" || el.Attr("id") != "1" {
					t.Fatal("no answer to a ping")
				}
				r.send("</stream:stream>")
				r.streamError()
				return
			}
			r := dialRaw(t, capulet, "capulet.example", tt.cert)
			if f := r.open("montague.example", "capulet.example"); offersExternal(f) {
				t.Fatal("EXTERNAL is offered")
			}
			r.send(rawBidi + rawAuth)
			el := r.next()
			if !el.Is(nsSASL, "failure") || readSASLFailure(el).condition != "not-authorized" {
				t.Fatal("answer to auth:", el.Name)
			}
			if c := r.streamError(); c != "policy-violation" {
				t.Fatal("stream ended with", c)
			}
			if capulet.Live("capulet.example", "montague.example") != nil {
				t.Fatal("a link came to be")
			}
		})
	}
}

func TestPlaintextToTheTLSPort(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	for _, in := range []string{rawHeader("montague.example", "capulet.example"), "GET / HTTP/1.0\r\n\r\n", "\x16\x03\x01"} {
		conn, err := net.Dial("tcp", capulet.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, in)
		conn.(*net.TCPConn).CloseWrite()
		got, _ := io.ReadAll(conn)
		conn.Close()
		if bytes.ContainsAny(got, "<") {
			t.Errorf("answer in plain text: %q", got)
		}
	}
}

func TestTLSVersionAndName(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	for name, cfg := range map[string]*tls.Config{
		"TLS 1.1":        {ServerName: "capulet.example", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11},
		"no server name": {},
		"not our domain": {ServerName: "verona.example"},
		"another ALPN":   {ServerName: "capulet.example", NextProtos: []string{"h2"}},
	} {
		cfg.InsecureSkipVerify = true
		if conn, err := tls.Dial("tcp", capulet.addr, cfg); err == nil {
			conn.Close()
			t.Error(name, "was accepted")
		}
	}
	for name, cfg := range map[string]*tls.Config{
		"TLS 1.2": {ServerName: "capulet.example", MaxVersion: tls.VersionTLS12},
		"no ALPN": {ServerName: "Capulet.Example"},
	} {
		cfg.RootCAs = ca.pool()
		conn, err := tls.Dial("tcp", capulet.addr, cfg)
		if err != nil {
			t.Error(name, err)
			continue
		}
		conn.Close()
	}
}

// recorder is a TCP relay that keeps what passed.
type recorder struct {
	mu   sync.Mutex
	seen bytes.Buffer
}

func (r *recorder) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen.Write(p)
}

// TestNothingInPlaintext watches the wire under requests both ways.
func TestNothingInPlaintext(t *testing.T) {
	capulet, montague, _ := twoNodes(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	rec := &recorder{}
	go func() {
		in, err := ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", montague.addr)
		if err != nil {
			in.Close()
			return
		}
		go func() {
			io.Copy(io.MultiWriter(out, rec), in)
			out.Close()
		}()
		io.Copy(io.MultiWriter(in, rec), out)
		in.Close()
	}()
	l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", []Target{{Addr: ln.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	mustEcho(t, l)
	mustEcho(t, liveAt(t, montague, "montague.example", "capulet.example"))
	l.Close("")
	waitClosed(t, "link closed", l.Done())
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.seen.Len() < 1000 {
		t.Fatal("the recorder saw nothing")
	}
	for _, word := range []string{"<iq", "stream", "urn:", "EXTERNAL", "echo"} {
		if bytes.Contains(rec.seen.Bytes(), []byte(word)) {
			t.Errorf("%q was seen on the wire", word)
		}
	}
}

package stream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

// scripted is a connection with TLS already on it, whose peer says what is in
// a string: packet is the mark between packets, which no XML contains.
type scripted struct {
	net.Conn // nil: the rest is not called
	packets  []string
	said     bytes.Buffer
	state    tls.ConnectionState
}

const packet = "\x1e"

func (s *scripted) Read(p []byte) (int, error) {
	for len(s.packets) > 0 && s.packets[0] == "" {
		s.packets = s.packets[1:]
	}
	if len(s.packets) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.packets[0])
	s.packets[0] = s.packets[0][n:]
	return n, nil
}

func (s *scripted) Write(p []byte) (int, error)          { return s.said.Write(p) }
func (s *scripted) Close() error                         { return nil }
func (s *scripted) CloseWrite() error                    { return nil }
func (s *scripted) NetConn() net.Conn                    { return s }
func (s *scripted) RemoteAddr() net.Addr                 { return &net.TCPAddr{} }
func (s *scripted) SetDeadline(time.Time) error          { return nil }
func (s *scripted) SetReadDeadline(time.Time) error      { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error     { return nil }
func (s *scripted) ConnectionState() tls.ConnectionState { return s.state }

// fuzzed is a negotiation of capulet.example with the peer in a script. What
// mallory.example shows proves it, and nobody else.
func fuzzed(f *testing.F) func(t *testing.T, in string) (*negotiation, *scripted) {
	ca := newAuthority(f)
	leaf, err := x509.ParseCertificate(ca.issue("mallory.example").Certificate[0])
	if err != nil {
		f.Fatal(err)
	}
	own := ca.issue("capulet.example")
	m := NewManager(Config{
		Certificate: func(domain string) (*tls.Certificate, error) {
			if domain != "capulet.example" {
				return nil, errors.New("not our domain")
			}
			return own, nil
		},
		Roots: ca.pool(), MaxOutBytes: 64 << 10,
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") },
	})
	f.Cleanup(func() { m.Shutdown(context.Background()) })
	return func(t *testing.T, in string) (*negotiation, *scripted) {
		s := &scripted{packets: strings.Split(in, packet)}
		s.state.PeerCertificates = []*x509.Certificate{leaf}
		n := m.negotiate(pair{})
		n.begin(s, StageHeader)
		return n, s
	}
}

// checkSaid checks that what we said is XML as our own parser wants it, and no
// more than an answer to what was said to us.
func checkSaid(t *testing.T, s *scripted, in string) {
	if n := s.said.Len(); n > 4096+4*len(in) {
		t.Fatalf("%d octets said for %d", n, len(in))
	}
	said := s.said.String()
	for i, stream := range strings.Split(said, "<?xml version='1.0'?>") {
		if i == 0 {
			continue
		}
		p := wire.NewParser(strings.NewReader(stream), wire.Default())
		_, err := p.Header()
		for err == nil {
			_, err = p.Next()
		}
		if err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatalf("we said %q: %v", stream, err)
		}
	}
}

// FuzzAccept: the accepting side authenticates nobody but who is proven and
// asks for it, and takes no TLS that was not asked for alone.
func FuzzAccept(f *testing.F) {
	negotiate := fuzzed(f)
	good := rawHeader("mallory.example", "capulet.example")
	const verify = "<db:verify xmlns:db='jabber:server:dialback' id='&quot;' from='a' to='b'>k</db:verify>"
	for _, clear := range []bool{false, true} {
		for _, s := range []string{
			good + packet + rawBidi + rawAuth + packet + good,
			good + packet + rawAuth + packet + good,
			good + packet + auth("EXTERNAL", b64("mallory.example")) + packet + good,
			good + packet + auth("EXTERNAL", b64("capulet.example")),
			good + packet + rawBidi + rawAuth + good,
			good + packet + verify + rawBidi + rawAuth + packet + good,
			good + packet + requestTLS, good + packet + requestTLS + good, good + packet + verify + requestTLS,
			rawHeader("mallory.example.", "CAPULET.example"), rawHeader("verona.example", "capulet.example") + packet + rawAuth,
			"", "</", "\x16\x03\x01", strings.Repeat("<a>", 40),
		} {
			f.Add(clear, s)
		}
	}
	f.Fuzz(func(t *testing.T, clear bool, in string) {
		n, s := negotiate(t, in)
		var err error
		if clear {
			s.state = tls.ConnectionState{}
			if err = n.giveTLS(); err == nil && (n.pair.local != "capulet.example" || n.proven || n.parser.Buffered() > 0 ||
				!strings.HasSuffix(s.said.String(), proceedTLS)) {
				t.Fatalf("TLS begins for %+v", n.pair)
			}
		} else {
			n.pair.local = "capulet.example" // by the server name
			err = n.respond(t.Context())
			if err == nil && (!n.proven || n.pair != pair{"capulet.example", "mallory.example"} || !strings.Contains(in, "EXTERNAL")) {
				t.Fatalf("authenticated: %+v, proven %v", n.pair, n.proven)
			}
		}
		if err != nil && n.fail(err) == nil {
			t.Fatal("no reason")
		}
		checkSaid(t, s, in)
	})
}

// FuzzConnect: the connecting side ends with a stream to who is proven, or
// with an error that says where.
func FuzzConnect(f *testing.F) {
	negotiate := fuzzed(f)
	header := strings.Replace(serverHeader, "montague", "mallory", 1)
	for _, clear := range []bool{false, true} {
		for _, s := range []string{
			header + serverFeatures + packet + serverSuccess + packet + header + "<stream:features/>",
			header + ordinaryFeatures + packet + serverSuccess + packet + header + "<stream:features><sm xmlns='urn:xmpp:sm:3'/></stream:features>",
			header + serverFeatures + packet + serverSuccess + header + "<stream:features/>",
			header + serverFeatures + packet + "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>",
			header + "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>[::1]:1</see-other-host></stream:error>",
			header + requireTLS + packet + proceedTLS, header + requireTLS + packet + proceedTLS + header,
			header + requireTLS + packet + "<failure xmlns='" + nsTLS + "'/>", header + "<stream:features/>",
			"", "</", "HTTP/1.1 400 Bad Request\r\n",
		} {
			f.Add(clear, s)
		}
	}
	f.Fuzz(func(t *testing.T, clear bool, in string) {
		n, s := negotiate(t, in)
		n.pair = pair{"capulet.example", "mallory.example"}
		var err error
		if clear {
			s.state = tls.ConnectionState{}
			if err = n.askTLS(); err == nil && (!strings.Contains(in, "proceed") || n.parser.Buffered() > 0) {
				t.Fatal("TLS begins unasked")
			}
			if said := s.said.String(); strings.Contains(said, "<auth") {
				t.Fatal("said in the clear:", said)
			}
		} else if err = n.initiate(t.Context()); err == nil && (!n.proven || !strings.Contains(in, "success")) {
			t.Fatal("authenticated without a word")
		}
		if err != nil {
			if e := n.fail(err); e == nil || e.Stage == "" {
				t.Fatal("no reason")
			} else {
				n.m.referral(e, Target{})
			}
		}
		checkSaid(t, s, in)
	})
}

// FuzzLink feeds an authenticated peer's stanzas to links of all ways.
func FuzzLink(f *testing.F) {
	negotiate := fuzzed(f)
	for _, s := range []string{
		"<iq type='get' id='&apos;'" + addressed + "><ping xmlns='urn:xmpp:ping'/></iq>",
		"<iq type='set' id='1'" + addressed + "><offer xmlns='urn:x'/></iq>" + packet + "</stream:stream>",
		"<iq type='result' id='1'" + addressed + "/><iq type='error' id='1'" + addressed + "/>",
		"<message from='a@mallory.example/&quot;' to='b@capulet.example'/>", "<presence" + addressed + "/>",
		acksEnabled + askForAck + ack(0), ack(1), "<enable xmlns='urn:xmpp:sm:3'/>",
		"<db:result xmlns:db='jabber:server:dialback' from='a' to='b'>k</db:result>",
		"<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
		"<iq type='get' id='1' from='x.example' to='capulet.example'/>",
	} {
		for _, w := range []int{int(bothWays), int(inward), int(outward)} {
			f.Add(w, s)
		}
	}
	f.Fuzz(func(t *testing.T, w int, in string) {
		header := rawHeader("mallory.example", "capulet.example")
		n, s := negotiate(t, header+packet+in)
		n.pair, n.way, n.acks = pair{"capulet.example", "mallory.example"}, way(uint(w)%3), true
		if _, err := n.header(); err != nil {
			t.Fatal(err)
		}
		l := n.link(true)
		l.ctx, l.cancel = context.WithCancel(t.Context())
		defer l.cancel()
		err := l.read()
		if err == nil {
			t.Fatal("the reader ended for no reason")
		}
		l.retire()
		<-l.drained
		l.cancel()
		l.handlers.Wait()
		b, _ := l.out.take(nil)
		s.said.WriteString(string(encodeHeader(n.pair, "x")) + string(b))
		checkSaid(t, s, in)
		if way(uint(w)%3) == outward && strings.Contains(string(b), "<iq") {
			t.Fatalf("a stanza was answered: %s", b)
		}
	})
}

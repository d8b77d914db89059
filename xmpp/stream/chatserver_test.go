package stream

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

// chatServer is an ordinary server as others write them, for montague.example:
// it takes streams one after the other and hands them to a script once they
// are authenticated.
type chatServer struct {
	*testing.T
	ln     net.Listener
	cert   *tls.Certificate
	before string // features before authentication
	after  string // and behind it
	script func(*rawPeer)
	wg     sync.WaitGroup
	mu     sync.Mutex
	conns  []net.Conn
}

// ordinaryFeatures lack bidi.
var ordinaryFeatures = strings.Replace(serverFeatures, "<bidi xmlns='urn:xmpp:features:bidi'/>", "", 1)

func startChatServer(t *testing.T, cert *tls.Certificate, before, after string, script func(*rawPeer)) *chatServer {
	s := &chatServer{T: t, ln: listen(t), cert: cert, before: before, after: after, script: script}
	s.wg.Go(func() {
		for {
			raw, err := s.ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, raw)
			s.mu.Unlock()
			s.wg.Go(func() {
				defer raw.Close()
				s.serve(raw)
			})
		}
	})
	t.Cleanup(func() {
		s.ln.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

func (s *chatServer) target() []Target {
	return []Target{{Host: "chat", Addr: s.ln.Addr().String()}}
}

func (s *chatServer) serve(raw net.Conn) {
	raw.SetDeadline(time.Now().Add(15 * time.Second))
	c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*s.cert}, ClientAuth: tls.RequestClientCert})
	r := &rawPeer{s.T, c, wire.NewParser(c, wire.Default())}
	if _, err := r.parser.Header(); err != nil {
		return
	}
	io.WriteString(c, serverHeader+s.before)
	for el := (*wire.Element)(nil); !el.Is(nsSASL, "auth"); {
		var err error
		if el, err = r.parser.Next(); err != nil {
			return
		}
	}
	r.parser.Reset(c)
	io.WriteString(c, serverSuccess)
	if _, err := r.parser.Header(); err != nil {
		return
	}
	io.WriteString(c, serverHeader+s.after)
	if s.script != nil {
		s.script(r)
	}
}

// forward hands on what comes over a stream until it ends.
func forward(c chan<- *wire.Element) func(*rawPeer) {
	return func(r *rawPeer) {
		for {
			el, err := r.parser.Next()
			if err != nil {
				io.WriteString(r.conn, "</stream:stream>")
				return
			}
			c <- el
		}
	}
}

// dialOrdinary opens a stream to a node as an ordinary server does: without
// bidi, for what it sends alone.
func dialOrdinary(t testing.TB, n *node, cert *tls.Certificate) *rawPeer {
	t.Helper()
	r := dialRaw(t, n, "capulet.example", cert)
	r.open("montague.example", "capulet.example")
	r.send(rawAuth)
	if el := r.next(); el.Name.Local != "success" {
		t.Fatal("not authenticated:", el.Name.Local)
	}
	if err := r.parser.Reset(r.conn); err != nil {
		t.Fatal(err)
	}
	r.open("montague.example", "capulet.example")
	return r
}

// take waits for what a script forwards.
func take(t testing.TB, c <-chan *wire.Element) *wire.Element {
	t.Helper()
	select {
	case el := <-c:
		return el
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
		return nil
	}
}

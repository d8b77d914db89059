package component

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ourDomain = "ours.example"
	peer      = "peer.example"
	secret    = "tell nobody"
)

// fakeServer is the server's side of XEP-0114, spoken by hand.
type fakeServer struct {
	t     testing.TB
	ln    net.Listener
	conns chan *serverConn
}

type serverConn struct {
	t      testing.TB
	conn   net.Conn
	parser *wire.Parser
}

func newServer(t testing.TB) *fakeServer {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{t, ln, make(chan *serverConn, 8)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(patience))
			c := &serverConn{t, conn, wire.NewParser(conn, wire.Default())}
			t.Cleanup(func() { conn.Close() })
			s.conns <- c
		}
	})
	t.Cleanup(func() { ln.Close(); running.Wait() })
	return s
}

const patience = 15 * time.Second

// accept takes the next connection and welcomes it.
func (s *fakeServer) accept() *serverConn {
	s.t.Helper()
	c := s.next()
	c.welcome()
	return c
}

func (s *fakeServer) next() *serverConn {
	s.t.Helper()
	select {
	case c := <-s.conns:
		return c
	case <-time.After(patience):
		s.t.Fatal("nobody connects")
		return nil
	}
}

const streamID = "3BF96D32"

// open answers the stream header and checks the handshake that follows.
func (c *serverConn) open() {
	c.t.Helper()
	h, err := c.parser.Header()
	if err != nil || h.To != ourDomain || h.Content != nsComponent {
		c.t.Fatalf("header %+v, %v", h, err)
	}
	c.send("<?xml version='1.0'?><stream:stream xmlns:stream='" + wire.StreamNS + "' xmlns='" + nsComponent + "' from='" + ourDomain + "' id='" + streamID + "'>")
	el := c.next()
	if want := sha1.Sum([]byte(streamID + secret)); !el.Is(nsComponent, "handshake") || string(el.Text) != hex.EncodeToString(want[:]) {
		c.t.Fatalf("handshake %s %q", el.Name, el.Text)
	}
}

func (c *serverConn) welcome() {
	c.t.Helper()
	c.open()
	c.send("<handshake/>")
}

func (c *serverConn) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c.conn, s); err != nil {
		c.t.Fatal(err)
	}
}

// next is what comes next, but for what the component sends to itself.
func (c *serverConn) next() *wire.Element {
	c.t.Helper()
	for {
		el, err := c.parser.Next()
		if err != nil {
			c.t.Fatal(err)
		}
		if !strings.HasPrefix(el.Attr("id"), aloneID) {
			return el
		}
	}
}

// answer answers a request in the name of whom it was for.
func (c *serverConn) answer(iq *wire.Element, typ, payload string) {
	c.t.Helper()
	c.send("<iq type='" + typ + "' id='" + iq.Attr("id") + "' from='" + iq.Attr("to") + "' to='" + iq.Attr("from") + "'>" + payload + "</iq>")
}

// start runs a component of the server.
func (s *fakeServer) start(change ...func(*Config)) *Component {
	s.t.Helper()
	cfg := Config{
		Domain: ourDomain, Address: s.ln.Addr().String(), Secret: secret, AssertAuthenticated: true,
		RequestTimeout: patience, CloseTimeout: 2 * time.Second, BackOff: 5 * time.Millisecond, RefusedBackOff: 5 * time.Millisecond,
		Handle: echo, Version: "test",
		DiscoInfo: func(string, string) []byte { return []byte("<feature var='urn:test'/>") },
	}
	for _, f := range change {
		f(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
	return c
}

// echo answers any payload with its text and whom it came from.
func echo(_ context.Context, b mail.Binding, iq *stream.IQ) stream.Reply {
	e := wire.NewEncoder(nil)
	e.Start("echo", "urn:test")
	e.Attr("proof", b.Proof)
	e.Text(b.Remote + " " + string(iq.Payload.Text))
	e.End()
	p, _ := e.Bytes()
	return stream.Reply{Payload: p}
}

func request(id, from, to, payload string) string {
	return "<iq type='get' id='" + id + "' from='" + from + "' to='" + to + "'>" + payload + "</iq>"
}

// outcome is what a Request came to.
type outcome struct {
	el  *wire.Element
	err error
}

// ask sends a request in the background.
func ask(t testing.TB, c *Component, remote, typ string) <-chan outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	l, err := c.Link(ctx, ourDomain, remote)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan outcome, 1)
	go func() {
		el, err := l.Request(ctx, typ, []byte("<echo xmlns='urn:test'>hello</echo>"))
		done <- outcome{el, err}
	}()
	return done
}

func wait(t testing.TB, done <-chan outcome) outcome {
	t.Helper()
	select {
	case o := <-done:
		return o
	case <-time.After(patience):
		t.Fatal("request does not end")
		return outcome{}
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// standing keeps what Up and Down tell.
type standing struct {
	mu   sync.Mutex
	told []string
}

func (s *standing) note(c *Config) {
	add := func(what string) func(string, string) {
		return func(local, remote string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.told = append(s.told, what+" "+local+" "+remote)
		}
	}
	c.Up, c.Down = add("up"), add("down")
}

func (s *standing) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.told, ", ")
}

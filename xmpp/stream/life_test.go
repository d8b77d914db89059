package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

func TestIdleClose(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) { c.IdleClose = 50 * time.Millisecond })
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	waitClosed(t, "idle link closed", l.Done())
	eventually(t, "there too", func() bool { return montague.Snapshot().Live == 0 })
	if s := capulet.Snapshot(); s.StreamErrors != 0 {
		t.Errorf("not in order: %+v", s)
	}
}

// TestExpiry: a link ends with the certificate that proves it, and by age.
func TestExpiry(t *testing.T) {
	ca := newAuthority(t)
	soon := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) }
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	montague := startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("montague.example", soon)})
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	mustEcho(t, l)
	waitClosed(t, "link closed with the certificate's end", l.Done())

	old, verona, _ := twoNodes(t, func(c *Config) { c.MaxLife = 50 * time.Millisecond })
	l = mustLink(t, old, "capulet.example", "montague.example", verona)
	waitClosed(t, "link closed by age", l.Done())
}

// TestPing: a silent link is asked for life; who answers lives, who does not
// is cut.
func TestPing(t *testing.T) {
	short := func(c *Config) {
		c.PingAfter, c.RequestTimeout, c.CloseTimeout = 20*time.Millisecond, 300*time.Millisecond, 50*time.Millisecond
	}
	capulet, montague, _ := twoNodes(t, short)
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	first := l.lastRead.Load()
	eventually(t, "answered thrice", func() bool {
		if now := l.lastRead.Load(); now > first+int64(60*time.Millisecond) {
			return true
		}
		return false
	})
	mustEcho(t, l)
	if s := capulet.Snapshot(); s.StrayAnswers != 0 {
		t.Errorf("%+v", s)
	}

	node, connect := mallory(t, short)
	r := connect()
	if el := r.next(); !el.Children[0].Is(nsPing, "ping") {
		t.Fatal("no ping")
	}
	if c := r.streamError(); c != "connection-timeout" {
		t.Fatal("ended with", c)
	}
	eventually(t, "gone", func() bool { return node.Snapshot().Live == 0 })
}

// TestShutdownInOrder: what is in hand is answered before the streams close.
func TestShutdownInOrder(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.Handle = func(ctx context.Context, l *Link, iq *IQ) Reply {
			close(started)
			<-release
			return echo(ctx, l, iq)
		}
	})
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	result := make(chan error, 1)
	go func() {
		_, err := l.Request(context.Background(), "set", echoPayload("x"))
		result <- err
	}()
	<-started
	down := make(chan struct{})
	go func() {
		montague.Shutdown(context.Background())
		close(down)
	}()
	in := func() *Link { return montague.Live("montague.example", "capulet.example") }
	eventually(t, "no new requests", func() bool { return in() == nil })
	if _, err := l.Request(t.Context(), "set", echoPayload("x")); err == nil {
		t.Error("a request during shutdown was served")
	} else if e, ok := errors.AsType[*StanzaError](err); !ok || e.Condition != "resource-constraint" {
		t.Error("request during shutdown:", err)
	}
	close(release)
	if err := <-result; err != nil {
		t.Error("request in hand at shutdown:", err)
	}
	waitClosed(t, "shut down", down)
	if _, err := montague.Link(t.Context(), "montague.example", "capulet.example", capulet.target()); !errors.Is(err, ErrShutdown) {
		t.Error("link after shutdown:", err)
	}
}

// TestShutdownIsBounded: neither a peer that does not close nor one in
// negotiation holds it up.
func TestShutdownIsBounded(t *testing.T) {
	capulet, connect := mallory(t, func(c *Config) { c.CloseTimeout = time.Hour })
	connect()
	half, err := net.Dial("tcp", capulet.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	eventually(t, "accepted", func() bool { return capulet.Snapshot().Accepted == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	done := make(chan struct{})
	go func() {
		capulet.Shutdown(ctx)
		close(done)
	}()
	waitClosed(t, "shut down", done)
}

// TestPeerClosesInOrder: the peer's closing tag is answered by ours.
func TestPeerClosesInOrder(t *testing.T) {
	_, connect := mallory(t)
	r := connect()
	r.send("</stream:stream>")
	if c := r.streamError(); c != "" {
		t.Fatal("ended with", c)
	}
	if _, err := io.ReadAll(r.conn); err != nil {
		t.Fatal("not closed cleanly:", err)
	}
}

// TestPeerEndsWithError: the peer's stream error releases who waits.
func TestPeerEndsWithError(t *testing.T) {
	capulet, connect := mallory(t)
	r := connect()
	l := liveAt(t, capulet, "capulet.example", "mallory.example")
	result := make(chan error, 1)
	go func() {
		_, err := l.Request(context.Background(), "set", echoPayload("x"))
		result <- err
	}()
	r.next()
	r.send("<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
	if err := <-result; !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	waitClosed(t, "link dead", l.Done())
}

// TestWeCloseInOrder: our closing tag leaves the connection open for the
// peer's, with TLS still on.
func TestWeCloseInOrder(t *testing.T) {
	capulet, connect := mallory(t)
	r := connect()
	l := liveAt(t, capulet, "capulet.example", "mallory.example")
	l.Close("")
	if c := r.streamError(); c != "" {
		t.Fatal("ended with", c)
	}
	r.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := r.conn.Read(make([]byte, 1)); !isTimeout(err) {
		t.Fatal("the connection was closed ahead of the peer's closing tag:", err)
	}
	r.send("</stream:stream>")
	waitClosed(t, "link closed", l.Done())
}

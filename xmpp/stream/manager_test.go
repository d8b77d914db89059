package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestOneDialForMany(t *testing.T) {
	capulet, montague, _ := twoNodes(t)
	var wg sync.WaitGroup
	links := make([]*Link, 32)
	for i := range links {
		wg.Go(func() { links[i] = mustLink(t, capulet, "capulet.example", "montague.example", montague) })
	}
	wg.Wait()
	for _, l := range links {
		if l == nil || l != links[0] {
			t.Fatal("callers got different links")
		}
	}
	if s := capulet.Snapshot(); s.Dialled != 1 || s.Ready != 1 {
		t.Errorf("%+v", s)
	}
}

// closedAddr is an address that refuses connections.
func closedAddr(t *testing.T) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func TestTargetsInOrder(t *testing.T) {
	capulet, montague, ca := twoNodes(t)
	// A refusing address and a host that cannot prove the domain come first.
	wrong := startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("verona.example")})
	targets := append([]Target{{Addr: closedAddr(t)}, wrong.target()[0]}, montague.target()...)
	l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
	if err != nil || l.Binding().Addr != montague.addr {
		t.Fatal(l, err)
	}
	if s := capulet.Snapshot(); s.Dialled != 3 || s.DialFailures != 2 {
		t.Errorf("%+v", s)
	}
}

// TestBackOff: a dead peer is not dialled at every call, and a live one at
// once again.
func TestBackOff(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) { c.BackOff = time.Hour })
	dead := []Target{{Addr: closedAddr(t)}}
	_, err := capulet.Link(t.Context(), "capulet.example", "montague.example", dead)
	if e, ok := errors.AsType[*NegotiationError](err); !ok || e.Stage != StageDial || e.Permanent {
		t.Fatalf("%#v", err)
	}
	for range 10 {
		_, err = capulet.Link(t.Context(), "capulet.example", "montague.example", dead)
		if e, ok := errors.AsType[*NegotiationError](err); !ok || e.Stage != StageBackOff {
			t.Fatalf("%#v", err)
		}
	}
	if s := capulet.Snapshot(); s.Dialled != 1 {
		t.Errorf("%+v", s)
	}
	// The peer comes by itself: that ends the back-off.
	mustLink(t, montague, "montague.example", "capulet.example", capulet)
	liveAt(t, capulet, "capulet.example", "montague.example")
	mustEcho(t, mustLink(t, capulet, "capulet.example", "montague.example", montague))
	liveAt(t, montague, "montague.example", "capulet.example").Close("")
	eventually(t, "closed", func() bool { return capulet.Live("capulet.example", "montague.example") == nil })
	mustLink(t, capulet, "capulet.example", "montague.example", montague)

	m := NewManager(Config{BackOff: time.Second})
	for n, most := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 6: maxBackOff, 1000: maxBackOff} {
		for range 20 {
			if d := m.backOff(n); d < most/2 || d > most {
				t.Errorf("back-off %d: %v", n, d)
			}
		}
	}
	m.Shutdown(t.Context())
}

// TestInboundEndsTheWait: the peer arrives while our dial hangs.
func TestInboundEndsTheWait(t *testing.T) {
	capulet, montague, _ := twoNodes(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	got := make(chan *Link, 1)
	go func() {
		l, _ := capulet.Link(context.Background(), "capulet.example", "montague.example", []Target{{Addr: silent.Addr().String()}})
		got <- l
	}()
	eventually(t, "dialled", func() bool { return capulet.Snapshot().Dialled == 1 })
	mustLink(t, montague, "montague.example", "capulet.example", capulet)
	select {
	case l := <-got:
		if l == nil || !l.Inbound() {
			t.Fatal("another link:", l)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("still waiting for the dial")
	}
}

func TestLinkHonoursContext(t *testing.T) {
	capulet, _, _ := twoNodes(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = capulet.Link(ctx, "capulet.example", "montague.example", []Target{{Addr: silent.Addr().String()}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := capulet.Link(t.Context(), "capulet.example", "verona.example", nil); err == nil {
		t.Fatal("a link to nowhere")
	}
}

func TestUpAndDown(t *testing.T) {
	capulet, montague, ca := twoNodes(t)
	first := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	// A second link of the pair changes nothing, nor does the end of one.
	cert := ca.issue("montague.example")
	second := dialRaw(t, capulet, "capulet.example", cert).ready("montague.example", "capulet.example")
	eventually(t, "two links", func() bool { return capulet.Snapshot().Live == 2 })
	first.Close("")
	waitClosed(t, "first closed", first.Done())
	eventually(t, "one link", func() bool { return capulet.Snapshot().Live == 1 })
	if l := capulet.Live("capulet.example", "montague.example"); l == nil || l == first {
		t.Fatal("not the link that is left")
	}
	if got := capulet.logged(); !slices.Equal(got, []string{"up capulet.example montague.example"}) {
		t.Fatal(got)
	}
	second.send("</stream:stream>")
	second.streamError()
	eventually(t, "down", func() bool { return len(capulet.logged()) == 2 })
	if got := capulet.logged()[1]; got != "down capulet.example montague.example" {
		t.Fatal(got)
	}
	eventually(t, "down there too", func() bool { return len(montague.logged()) == 2 })
}

// TestTooManyOfOnePair: the oldest goes.
func TestTooManyOfOnePair(t *testing.T) {
	capulet, connect := mallory(t)
	peers := make([]*rawPeer, maxPerPair+1)
	for i := range peers {
		peers[i] = connect()
		eventually(t, "live", func() bool { return capulet.Snapshot().Ready == int64(i+1) })
	}
	if c := peers[0].streamError(); c != "conflict" {
		t.Fatal("the oldest ended with", c)
	}
	peers[maxPerPair].mustPing()
	peers[1].mustPing()
}

func TestConnectionLimits(t *testing.T) {
	capulet, connect := mallory(t, func(c *Config) { c.MaxPerAddress = 3 })
	a := connect()
	connect()
	connect()
	conn, err := net.Dial("tcp", capulet.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Fatal("one connection too many is kept:", err)
	}
	conn.Close()
	if s := capulet.Snapshot(); s.TurnedAway != 1 {
		t.Errorf("%+v", s)
	}
	a.send("</stream:stream>")
	a.streamError()
	a.conn.Close()
	eventually(t, "room again", func() bool {
		capulet.mu.Lock()
		defer capulet.mu.Unlock()
		return capulet.accepted == 2
	})
	connect().mustPing()
}

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

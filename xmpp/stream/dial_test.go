package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
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

// TestDropsAtOnce: who takes streams only to drop them is not dialled without
// a pause; once one has been of use, the next comes at once.
func TestDropsAtOnce(t *testing.T) {
	ca := newAuthority(t)
	use := make(chan bool, 2)
	chat := startChatServer(t, ca.issue("montague.example"), serverFeatures, "<stream:features/>", func(r *rawPeer) {
		if <-use {
			r.conn.Write([]byte("<iq type='get' id='1'" + fromMontague + "><ping xmlns='urn:xmpp:ping'/></iq>"))
			r.parser.Next()
		}
		r.conn.Write([]byte("<stream:error><reset xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"))
	})
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")},
		func(c *Config) { c.BackOff = time.Hour })
	dial := func() error {
		l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", chat.target())
		if err == nil {
			waitClosed(t, "dropped", l.Done())
		}
		return err
	}
	use <- true
	if err := dial(); err != nil {
		t.Fatal(err)
	}
	use <- false
	if err := dial(); err != nil {
		t.Fatal("not dialled again:", err)
	}
	for range 3 {
		e, ok := errors.AsType[*NegotiationError](dial())
		if !ok || e.Stage != StageBackOff || e.Condition != "reset" || e.Permanent || !e.Peer {
			t.Fatalf("%+v", e)
		}
	}
	if s := capulet.Snapshot(); s.Dialled != 2 {
		t.Errorf("%+v", s)
	}
}

// TestIPv6 in both roles.
func TestIPv6(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	montague := startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("montague.example")})
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- montague.Serve(t.Context(), ln) }()
	l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", []Target{{Addr: ln.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	mustEcho(t, l)
	if b := liveAt(t, montague, "montague.example", "capulet.example").Binding(); !strings.HasPrefix(b.Addr, "[::1]:") {
		t.Error(b.Addr)
	}
	ln.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
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

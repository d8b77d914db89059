package stream

import (
	"net"
	"net/netip"
	"sync"
	"testing"
)

// addressedConn is a connection from an address, and nothing else.
type addressedConn struct {
	net.Conn
	from netip.Addr
}

func (c *addressedConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.from, 40000))
}

// TestPlacesOfOneNetwork: all addresses of an IPv6 /64 count as one, IPv4
// addresses each for themselves, however they are written.
func TestPlacesOfOneNetwork(t *testing.T) {
	m := NewManager(Config{MaxPerAddress: 3, MaxStreams: 100})
	var conns []net.Conn
	for _, c := range []struct {
		from    string
		entered bool
	}{
		{"2001:db8::1", true}, {"2001:db8::2", true}, {"2001:db8::ffff:0:0:1", true}, {"2001:db8::3", false},
		{"2001:db8:0:1::1", true}, {"2001:db9::1", true},
		{"fe80::1%eth0", true}, {"fe80::2%eth1", true}, {"fe80::3", true}, {"fe80::4%eth0", false},
		{"192.0.2.1", true}, {"::ffff:192.0.2.1", true}, {"192.0.2.1", true}, {"::ffff:192.0.2.1", false}, {"192.0.2.2", true},
	} {
		conn := &addressedConn{from: netip.MustParseAddr(c.from)}
		if got := m.enter(conn); got != c.entered {
			t.Errorf("%s entered: %v", c.from, got)
		} else if got {
			conns = append(conns, conn)
		}
	}
	for _, conn := range conns {
		m.grown(conn)
		m.leave(conn)
		m.wg.Done()
	}
	if len(m.perAddr) != 0 || m.accepted != 0 {
		t.Errorf("%d networks and %d places are still counted", len(m.perAddr), m.accepted)
	}
}

// TestNothingLeavesAfterNeverLeft: once the queue was killed, the rest of a
// batch that the writer holds may not leave.
func TestNothingLeavesAfterNeverLeft(t *testing.T) {
	o := newOutbox(&sync.Pool{})
	if _, _, err := o.try(1<<20, make([]byte, piece)); err != nil {
		t.Fatal(err)
	}
	at, _, err := o.try(1<<20, []byte("<iq>commit</iq>"))
	if err != nil {
		t.Fatal(err)
	}
	batch, _ := o.take(nil)
	if !o.leaving(piece) {
		t.Fatal("the first piece may not leave")
	}
	o.left(piece)
	o.kill()
	if !o.neverLeft(at) {
		t.Fatal("the second stanza has not left")
	}
	if o.leaving(len(batch)-piece) || !o.neverLeft(at) {
		t.Error("it leaves after it was said never to")
	}
}

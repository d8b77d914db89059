package stream

import (
	"net"
	"slices"
	"testing"
	"time"
)

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
	id := newID()
	peers[1].send("<iq type='get' id='" + id + "'" + addressed + "><ping xmlns='urn:xmpp:ping'/></iq>")
	for el := peers[1].next(); el.Attr("id") != id; el = peers[1].next() {
		if !el.Children[0].Is(nsPing, "ping") { // which tells the half dead
			t.Fatal(el.Children[0].Name)
		}
	}
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

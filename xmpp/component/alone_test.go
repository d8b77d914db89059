package component

import (
	"strings"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

// calls reads what the component sends to itself, to the last of a round.
func (c *serverConn) calls() (round []*wire.Element) {
	c.t.Helper()
	for range atOnce {
		el, err := c.parser.Next()
		if err != nil || !strings.HasPrefix(el.Attr("id"), aloneID) || el.Attr("from") != ourDomain || el.Attr("to") != ourDomain {
			c.t.Fatalf("%v, %v", el, err)
		}
		round = append(round, el)
	}
	return round
}

func ownCall(id string) string {
	return request(id, ourDomain, ourDomain, "<ping xmlns='urn:xmpp:ping'/>")
}

// TestAlone: what comes back from our own name, and who stays.
func TestAlone(t *testing.T) {
	const conflict = "<error type='cancel'><conflict xmlns='" + nsStanzas + "'/></error>"
	for _, tt := range []struct {
		name   string
		send   func(c *serverConn, round []*wire.Element)
		leaves bool
	}{
		{"its own", func(c *serverConn, round []*wire.Element) {
			for _, el := range round {
				c.send(ownCall(el.Attr("id")))
			}
		}, false},
		{"one who came before", func(c *serverConn, _ []*wire.Element) { c.send(ownCall(aloneID + "0000000000000001-x-y")) }, true},
		{"one who came later", func(c *serverConn, _ []*wire.Element) {
			id := aloneID + "ffffffffffffffff-x-y"
			c.send(ownCall(id))
			el, err := c.parser.Next()
			if err != nil || el.Attr("id") != id || el.Child(nsComponent, "error").Child(nsStanzas, "conflict") == nil {
				c.t.Errorf("answered %v, %v", el, err)
			}
		}, false},
		{"refused by one who came before", func(c *serverConn, round []*wire.Element) { c.answer(round[0], "error", conflict) }, true},
		{"a refusal for somebody else", func(c *serverConn, round []*wire.Element) {
			round[0].Attrs = []wire.Attr{{Name: wire.Name{Local: "id"}, Value: aloneID + "1-x-y"}, {Name: wire.Name{Local: "from"}, Value: ourDomain}, {Name: wire.Name{Local: "to"}, Value: ourDomain}}
			c.answer(round[0], "error", conflict)
		}, false},
		{"the server does not do that", func(c *serverConn, round []*wire.Element) {
			c.answer(round[0], "error", "<error type='cancel'><service-unavailable xmlns='"+nsStanzas+"'/></error>")
		}, false},
		{"a peer with such an id", func(c *serverConn, _ []*wire.Element) {
			c.send(request(aloneID+"0000000000000001-x-y", peer, ourDomain, "<ping xmlns='urn:xmpp:ping'/>"))
			c.parser.Next()
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newServer(t)
			c := srv.start()
			conn := srv.accept()
			tt.send(conn, conn.calls())
			if tt.leaves {
				srv.accept() // it tries again after its back-off
				return
			}
			conn.send(request("after", peer, ourDomain, work))
			if el := conn.next(); el.Attr("id") != "after" {
				t.Errorf("%v", el)
			}
			if n := c.Snapshot().Connected; n != 1 {
				t.Errorf("connected %d times", n)
			}
		})
	}
}

// TestCallsAgain: it looks for others for as long as it is connected.
func TestCallsAgain(t *testing.T) {
	srv := newServer(t)
	srv.start(func(c *Config) { c.AloneEvery = time.Millisecond })
	conn := srv.accept()
	for range 3 {
		conn.calls()
	}
}

// TestServerStops: a server that brings nothing back any more is left.
func TestServerStops(t *testing.T) {
	srv := newServer(t)
	c := srv.start(func(c *Config) { c.AloneEvery = 50 * time.Millisecond })
	conn := srv.accept()
	conn.send(ownCall(conn.calls()[0].Attr("id")))
	again := srv.accept()
	for range 3 { // this one never has: that proves nothing
		again.calls()
	}
	if n := c.Snapshot().Connected; n != 2 {
		t.Errorf("connected %d times", n)
	}
}

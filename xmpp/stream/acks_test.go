package stream

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

// withAcks is a link of capulet to a server that offers acks; the test plays
// that server.
func withAcks(t *testing.T, before string, change ...func(*Config)) (*node, *Link, *rawPeer) {
	ca := newAuthority(t)
	peer, done := make(chan *rawPeer, 1), make(chan struct{})
	chat := startChatServer(t, ca.issue("montague.example"), before, "<stream:features><sm xmlns='urn:xmpp:sm:3'/></stream:features>",
		func(r *rawPeer) {
			peer <- r
			<-done
		})
	t.Cleanup(func() { close(done) })
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")}, change...)
	p := pair{"capulet.example", "montague.example"}
	capulet.Link(t.Context(), p.local, p.remote, chat.target())
	r := <-peer
	t.Cleanup(func() { r.conn.NetConn().Close() }) // before the node waits for it
	if el := r.next(); !el.Is(nsAcks, "enable") || el.HasAttr("resume") {
		t.Fatal("acks are not asked for:", el.Name, el.Attrs)
	}
	return capulet, capulet.toward(p), r
}

const (
	acksEnabled = "<enabled xmlns='urn:xmpp:sm:3'/>"
	askForAck   = "<r xmlns='urn:xmpp:sm:3'/>"
	pingFromM   = "<iq type='get' id='1'" + fromMontague + "><ping xmlns='urn:xmpp:ping'/></iq>"
)

func ack(h any) string { return fmt.Sprintf("<a xmlns='urn:xmpp:sm:3' h='%v'/>", h) }

// mustCount asks for the count of our stanzas that were taken.
func (r *rawPeer) mustCount(want string) {
	r.t.Helper()
	r.send(askForAck)
	if el := r.next(); !el.Is(nsAcks, "a") || el.Attr("h") != want {
		r.t.Fatalf("%s h=%q, want %s", el.Name.Local, el.Attr("h"), want)
	}
}

// TestAcksCount: stanzas count from enabled on, whether they were right or
// wrong; nothing else does.
func TestAcksCount(t *testing.T) {
	_, l, r := withAcks(t, serverFeatures)
	r.send(pingFromM) // before
	r.next()
	r.send(acksEnabled)
	r.mustCount("0")
	r.send(pingFromM)
	r.next()
	r.mustCount("1")
	r.send("<message" + fromMontague + "/><presence" + fromMontague + "/>")
	r.next()
	r.mustCount("3")
	r.send(" \n<db:verify xmlns:db='jabber:server:dialback' id='x'" + fromMontague + ">key</db:verify>")
	r.next()
	r.mustCount("3")
	if sent := l.out.stanzasPut(); sent != 3 { // two pongs and an error; the rest are no stanzas
		t.Errorf("%d stanzas of ours counted", sent)
	}
	r.send(ack(2) + ack(3) + ack(3) + pingFromM)
	if el := r.next(); el.Attr("type") != "result" {
		t.Fatal("right counts end the link:", el.Name)
	}
}

// TestAcksThatLie end the stream, with the condition of XEP-0198 section 4.
func TestAcksThatLie(t *testing.T) {
	for _, tt := range []struct {
		name, in, condition string
		counted             int64
	}{
		{"more than was sent", acksEnabled + ack(1), "undefined-condition", 1},
		{"most of all", acksEnabled + ack(uint32(1<<32-1)), "undefined-condition", 1},
		{"less than before", acksEnabled + pingFromM + pingFromM + ack(2) + ack(1), "undefined-condition", 1},
		{"beyond 32 bits", acksEnabled + ack("4294967296"), "bad-format", 0},
		{"negative", acksEnabled + ack("-1"), "bad-format", 0},
		{"no number", acksEnabled + ack("x"), "bad-format", 0},
		{"no count", acksEnabled + "<a xmlns='urn:xmpp:sm:3'/>", "bad-format", 0},
		{"before enabled", ack(0), "unsupported-stanza-type", 0},
		{"asked before enabled", askForAck, "unsupported-stanza-type", 0},
		{"enabled twice", acksEnabled + acksEnabled, "unsupported-stanza-type", 0},
		{"after failed", "<failed xmlns='urn:xmpp:sm:3'/>" + askForAck, "unsupported-stanza-type", 0},
		{"unknown", acksEnabled + "<x xmlns='urn:xmpp:sm:3'/>", "unsupported-stanza-type", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			capulet, _, r := withAcks(t, serverFeatures)
			r.send(tt.in)
			tooHigh := false
			for {
				el, err := r.parser.Next()
				if err != nil {
					t.Fatal("no stream error:", err)
				}
				if el.Is(wire.StreamNS, "error") {
					if c := readPeerError(el).condition; c != tt.condition {
						t.Fatal("ended with", c)
					}
					tooHigh = el.Child(nsAcks, "handled-count-too-high") != nil
					break
				}
			}
			if s := capulet.Snapshot(); s.AckErrors != tt.counted || tooHigh != (tt.counted == 1) || s.StreamErrors != 1 {
				t.Errorf("handled-count-too-high: %v, %+v", tooHigh, s)
			}
		})
	}
}

// TestAcksAreAskedFor: as a sign of life, also over a stream that brings no
// answers; who stays silent is cut.
func TestAcksAreAskedFor(t *testing.T) {
	for name, features := range map[string]string{"bidi": serverFeatures, "one way": ordinaryFeatures} {
		t.Run(name, func(t *testing.T) {
			capulet, l, r := withAcks(t, features, func(c *Config) {
				c.RequestTimeout, c.CloseTimeout = 300*time.Millisecond, 50*time.Millisecond
			})
			r.send(acksEnabled)
			eventually(t, "enabled", l.acks.on.Load)
			l.ping() // a stanza
			if el := r.next(); !el.Is(nsServer, "iq") {
				t.Fatal(el.Name)
			}
			if el := r.next(); !el.Is(nsAcks, "r") {
				t.Fatal("not asked for, but", el.Name)
			}
			r.send(ack(1))
			eventually(t, "accounted for", func() bool { return l.acks.acked.Load() == 1 && l.acks.pending.Load() == 0 })
			l.out.try(1000, []byte("<message/>"))
			r.next()
			if el := r.next(); !el.Is(nsAcks, "r") {
				t.Fatal("not asked for again, but", el.Name)
			}
			if c := r.streamError(); c != "connection-timeout" {
				t.Fatal("ended with", c)
			}
			eventually(t, "gone", func() bool { s := capulet.Snapshot(); return s.Live+s.OneWay == 0 })
		})
	}
}

// TestAcksAreNotOffered: a peer that asks all the same is told so.
func TestAcksAreNotOffered(t *testing.T) {
	_, connect := mallory(t)
	r := connect()
	for _, in := range []string{"<enable xmlns='urn:xmpp:sm:3' resume='true'/>", "<resume xmlns='urn:xmpp:sm:3' h='0' previd='x'/>"} {
		r.send(in)
		if el := r.next(); !el.Is(nsAcks, "failed") {
			t.Error(in, el.Name)
		}
	}
	r.mustPing()
	r.send(askForAck)
	if c := r.streamError(); c != "unsupported-stanza-type" {
		t.Error("ended with", c)
	}
}

// TestCountsWrap at 2^32 (XEP-0198 section 4).
func TestCountsWrap(t *testing.T) {
	l := &Link{m: &Manager{}, out: &outbox{stanzas: 2}}
	l.acks.acked.Store(1<<32 - 3)
	for _, h := range []string{"4294967294", "4294967295", "0", "2"} {
		if err := l.countAcked(h); err != nil {
			t.Fatal(h, err)
		}
	}
	if err := l.countAcked("3"); err == nil {
		t.Error("one too many")
	}
}

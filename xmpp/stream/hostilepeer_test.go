package stream

import (
	"context"
	"crypto/tls"
	"fmt"
	"testing"
)

// dialledPeer is a proven peer that we have dialled, with bidirectional
// streams; it speaks by hand.
func dialledPeer(t *testing.T, ca *authority, capulet *node, before func(*rawPeer) bool) (*rawPeer, *Link) {
	t.Helper()
	connected, done := make(chan *rawPeer, 1), make(chan struct{})
	targets := rawServer(t, ca.issue("montague.example"), before, func(r *rawPeer) {
		r.serve([]string{serverHeader + serverFeatures, serverSuccess, serverHeader + "<stream:features/>"})
		connected <- r
		<-done // the test reads and writes from here
	})
	t.Cleanup(func() { close(done) })
	l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
	if err != nil {
		t.Fatal(err)
	}
	r := <-connected
	t.Cleanup(func() { r.conn.NetConn().Close() })
	return r, l
}

// TestForeignStanzasOfDialledPeers: whom we have dialled speaks for its own
// domain alone, as if it had dialled us.
func TestForeignStanzasOfDialledPeers(t *testing.T) {
	iq := func(from, to string) string {
		return "<iq type='set' id='1'" + from + to + "><a xmlns='urn:x'/></iq>"
	}
	for _, tt := range []struct{ name, in, condition string }{
		{"from us", iq(" from='capulet.example'", " to='capulet.example'"), "invalid-from"},
		{"from another domain", iq(" from='verona.example'", " to='capulet.example'"), "invalid-from"},
		{"from a user named as the peer", iq(" from='montague.example@verona.example'", " to='capulet.example'"), "invalid-from"},
		{"from a subdomain", iq(" from='sub.montague.example'", " to='capulet.example'"), "invalid-from"},
		{"from an address literal", iq(" from='[127.0.0.1]'", " to='capulet.example'"), "invalid-from"},
		{"message from another domain", "<message from='verona.example' to='capulet.example'/>", "invalid-from"},
		{"presence from another domain", "<presence from='verona.example' to='capulet.example'/>", "invalid-from"},
		{"no from", iq("", " to='capulet.example'"), "improper-addressing"},
		{"empty from", iq(" from=''", " to='capulet.example'"), "improper-addressing"},
		{"no to", iq(" from='montague.example'", ""), "improper-addressing"},
	} {
		for name, before := range map[string]func(*rawPeer) bool{"direct TLS": nil, "STARTTLS": givesTLS} {
			t.Run(tt.name+" by "+name, func(t *testing.T) {
				defer bounded(t)()
				ca := newAuthority(t)
				capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")}, func(c *Config) {
					c.Handle = func(context.Context, *Link, *IQ) Reply {
						t.Error("a foreign stanza was handled")
						return Reply{}
					}
				})
				r, l := dialledPeer(t, ca, capulet, before)
				r.send(tt.in)
				if c := r.streamError(); c != tt.condition {
					t.Fatalf("ended with %q", c)
				}
				r.conn.NetConn().Close() // which is what our side waits for
				waitClosed(t, "link is dead", l.Done())
				foreign := int64(0)
				if tt.condition == "invalid-from" {
					foreign = 1
				}
				if s := capulet.Snapshot(); s.ForeignStanzas != foreign || s.StreamErrors != 1 || s.Live != 0 || s.RequestsReceived != 0 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// TestDialledPeerStaysInPlace: its own requests are answered, answers in
// another's name are no answers, what is for another domain of ours is
// refused, and the link lives on.
func TestDialledPeerStaysInPlace(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{
		"capulet.example": ca.issue("capulet.example"), "paris.example": ca.issue("paris.example"),
	})
	r, l := dialledPeer(t, ca, capulet, nil)
	request := func(to, condition string) {
		t.Helper()
		r.send("<iq type='get' id='1' from='montague.example' to='" + to + "'><echo xmlns='urn:test'/></iq>")
		el := r.next()
		if condition == "" && el.Attr("type") != "result" || condition != "" && stanzaError(el).Condition != condition {
			t.Errorf("to %s: %s %s", to, el.Attr("type"), stanzaError(el).Condition)
		}
	}
	request("capulet.example", "")
	request("paris.example", "item-not-found")

	answer := make(chan string, 1)
	go func() {
		el, err := l.Request(context.Background(), "get", echoPayload("x"))
		if err != nil {
			answer <- err.Error()
			return
		}
		answer <- string(el.Text)
	}()
	id := r.next().Attr("id")
	for _, from := range []string{"verona.example", "capulet.example", "sub.montague.example", "a@montague.example", "montague.example"} {
		r.send(fmt.Sprintf("<iq type='result' id='%s' from='%s' to='capulet.example'><echo xmlns='urn:test'>%s</echo></iq>", id, from, from))
	}
	if got := <-answer; got != "montague.example" {
		t.Error("taken as the answer: that of", got)
	}
	request("capulet.example", "")
	if s := capulet.Snapshot(); s.StrayAnswers != 4 || s.Live != 1 || s.ForeignStanzas != 0 {
		t.Errorf("%+v", s)
	}
}

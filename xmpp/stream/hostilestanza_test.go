package stream

import (
	"context"
	"crypto/tls"
	"strings"
	"testing"
)

const addressed = " from='mallory.example' to='capulet.example'"

// mallory is a proven peer with bad intentions.
func mallory(t testing.TB, change ...func(*Config)) (*node, func() *rawPeer) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")}, change...)
	cert := ca.issue("mallory.example")
	return capulet, func() *rawPeer {
		return dialRaw(t, capulet, "capulet.example", cert).ready("mallory.example", "capulet.example")
	}
}

// TestWrongStanzas: each gets a stanza error, and the link lives.
func TestWrongStanzas(t *testing.T) {
	capulet, connect := mallory(t)
	r := connect()
	payload := "<ping xmlns='urn:xmpp:ping'/>"
	for _, tt := range []struct{ name, in, condition string }{
		{"no id", "<iq type='get'" + addressed + ">" + payload + "</iq>", "bad-request"},
		{"no type", "<iq id='1'" + addressed + ">" + payload + "</iq>", "bad-request"},
		{"unknown type", "<iq type='put' id='1'" + addressed + ">" + payload + "</iq>", "bad-request"},
		{"no payload", "<iq type='get' id='1'" + addressed + "/>", "bad-request"},
		{"two payloads", "<iq type='get' id='1'" + addressed + ">" + payload + payload + "</iq>", "bad-request"},
		{"unknown payload", "<iq type='get' id='1'" + addressed + "><a xmlns='urn:x'/></iq>", "service-unavailable"},
		{"ping as set", "<iq type='set' id='1'" + addressed + ">" + payload + "</iq>", "service-unavailable"},
		{"from a user", "<iq type='get' id='1' from='a@mallory.example' to='capulet.example'>" + payload + "</iq>", "service-unavailable"},
		{"to a user", "<iq type='get' id='1' from='mallory.example' to='a@capulet.example'>" + payload + "</iq>", "service-unavailable"},
		{"from an IPv6 literal", "<iq type='get' id='1' from='[::1]' to='capulet.example'>" + payload + "</iq>", "jid-malformed"},
		{"from nonsense", "<iq type='get' id='1' from='mallory..example' to='capulet.example'>" + payload + "</iq>", "jid-malformed"},
		{"to another domain", "<iq type='get' id='1' from='mallory.example' to='verona.example'>" + payload + "</iq>", "item-not-found"},
		{"from malformed", "<iq type='get' id='1' from='a..b' to='capulet.example'>" + payload + "</iq>", "jid-malformed"},
		{"to malformed", "<iq type='get' id='1' from='mallory.example' to='@'>" + payload + "</iq>", "jid-malformed"},
		{"disco on a node", "<iq type='get' id='1'" + addressed + "><query xmlns='http://jabber.org/protocol/disco#info' node='x'/></iq>", "item-not-found"},
		{"message", "<message id='1'" + addressed + "><body>hello</body></message>", "service-unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			before := capulet.Snapshot().StanzaErrors
			r.send(tt.in)
			el := r.next()
			if got := capulet.Snapshot().StanzaErrors - before; got != 1 && !strings.Contains(tt.in, "urn:x") && !strings.Contains(tt.in, "node=") && tt.name != "ping as set" {
				t.Errorf("counted %d", got)
			}
			if el.Attr("type") != "error" || stanzaError(el).Condition != tt.condition {
				t.Fatalf("%s %s %s", el.Name.Local, el.Attr("type"), stanzaError(el).Condition)
			}
			if strings.Contains(tt.in, "id='1'") != (el.Attr("id") == "1") {
				t.Error("id", el.Attr("id"))
			}
			r.mustPing()
		})
	}
	for _, in := range []string{ // and these get no answer
		"<presence" + addressed + "/>",
		"<message type='error'" + addressed + "/>",
		"<iq type='result' id='1'" + addressed + "/>",
		"<iq type='error' id='1' from='a..b' to='capulet.example'/>",
		"<db:result xmlns:db='jabber:server:dialback' type='valid'" + addressed + "/>",
		" \r\n\t",
	} {
		r.send(in)
		r.mustPing()
	}
	if s := capulet.Snapshot(); s.Live != 1 || s.StanzaErrors == 0 || s.StrayAnswers != 2 {
		t.Errorf("%+v", s)
	}
}

// mustPing shows that the link lives, and that nothing else came before.
func (r *rawPeer) mustPing() {
	r.t.Helper()
	id := newID()
	r.send("<iq type='get' id='" + id + "'" + addressed + "><ping xmlns='urn:xmpp:ping'/></iq>")
	if el := r.next(); el.Attr("type") != "result" || el.Attr("id") != id || el.Attr("from") != "capulet.example" || el.Attr("to") != "mallory.example" {
		r.t.Fatalf("%s of type %q instead of the answer to a ping", el.Name.Local, el.Attr("type"))
	}
}

// TestForeignStanzas: who is proven to be mallory.example cannot speak for
// another domain. RFC 6120 section 4.9.3.9 has invalid-from for it, which ends
// the stream: a peer that tries is either broken or lying.
func TestForeignStanzas(t *testing.T) {
	capulet, connect := mallory(t, func(c *Config) {
		c.Handle = func(_ context.Context, _ *Link, iq *IQ) Reply {
			t.Error("a foreign stanza was handled:", iq.ID)
			return Reply{}
		}
	})
	iq := func(from, to string) string {
		s := "<iq type='set' id='1'"
		if from != "-" {
			s += " from='" + from + "'"
		}
		if to != "-" {
			s += " to='" + to + "'"
		}
		return s + "><a xmlns='urn:x'/></iq>"
	}
	for _, tt := range []struct{ name, in, condition string }{
		{"from us", iq("capulet.example", "capulet.example"), "invalid-from"},
		{"from another domain", iq("montague.example", "capulet.example"), "invalid-from"},
		{"from a user of another domain", iq("romeo@montague.example", "capulet.example"), "invalid-from"},
		{"from a user named as the peer", iq("mallory.example@montague.example", "capulet.example"), "invalid-from"},
		{"from a resource named as the peer", iq("montague.example/mallory.example", "capulet.example"), "invalid-from"},
		{"from a subdomain", iq("sub.mallory.example", "capulet.example"), "invalid-from"},
		{"from the parent domain", iq("example", "capulet.example"), "invalid-from"},
		{"from a longer name", iq("mallory.example.net", "capulet.example"), "invalid-from"},
		{"from a look-alike", iq("mallоry.example", "capulet.example"), "invalid-from"},
		{"from an A-label of another", iq("xn--mallry-wqf.example", "capulet.example"), "invalid-from"},
		{"from an IPv4 literal", iq("[127.0.0.1]", "capulet.example"), "invalid-from"},
		{"from an address without brackets", iq("127.0.0.1", "capulet.example"), "invalid-from"},
		{"message from another domain", "<message from='montague.example' to='capulet.example'/>", "invalid-from"},
		{"presence from another domain", "<presence type='subscribe' from='montague.example' to='capulet.example'/>", "invalid-from"},
		{"no from", iq("-", "capulet.example"), "improper-addressing"},
		{"empty from", iq("", "capulet.example"), "improper-addressing"},
		{"no to", iq("mallory.example", "-"), "improper-addressing"},
		{"empty to", iq("mallory.example", ""), "improper-addressing"},
		{"from in another namespace", "<iq xmlns:p='urn:x' p:from='mallory.example' type='set' id='1' to='capulet.example'><a/></iq>", "improper-addressing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			before := capulet.Snapshot()
			r := connect()
			r.send(tt.in)
			if c := r.streamError(); c != tt.condition {
				t.Fatalf("ended with %q", c)
			}
			foreign := int64(0)
			if tt.condition == "invalid-from" {
				foreign = 1
			}
			s := capulet.Snapshot()
			if s.ForeignStanzas-before.ForeignStanzas != foreign || s.StreamErrors-before.StreamErrors != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestNamesInOtherForms: the pair is compared as A-labels, without case and
// final dot, and the answer is the same.
func TestNamesInOtherForms(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"xn--bcher-kva.example": ca.issue("xn--bcher-kva.example")})
	r := dialRaw(t, capulet, "xn--bcher-kva.example", ca.issue("xn--mnchen-3ya.example")).
		ready("münchen.example", "bücher.example")
	for _, from := range []string{"münchen.example", "MÜNCHEN.Example", "xn--mnchen-3ya.example", "XN--MNCHEN-3YA.example", "münchen.example."} {
		for _, to := range []string{"bücher.example", "BÜCHER.example.", "xn--bcher-kva.example"} {
			r.send("<iq type='get' id='1' from='" + from + "' to='" + to + "'><ping xmlns='urn:xmpp:ping'/></iq>")
			el := r.next()
			if el.Attr("type") != "result" || el.Attr("from") != "bücher.example" || el.Attr("to") != "münchen.example" {
				t.Errorf("%s to %s: %v", from, to, el.Attrs)
			}
		}
	}
	if s := capulet.Snapshot(); s.ForeignStanzas+s.StanzaErrors+s.StreamErrors != 0 {
		t.Errorf("%+v", s)
	}
}

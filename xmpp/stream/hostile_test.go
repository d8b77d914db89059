package stream

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
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

// TestHostileXML: one wrong octet ends the link, with the condition that fits.
func TestHostileXML(t *testing.T) {
	capulet, connect := mallory(t)
	iq := "<iq type='get' id='1'" + addressed + ">"
	for _, tt := range []struct{ name, in, condition string }{
		{"DTD", "<!DOCTYPE a [<!ENTITY b 'c'>]>", "restricted-xml"},
		{"processing instruction", iq + "<?a b?></iq>", "restricted-xml"},
		{"XML declaration", "<?xml version='1.0'?>", "restricted-xml"},
		{"comment", iq + "<!-- a --></iq>", "restricted-xml"},
		{"entity", iq + "<a>&b;</a></iq>", "restricted-xml"},
		{"duplicate attribute", "<iq id='1' id='2'/>", "not-well-formed"},
		{"undeclared prefix", iq + "<a:b/></iq>", "not-well-formed"},
		{"xmlns:xml", iq + "<a xmlns:xml='urn:x'/></iq>", "not-well-formed"},
		{"]]> in text", iq + "<a>]]></a></iq>", "not-well-formed"},
		{"NUL", iq + "<a>\x00</a></iq>", "not-well-formed"},
		{"wrong end tag", iq + "</message>", "not-well-formed"},
		{"invalid UTF-8", iq + "<a>\xff</a></iq>", "unsupported-encoding"},
		{"overlong UTF-8", iq + "<a>\xc0\xbc</a></iq>", "unsupported-encoding"},
		{"deep nesting", iq + strings.Repeat("<a>", 100000), "policy-violation"},
		{"endless attribute", "<iq a='" + strings.Repeat("a", 1<<20), "policy-violation"},
		{"endless name", "<" + strings.Repeat("a", 1<<20), "policy-violation"},
		{"endless text", iq + "<a>" + strings.Repeat("a", 1<<20), "policy-violation"},
		{"many elements", iq + strings.Repeat("<a/>", 100000), "policy-violation"},
		{"namespace flood", iq + strings.Repeat("<a xmlns:a='b' xmlns:c='d' xmlns:e='f' xmlns:g='h'>", 30), "policy-violation"},
		{"endless white space", strings.Repeat("\n", 1<<20), "policy-violation"},
		{"text between stanzas", "a", "bad-format"},
		{"no stanza", "<a xmlns='urn:x'/>", "unsupported-stanza-type"},
		{"client namespace", "<iq xmlns='jabber:client' type='get' id='1'" + addressed + "><a/></iq>", "unsupported-stanza-type"},
		{"features", "<stream:features/>", "unsupported-stanza-type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := connect()
			r.conn.Write([]byte(tt.in)) // may be cut off on the way
			if c := r.streamError(); c != tt.condition {
				t.Fatalf("stream error %q, want %q", c, tt.condition)
			}
			eventually(t, "no link", func() bool { return capulet.Live("capulet.example", "mallory.example") == nil })
		})
	}
	if s := capulet.Snapshot(); s.StreamErrors == 0 || s.RequestsReceived != 0 {
		t.Errorf("%+v", s)
	}
}

// TestHostileMemory: floods of what never ends cost next to nothing. The
// bound is on all that is allocated here, the flood's own side and TLS of both
// sides included, while 32 MiB are offered.
func TestHostileMemory(t *testing.T) {
	_, connect := mallory(t, func(c *Config) { c.CloseTimeout = 200 * time.Millisecond })
	for name, in := range map[string][2]string{
		"attribute": {"<iq a='", "a"},
		"name":      {"<", "a"},
		"nesting":   {"", "<a>"},
		"space":     {"", " "},
	} {
		t.Run(name, func(t *testing.T) {
			r := connect()
			flood := []byte(strings.Repeat(in[1], 16<<10))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			io.WriteString(r.conn, in[0])
			for range 32 << 20 / len(flood) {
				if _, err := r.conn.Write(flood); err != nil {
					break
				}
			}
			runtime.ReadMemStats(&after)
			if grew := after.TotalAlloc - before.TotalAlloc; grew > 3<<20 {
				t.Errorf("%d octets were allocated", grew)
			}
		})
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
		{"to another domain", "<iq type='get' id='1' from='mallory.example' to='verona.example'>" + payload + "</iq>", "item-not-found"},
		{"from malformed", "<iq type='get' id='1' from='a..b' to='capulet.example'>" + payload + "</iq>", "jid-malformed"},
		{"to malformed", "<iq type='get' id='1' from='mallory.example' to='@'>" + payload + "</iq>", "jid-malformed"},
		{"disco on a node", "<iq type='get' id='1'" + addressed + "><query xmlns='http://jabber.org/protocol/disco#info' node='x'/></iq>", "item-not-found"},
		{"message", "<message id='1'" + addressed + "><body>hello</body></message>", "service-unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.send(tt.in)
			el := r.next()
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
	called := make(chan *IQ, 1)
	capulet, connect := mallory(t, func(c *Config) {
		c.Handle = func(_ context.Context, _ *Link, iq *IQ) Reply {
			called <- iq
			return Reply{}
		}
	})
	for in, want := range map[string]string{
		"<iq type='set' id='1' from='capulet.example' to='capulet.example'><a xmlns='urn:x'/></iq>":        "invalid-from",
		"<iq type='set' id='1' from='montague.example' to='capulet.example'><a xmlns='urn:x'/></iq>":       "invalid-from",
		"<iq type='set' id='1' from='romeo@montague.example' to='capulet.example'><a xmlns='urn:x'/></iq>": "invalid-from",
		"<iq type='set' id='1' from='sub.mallory.example' to='capulet.example'><a xmlns='urn:x'/></iq>":    "invalid-from",
		"<message from='montague.example' to='capulet.example'/>":                                          "invalid-from",
		"<iq type='set' id='1' to='capulet.example'><a xmlns='urn:x'/></iq>":                               "improper-addressing",
		"<iq type='set' id='1' from='mallory.example'><a xmlns='urn:x'/></iq>":                             "improper-addressing",
	} {
		r := connect()
		r.send(in)
		if c := r.streamError(); c != want {
			t.Errorf("%s\nended with %q", in, c)
		}
	}
	select {
	case iq := <-called:
		t.Error("a foreign stanza was handled:", iq.ID)
	default:
	}
	if s := capulet.Snapshot(); s.ForeignStanzas != 5 {
		t.Errorf("%+v", s)
	}
}

// TestNamesInOtherForms: the pair is compared as A-labels without case.
func TestNamesInOtherForms(t *testing.T) {
	_, connect := mallory(t)
	r := connect()
	r.send("<iq type='get' id='1' from='Mallory.Example.' to='CAPULET.example'><ping xmlns='urn:xmpp:ping'/></iq>")
	if el := r.next(); el.Attr("type") != "result" {
		t.Fatal(el.Attr("type"))
	}
}

// TestSpoofedAnswers: an answer counts only from whom it was asked.
func TestSpoofedAnswers(t *testing.T) {
	capulet, connect := mallory(t)
	r := connect()
	l := liveAt(t, capulet, "capulet.example", "mallory.example")
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
	if len(id) < 16 {
		t.Errorf("id %q can be guessed", id)
	}
	reply := func(id, from, to, text string) {
		r.send(fmt.Sprintf("<iq type='result' id='%s' from='%s' to='%s'><echo xmlns='urn:test'>%s</echo></iq>", id, from, to, text))
	}
	reply(id, "montague.example", "capulet.example", "from another domain")
	reply(id, "a@mallory.example", "capulet.example", "from a user")
	reply(id, "mallory.example", "verona.example", "to another domain")
	reply(id+"x", "mallory.example", "capulet.example", "another id")
	r.send("<iq type='get' id='" + id + "'" + addressed + "><ping xmlns='urn:xmpp:ping'/></iq>") // a request with that id
	if el := r.next(); el.Attr("type") != "result" {
		t.Error("request with our id refused")
	}
	select {
	case got := <-answer:
		t.Fatal("taken as the answer:", got)
	default:
	}
	reply(id, "mallory.example", "capulet.example", "right")
	reply(id, "mallory.example", "capulet.example", "again")
	if got := <-answer; got != "right" {
		t.Error("answer:", got)
	}
	r.mustPing()
	if s := capulet.Snapshot(); s.StrayAnswers != 5 {
		t.Errorf("%+v", s)
	}
}

// TestAsksWithoutReading: answers that are not read fill the room for them,
// and then the link ends instead of holding more.
func TestAsksWithoutReading(t *testing.T) {
	capulet, connect := mallory(t, func(c *Config) {
		c.MaxOutBytes = 64 << 10
		c.CloseTimeout = 100 * time.Millisecond
	})
	r := connect()
	ping := strings.Repeat("<iq type='get' id='1'"+addressed+"><ping xmlns='urn:xmpp:ping'/></iq>", 1000)
	for range 1000 {
		if _, err := r.conn.Write([]byte(ping)); err != nil {
			break
		}
	}
	eventually(t, "link ended", func() bool { return capulet.Live("capulet.example", "mallory.example") == nil })
	if s := capulet.Snapshot(); s.StreamErrors != 1 {
		t.Errorf("%+v", s)
	}
}

func TestBuiltInAnswers(t *testing.T) {
	_, connect := mallory(t, func(c *Config) {
		c.Version = "1.2<3"
		c.DiscoInfo = func(local, remote string) []byte {
			return []byte("<identity category='gateway' type='smtp'/><feature var='" + local + " " + remote + "'/>")
		}
	})
	r := connect()
	ask := func(payload string) *wire.Element {
		r.send("<iq type='get' id='&lt;1'" + addressed + ">" + payload + "</iq>")
		el := r.next()
		if el.Attr("type") != "result" || el.Attr("id") != "<1" || len(el.Children) != 1 {
			t.Fatalf("%s: %s %q", payload, el.Attr("type"), el.Attr("id"))
		}
		return el.Children[0]
	}
	v := ask("<query xmlns='jabber:iq:version'/>")
	if string(v.Child(nsVersion, "name").Text) != "mailxmppd" || string(v.Child(nsVersion, "version").Text) != "1.2<3" {
		t.Error("version")
	}
	d := ask("<query xmlns='http://jabber.org/protocol/disco#info'/>")
	if f := d.Child(nsDiscoInfo, "feature"); f == nil || f.Attr("var") != "capulet.example mallory.example" {
		t.Error("disco#info")
	}
	if d := ask("<query xmlns='http://jabber.org/protocol/disco#items'/>"); len(d.Children) != 0 || d.Name.Space != nsDiscoItems {
		t.Error("disco#items")
	}
	r.send("<db:verify xmlns:db='jabber:server:dialback' id='x&quot;' from='mallory.example' to='capulet.example'>key</db:verify>")
	if el := r.next(); !el.Is(nsDialback, "verify") || el.Attr("type") != "invalid" || el.Attr("id") != `x"` || el.Attr("to") != "mallory.example" {
		t.Error("dialback", el.Name, el.Attrs)
	}
	r.mustPing()
}

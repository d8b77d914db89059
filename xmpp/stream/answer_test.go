package stream

import (
	"testing"

	"mailxmppd/xmpp/wire"
)

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

package stream

import (
	"testing"

	"mailxmppd/xmpp/wire"
)

// TestDialbackProvesNothing: in no state does dialback let anybody in, add a
// domain, or end a stream; each form has its answer and is counted.
func TestDialbackProvesNothing(t *testing.T) {
	capulet, connect := mallory(t)
	states := map[string]func() *rawPeer{
		"before TLS": func() *rawPeer {
			r := dialClear(t, capulet)
			r.open("mallory.example", "capulet.example")
			return r
		},
		"before authentication": func() *rawPeer {
			r := dialRaw(t, capulet, "capulet.example", nil)
			r.open("mallory.example", "capulet.example")
			return r
		},
		"authenticated": connect,
	}
	const ns = " xmlns:db='jabber:server:dialback'"
	for state, open := range states {
		t.Run(state, func(t *testing.T) {
			defer bounded(t)()
			r := open()
			for _, tt := range []struct{ name, in, local, typ string }{
				{"key of its own", "<db:result" + ns + addressed + ">key</db:result>", "result", "error"},
				{"key for another domain", "<db:result" + ns + " from='montague.example' to='capulet.example'>key</db:result>", "result", "error"},
				{"key without names", "<db:result" + ns + ">key</db:result>", "result", "error"},
				{"empty key", "<db:result" + ns + addressed + "/>", "result", "error"},
				{"verify", "<db:verify" + ns + " id='a&quot;&apos;b'" + addressed + ">key</db:verify>", "verify", "invalid"},
				{"verify for another domain", "<db:verify" + ns + " id='s' from='montague.example' to='verona.example'>key</db:verify>", "verify", "invalid"},
				{"verify without an id", "<db:verify" + ns + addressed + ">key</db:verify>", "verify", "invalid"},
				{"forged success", "<db:result" + ns + " type='valid'" + addressed + "/>", "", ""},
				{"forged success for another domain", "<db:result" + ns + " type='valid' from='montague.example' to='capulet.example'/>", "", ""},
				{"forged verification", "<db:verify" + ns + " type='valid' id='s'" + addressed + "/>", "", ""},
				{"forged failure", "<db:result" + ns + " type='invalid'" + addressed + "/>", "", ""},
				{"empty type", "<db:result" + ns + " type=''" + addressed + ">key</db:result>", "", ""},
				{"unknown element", "<db:other" + ns + addressed + "/>", "", ""},
			} {
				before := capulet.Snapshot()
				r.send(tt.in)
				if tt.local != "" {
					el := r.next()
					if !el.Is(nsDialback, tt.local) || el.Attr("type") != tt.typ {
						t.Fatalf("%s: answered by %s of type %q", tt.name, el.Name.Local, el.Attr("type"))
					}
					if (el.Child(nsServer, "error") != nil) != (tt.typ == "error") {
						t.Errorf("%s: content %v", tt.name, el.Children)
					}
				}
				// What comes next shows that nothing was answered twice, or to
				// what deserves none.
				r.send("<db:verify" + ns + " id='next' from='a.example' to='b.example'>k</db:verify>")
				if el := r.next(); el.Attr("id") != "next" || el.Attr("type") != "invalid" || el.Attr("from") != "b.example" || el.Attr("to") != "a.example" {
					t.Fatalf("%s: then %s %v", tt.name, el.Name.Local, el.Attrs)
				}
				s := capulet.Snapshot()
				results, verifies := s.DialbackResults-before.DialbackResults, s.DialbackVerifies-before.DialbackVerifies-1
				if (results == 1) != (tt.local == "result") || (verifies == 1) != (tt.local == "verify") {
					t.Errorf("%s: counted %d results, %d verifies", tt.name, results, verifies)
				}
			}
			s := capulet.Snapshot()
			if live := s.Live + s.OneWay; (live == 1) != (state == "authenticated") {
				t.Errorf("%d streams are authenticated", live)
			}
			r.checkNoFurtherDomain(t, state)
			r.conn.NetConn().Close()
			eventually(t, "gone", func() bool { s := capulet.Snapshot(); return s.Live == 0 })
		})
	}
}

// checkNoFurtherDomain sends a stanza from the domain that dialback asked for.
func (r *rawPeer) checkNoFurtherDomain(t *testing.T, state string) {
	r.send("<iq type='get' id='1' from='montague.example' to='capulet.example'><ping xmlns='urn:xmpp:ping'/></iq>")
	want := "not-authorized"
	if state == "authenticated" {
		want = "invalid-from"
	}
	el := r.next()
	if !el.Is(wire.StreamNS, "error") || readPeerError(el).condition != want {
		t.Errorf("the stanza of another domain: %s", el.Name.Local)
	}
}

// TestDialbackIsNotOffered in any feature list.
func TestDialbackIsNotOffered(t *testing.T) {
	ca := newAuthority(t)
	capulet, _ := mallory(t)
	for name, f := range map[string]*wire.Element{
		"clear": dialClear(t, capulet).open("mallory.example", "capulet.example"),
		"TLS":   dialRaw(t, capulet, "capulet.example", ca.issue("mallory.example")).open("mallory.example", "capulet.example"),
	} {
		for _, c := range f.Children {
			if c.Name.Local == "dialback" {
				t.Error("offered in", name)
			}
		}
	}
}

// TestDialbackFlood: answers that are not read end the stream, within the room
// for them.
func TestDialbackFlood(t *testing.T) {
	capulet, connect := mallory(t, func(c *Config) { c.MaxOutBytes = 64 << 10 })
	r := connect()
	flood := make([]byte, 0, 128<<10)
	for len(flood) < 100<<10 {
		flood = append(flood, "<db:result xmlns:db='jabber:server:dialback' from='a.example' to='capulet.example'>k</db:result>"...)
	}
	for range 200 {
		if _, err := r.conn.Write(flood); err != nil {
			break
		}
	}
	eventually(t, "link ended", func() bool { return capulet.Snapshot().Live == 0 })
}

package component

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

const silent = "<silence xmlns='urn:test'/>"

// TestRequest: what comes back for a request, and what it means.
func TestRequest(t *testing.T) {
	const gone = "<error type='cancel'><remote-server-not-found xmlns='" + nsStanzas + "'/><text xmlns='" + nsStanzas + "'>no route</text></error>"
	for _, tt := range []struct {
		name, typ, payload string
		condition          string // of a *StanzaError
		bounce             bool
	}{
		{"result", "result", "<echo xmlns='urn:test'>hello</echo>", "", false},
		{"server cannot reach the peer", "error", gone, "", true},
		{"server does not trust the peer", "error", "<error type='cancel'><not-authorized xmlns='" + nsStanzas + "'/></error>", "", true},
		{"error without an error", "error", "", "", true},
		{"gateway refuses", "error", "<error type='auth'><forbidden xmlns='" + nsStanzas + "'/><failure xmlns='urn:test' enhanced='5.7.1'/></error>", "forbidden", false},
		{"peer has no such thing", "error", "<error type='cancel'><service-unavailable xmlns='" + nsStanzas + "'/></error>", "service-unavailable", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var told standing
			srv := newServer(t)
			c := srv.start(told.note)
			conn := srv.accept()
			done := ask(t, c, peer, "set")
			iq := conn.next()
			if iq.Attr("from") != ourDomain || iq.Attr("to") != peer || iq.Attr("type") != "set" {
				t.Errorf("sent %v", iq.Attrs)
			}
			conn.answer(iq, tt.typ, tt.payload)
			o := wait(t, done)
			refusal, refused := errors.AsType[*stream.StanzaError](o.err)
			bounce, bounced := errors.AsType[*Bounce](o.err)
			switch {
			case bounced != tt.bounce || refused != (tt.condition != ""):
				t.Fatal("error:", o.err)
			case refused && refusal.Condition != tt.condition:
				t.Error("condition", refusal.Condition)
			case bounced && errors.Is(o.err, stream.ErrNotSent):
				t.Error("a bounce cannot say that the request was not sent:", bounce)
			case tt.typ == "result" && (o.err != nil || string(o.el.Text) != "hello"):
				t.Error(o)
			}
			if live := c.Live(ourDomain, peer) != nil; live == bounced {
				t.Errorf("live: %t", live)
			}
			want := "up " + ourDomain + " " + peer
			if bounced {
				want = ""
			}
			if told.String() != want {
				t.Errorf("told %q", told.String())
			}
		})
	}
}

// TestAnswersOfOthers: an answer counts from the domain that was asked alone.
func TestAnswersOfOthers(t *testing.T) {
	srv := newServer(t)
	c := srv.start()
	conn := srv.accept()
	done := ask(t, c, peer, "get")
	iq := conn.next()
	wrong := func(from, to, id string) {
		conn.send("<iq type='result' id='" + id + "' from='" + from + "' to='" + to + "'><forged xmlns='urn:test'/></iq>")
	}
	id := iq.Attr("id")
	wrong("mallory.example", ourDomain, id)
	wrong("user@"+peer, ourDomain, id)
	wrong(peer+"/resource", ourDomain, id)
	wrong(peer, "user@"+ourDomain, id)
	wrong(peer, "other.example", id)
	wrong(peer, ourDomain, "another")
	wrong("", ourDomain, id)
	conn.answer(iq, "result", "<echo xmlns='urn:test'>true</echo>")
	if o := wait(t, done); o.err != nil || string(o.el.Text) != "true" {
		t.Errorf("%+v", o)
	}
	wrong(peer, ourDomain, id) // a second answer
	eventually(t, "all wrong answers are counted", func() bool { return c.Snapshot().StrayAnswers == 8 })
}

// TestServed: who may ask for what.
func TestServed(t *testing.T) {
	const (
		ping  = "<ping xmlns='urn:xmpp:ping'/>"
		disco = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
		ver   = "<query xmlns='jabber:iq:version'/>"
		echo  = "<echo xmlns='urn:test'>hi</echo>"
	)
	for _, tt := range []struct {
		name, stanza string
		unasserted   bool
		want         string // condition of the error, or what the answer holds
	}{
		{"ping of a domain", request("1", peer, ourDomain, ping), false, "result"},
		{"ping of a user", request("1", "u@"+peer+"/r", ourDomain, ping), false, "result"},
		{"disco of a user", request("1", "u@"+peer+"/r", ourDomain, disco), false, "feature"},
		{"disco items", request("1", peer, ourDomain, strings.Replace(disco, "info", "items", 1)), false, "query"},
		{"disco of a node", request("1", peer, ourDomain, strings.Replace(disco, "/>", " node='n'/>", 1)), false, "item-not-found"},
		{"disco without the assertion", request("1", peer, ourDomain, disco), true, "query"},
		{"version", request("1", peer, ourDomain, ver), false, "mailxmppd"},
		{"mail of a domain", request("1", peer, ourDomain, echo), false, peer + " hi"},
		{"mail of a domain with a final dot", request("1", peer+".", ourDomain, echo), false, peer + " hi"},
		{"mail of a domain in U-labels", request("1", "bücher.example", ourDomain, echo), false, "xn--bcher-kva.example hi"},
		{"mail of a user", request("1", "u@"+peer, ourDomain, echo), false, "service-unavailable"},
		{"mail of a resource", request("1", peer+"/r", ourDomain, echo), false, "service-unavailable"},
		{"mail of our own domain", request("1", ourDomain, ourDomain, echo), false, "service-unavailable"},
		{"mail without the assertion", request("1", peer, ourDomain, echo), true, "service-unavailable"},
		{"mail to a user", request("1", peer, "u@"+ourDomain, echo), false, "service-unavailable"},
		{"mail to another domain", request("1", peer, "sub."+ourDomain, echo), false, "item-not-found"},
		{"from no domain", request("1", "a..b", ourDomain, echo), false, "jid-malformed"},
		{"no payload", request("1", peer, ourDomain, ""), false, "bad-request"},
		{"two payloads", request("1", peer, ourDomain, ping+ping), false, "bad-request"},
		{"no id", request("", peer, ourDomain, ping), false, "bad-request"},
		{"no type", strings.Replace(request("1", peer, ourDomain, ping), "get", "what", 1), false, "bad-request"},
		{"a chat message", "<message from='u@" + peer + "' to='" + ourDomain + "'><body>hi</body></message>", false, "service-unavailable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			srv := newServer(t)
			c := srv.start(func(c *Config) { c.AssertAuthenticated = !tt.unasserted })
			conn := srv.accept()
			conn.send(tt.stanza)
			el := conn.next()
			got := el.Attr("type")
			switch {
			case got == "error":
				e, _ := readError(el)
				got = e.Condition
			case len(el.Children) > 0:
				inner := el.Children[0]
				got = inner.Name.Local + string(inner.Text)
				for _, c := range inner.Children {
					got += " " + c.Name.Local + " " + string(c.Text)
				}
			}
			if !strings.Contains(got, tt.want) || tt.unasserted && strings.Contains(got, "feature") {
				t.Errorf("answered %q, want %q", got, tt.want)
			}
			if from := strings.TrimSuffix(el.Attr("to"), "."); !strings.Contains(tt.stanza, from) {
				t.Errorf("answered to %q", from)
			}
			if tt.name == "mail without the assertion" && c.Snapshot().Unasserted != 1 {
				t.Error("not counted")
			}
		})
	}
}

// TestUnasserted: without the operator's word nothing is sent either, and the
// failure says why and is not the end of a message.
func TestUnasserted(t *testing.T) {
	srv := newServer(t)
	c := srv.start(func(c *Config) { c.AssertAuthenticated = false })
	srv.accept()
	_, err := c.Link(t.Context(), ourDomain, peer)
	if f := mail.AsFailure(err); f == nil || f.Class != mail.Temporary || !strings.Contains(f.Text, "asserted") {
		t.Error(err)
	}
}

// TestBadStanzas: what a peer fills a stanza with ends nothing but that stanza.
func TestBadStanzas(t *testing.T) {
	deep := strings.Repeat("<a>", 40) + strings.Repeat("</a>", 40)
	bad := []string{
		request("1", peer, ourDomain, deep),
		request("1", peer, ourDomain, "<a "+strings.Repeat("x", 9000)+"='1'/>"),
		request("1", peer, ourDomain, "<a"+manyAttributes(2000)+"/>"),
		request("1", peer, ourDomain, "<a x='1' x='2'/>"),
		request("1", peer, ourDomain, "<a>&nbsp;</a>"),
		request("1", peer, ourDomain, "<p:a/>"),
		request("1", peer, ourDomain, "<a>\x01</a>"),
		request("1", peer, ourDomain, "<a>\xff</a>"),
		request("1", peer, ourDomain, "<a></b>"),
		request("1", peer, ourDomain, "<a x='"+strings.Repeat("y", 20<<10)+"'/>"),
		request("1", peer, ourDomain, "<a>"+strings.Repeat("y", 600<<10)+"</a>"),
		"<stray xmlns='urn:test'/>",
	}
	srv := newServer(t)
	c := srv.start()
	conn := srv.accept()
	for i, stanza := range bad {
		conn.send(stanza)
		conn.send(request("after", peer, ourDomain, "<echo xmlns='urn:test'>alive</echo>"))
		for el := conn.next(); ; el = conn.next() {
			if el.Attr("id") == "after" {
				if el.Attr("type") != "result" {
					t.Errorf("after stanza %d: %v", i, el)
				}
				break
			}
		}
	}
	if s := c.Snapshot(); s.Dropped != int64(len(bad)) || s.Connected != 1 {
		t.Errorf("%d dropped of %d, %d connections", s.Dropped, len(bad), s.Connected)
	}
}

func manyAttributes(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(" a" + strings.Repeat("b", i%7) + string(rune('a'+i%26)) + "='1'")
	}
	return b.String()
}

// TestServerFaults: what the server gets wrong ends the connection, and the
// next one works.
func TestServerFaults(t *testing.T) {
	for name, fault := range map[string]string{
		"comment":                "<!-- -->",
		"doctype":                "<!DOCTYPE a>",
		"processing instruction": "<?php ?>",
		"text":                   "text",
		"stream error":           "<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
		"end":                    "</stream:stream>",
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			c := srv.start()
			conn := srv.accept()
			done := ask(t, c, peer, "set")
			conn.next()
			conn.send(fault)
			if o := wait(t, done); !errors.Is(o.err, stream.ErrClosed) || errors.Is(o.err, stream.ErrNotSent) {
				t.Error("request:", o.err)
			}
			again := srv.accept()
			eventually(t, "connected again", func() bool { return c.Snapshot().Connected == 2 })
			done = ask(t, c, peer, "set")
			again.answer(again.next(), "result", "")
			if o := wait(t, done); o.err != nil {
				t.Error(o.err)
			}
		})
	}
}

// TestRefused: a server that refuses is asked again, and meanwhile mail fails
// at once, for the moment.
func TestRefused(t *testing.T) {
	const openly = "<stream:stream xmlns:stream='http://etherx.jabber.org/streams' xmlns='jabber:component:accept' from='ours.example'"
	for name, refuse := range map[string]func(*serverConn){
		"wrong secret": func(c *serverConn) {
			c.open()
			c.send("<stream:error><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>")
		},
		"name in use": func(c *serverConn) {
			c.open()
			c.send("<stream:error><conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'/><text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>taken</text></stream:error>")
		},
		"unknown name": func(c *serverConn) {
			c.send(openly + " id=''><stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>")
		},
		"no component port": func(c *serverConn) {
			c.send(strings.Replace(openly, "component:accept", "server", 1) + " id='1'>")
		},
		"another answer": func(c *serverConn) { c.open(); c.send("<proceed/>") },
		"not XML":        func(c *serverConn) { c.send("220 mail.example ESMTP\r\n") },
		"endless header": func(c *serverConn) { c.send(openly + " x='" + strings.Repeat("y", 20<<10)) },
		"nothing":        func(c *serverConn) {},
	} {
		t.Run(name, func(t *testing.T) {
			srv := newServer(t)
			c := srv.start(func(c *Config) { c.HandshakeWait = 300 * time.Millisecond })
			for range 2 {
				conn := srv.next()
				refuse(conn)
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := c.Link(ctx, ourDomain, peer)
			if n, ok := errors.AsType[*stream.NegotiationError](err); !ok || n.Stage != stream.StageBackOff {
				t.Error(err)
			}
			if s := c.Snapshot(); s.Connected != 0 || s.Live {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestNotInTheClear: the protocol has no encryption, so the server must be on
// this machine.
func TestNotInTheClear(t *testing.T) {
	for address, ok := range map[string]bool{"127.0.0.1:5347": true, "[::1]:5347": true, "192.0.2.1:5347": false, "[2001:db8::1]:5347": false} {
		c, err := New(Config{Domain: ourDomain, Address: address, Secret: secret})
		if (c != nil) != (err == nil) || (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// TestConfig: each mistake is named.
func TestConfig(t *testing.T) {
	good := Config{Domain: ourDomain, Address: "127.0.0.1:5347", Secret: secret}
	for want, change := range map[string]func(*Config){
		"A-labels": func(c *Config) { c.Domain = "Ours.Example" },
		"secret":   func(c *Config) { c.Secret = "" },
		"address":  func(c *Config) { c.Address = "127.0.0.1" },
		"limit":    func(c *Config) { c.MaxStanza = 5000 },
	} {
		bad := good
		change(&bad)
		if _, err := New(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}

// TestLost: a peer that was heard does not count as live once a server says
// that it cannot be reached, until it is heard again.
func TestLost(t *testing.T) {
	var told standing
	srv := newServer(t)
	c := srv.start(told.note)
	conn := srv.accept()
	exchange := func(typ, payload string) {
		done := ask(t, c, peer, "get")
		conn.answer(conn.next(), typ, payload)
		wait(t, done)
	}
	exchange("result", "")
	exchange("error", "<error type='wait'><remote-server-timeout xmlns='"+nsStanzas+"'/></error>")
	if c.Live(ourDomain, peer) != nil || c.Snapshot().Bounced != 1 {
		t.Error("live although lost")
	}
	conn.send(request("1", peer, ourDomain, work))
	conn.next()
	pair := ourDomain + " " + peer
	if want := "up " + pair + ", down " + pair + ", up " + pair; told.String() != want || c.Live(ourDomain, peer) == nil {
		t.Errorf("told %q", told.String())
	}
}

// TestAnsweredOnce: of many answers to one request the first counts, and the
// others hold up nobody.
func TestAnsweredOnce(t *testing.T) {
	const others = 500
	srv := newServer(t)
	c := srv.start()
	conn := srv.accept()
	done := ask(t, c, peer, "get")
	iq := conn.next()
	answer := "<iq type='result' id='" + iq.Attr("id") + "' from='" + peer + "' to='" + ourDomain + "'/>"
	conn.send(strings.Repeat(answer, 1+others))
	if o := wait(t, done); o.err != nil {
		t.Error(o.err)
	}
	conn.send(request("1", peer, ourDomain, work))
	if el := conn.next(); el.Attr("id") != "1" {
		t.Errorf("%v", el)
	}
	if n := c.Snapshot().StrayAnswers; n != others {
		t.Errorf("%d stray answers", n)
	}
}

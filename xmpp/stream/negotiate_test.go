package stream

import (
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

func auth(mechanism, text string) string {
	return "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='" + mechanism + "'>" + text + "</auth>"
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// TestAcceptingSide talks to a node as peers might: each step is sent once
// the answer to the one before has come.
func TestAcceptingSide(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{
		"capulet.example": ca.issue("capulet.example"), "xn--bcher-kva.example": ca.issue("xn--bcher-kva.example"),
	}, func(c *Config) { c.Allow = func(remote string) bool { return remote != "tybalt.example" } })
	montague := ca.issue("montague.example")
	good := rawHeader("montague.example", "capulet.example")
	restart := rawHeader("montague.example", "capulet.example")
	for _, tt := range []struct {
		name      string
		cert      *tls.Certificate
		sni       string
		steps     []string // of these, "|" separates what is sent in one write from what comes after an answer
		sasl      string   // failure condition expected
		condition string   // stream error expected; "ready" for a link
	}{
		{"as it should be", nil, "", []string{good, rawBidi + rawAuth, restart}, "", "ready"},
		{"empty initial response", nil, "", []string{good, rawBidi + auth("EXTERNAL", ""), restart}, "", "ready"},
		{"authzid the same", nil, "", []string{good, rawBidi + auth("EXTERNAL", b64("Montague.Example")), restart}, "", "ready"},
		{"names in other forms", nil, "", []string{rawHeader("Montague.example.", "CAPULET.example"), rawBidi + rawAuth, restart}, "", "ready"},
		{"U-labels", nil, "xn--bcher-kva.example", []string{rawHeader("montague.example", "bücher.example"), rawBidi + rawAuth,
			rawHeader("montague.example", "xn--bcher-kva.example")}, "", "ready"},
		{"authzid of another", nil, "", []string{good, rawBidi + auth("EXTERNAL", b64("verona.example"))}, "invalid-authzid", "policy-violation"},
		{"authzid of a user", nil, "", []string{good, rawBidi + auth("EXTERNAL", b64("romeo@montague.example"))}, "invalid-authzid", "policy-violation"},
		{"authzid not base64", nil, "", []string{good, rawBidi + auth("EXTERNAL", "*")}, "incorrect-encoding", "policy-violation"},
		{"mechanism not offered", nil, "", []string{good, rawBidi + auth("PLAIN", b64("\x00a\x00b"))}, "invalid-mechanism", "policy-violation"},
		{"certificate of another", ca.issue("mallory.example"), "", []string{good, rawBidi + rawAuth}, "not-authorized", "policy-violation"},
		{"not allowed", ca.issue("tybalt.example"), "", []string{rawHeader("tybalt.example", "capulet.example"), rawBidi + rawAuth}, "not-authorized", "policy-violation"},
		{"no bidi", nil, "", []string{good, rawAuth}, "", "policy-violation"},
		{"bidi twice", nil, "", []string{good, rawBidi + rawBidi}, "", "unsupported-stanza-type"},
		{"stanza before authentication", nil, "", []string{good, rawBidi + "<iq type='get' id='1' from='montague.example' to='capulet.example'><ping xmlns='urn:xmpp:ping'/></iq>"}, "", "not-authorized"},
		{"stanza pipelined after auth", nil, "", []string{good, rawBidi + rawAuth + "<iq type='get' id='1'><ping xmlns='urn:xmpp:ping'/></iq>"}, "", "policy-violation"},
		{"header pipelined after auth", nil, "", []string{good, rawBidi + rawAuth + restart}, "", "policy-violation"},
		{"from changes at the restart", nil, "", []string{good, rawBidi + rawAuth, rawHeader("verona.example", "capulet.example")}, "", "invalid-from"},
		{"to changes at the restart", nil, "", []string{good, rawBidi + rawAuth, rawHeader("montague.example", "xn--bcher-kva.example")}, "", "host-unknown"},
		{"from missing at the restart", nil, "", []string{good, rawBidi + rawAuth, rawHeader("", "capulet.example")}, "", "improper-addressing"},
		{"no from", nil, "", []string{rawHeader("", "capulet.example")}, "", "improper-addressing"},
		{"no to", nil, "", []string{rawHeader("montague.example", "")}, "", "improper-addressing"},
		{"from a user", nil, "", []string{rawHeader("romeo@montague.example", "capulet.example")}, "", "invalid-from"},
		{"from an address literal", nil, "", []string{rawHeader("[192.0.2.1]", "capulet.example")}, "", "invalid-from"},
		{"to a domain not ours", nil, "", []string{rawHeader("montague.example", "verona.example")}, "", "host-unknown"},
		{"to another domain of ours", nil, "", []string{rawHeader("montague.example", "xn--bcher-kva.example")}, "", "host-unknown"},
		{"client namespace", nil, "", []string{strings.Replace(good, "jabber:server", "jabber:client", 1)}, "", "invalid-namespace"},
		{"wrong stream namespace", nil, "", []string{strings.Replace(good, "etherx", "example", 1)}, "", "invalid-namespace"},
		{"no version", nil, "", []string{strings.Replace(good, " version='1.0' from", " from", 1)}, "", "unsupported-version"},
		{"version 0.9", nil, "", []string{strings.Replace(good, " version='1.0' from", " version='0.9' from", 1)}, "", "unsupported-version"},
		{"Latin-1", nil, "", []string{strings.Replace(good, "?>", " encoding='latin1'?>", 1)}, "", "unsupported-encoding"},
		{"DTD", nil, "", []string{"<?xml version='1.0'?><!DOCTYPE a>"}, "", "restricted-xml"},
		{"endless header", nil, "", []string{good[:len(good)-1] + strings.Repeat(" ", 11000)}, "", "policy-violation"},
		{"too large before authentication", nil, "", []string{good, "<bidi xmlns='urn:xmpp:bidi'>" + strings.Repeat("x", 11000)}, "", "policy-violation"},
		{"not XMPP", nil, "", []string{"EHLO montague.example\r\n"}, "", "not-well-formed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cert, sni := tt.cert, tt.sni
			if cert == nil {
				cert = montague
			}
			if sni == "" {
				sni = "capulet.example"
			}
			r := dialRaw(t, capulet, sni, cert)
			failure, condition := r.negotiate(tt.steps)
			if failure != tt.sasl || condition != tt.condition {
				t.Fatalf("ended with %q %q, want %q %q", failure, condition, tt.sasl, tt.condition)
			}
			if tt.condition == "ready" {
				r.send("</stream:stream>")
				r.streamError()
			}
			eventually(t, "no link", func() bool { return capulet.Snapshot().Live == 0 })
		})
	}
}

// negotiate sends the steps, the first and those after success being stream
// headers, and tells what came of it.
func (r *rawPeer) negotiate(steps []string) (sasl, condition string) {
	r.t.Helper()
	header := true
	for _, step := range steps {
		r.send(step)
		if header {
			if _, err := r.parser.Header(); err != nil {
				r.t.Fatal(err)
			}
			header = false
		}
		el := r.next()
		switch {
		case el.Is(wire.StreamNS, "error"):
			return sasl, readPeerError(el).condition
		case el.Is(nsSASL, "failure"):
			return readSASLFailure(el).condition, r.streamError()
		case el.Is(nsSASL, "success"):
			if err := r.parser.Reset(r.conn); err != nil {
				r.t.Fatal(err)
			}
			header = true
		}
	}
	return "", "ready"
}

// TestSlowAndSilentClients: in every state there is an end, by one clock.
func TestSlowAndSilentClients(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")},
		func(c *Config) { c.NegotiateTimeout = 400 * time.Millisecond })
	cert := ca.issue("montague.example")
	good := rawHeader("montague.example", "capulet.example")

	raw, err := net.Dial("tcp", capulet.addr) // half open: not even TLS
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(raw); isTimeout(err) {
		t.Error("a silent connection is kept")
	}

	for name, talk := range map[string]func(*rawPeer){
		"silent after TLS":        func(r *rawPeer) {},
		"silent in the header":    func(r *rawPeer) { r.send(good[:40]) },
		"silent after the header": func(r *rawPeer) { r.send(good) },
		"silent after bidi":       func(r *rawPeer) { r.send(good); r.send(rawBidi) },
		"silent after auth":       func(r *rawPeer) { r.open("montague.example", "capulet.example"); r.send(rawBidi + rawAuth) },
		"slow": func(r *rawPeer) { // an octet at a time keeps nothing alive
			for i := range good {
				if _, err := r.conn.Write([]byte{good[i]}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The reason cannot be told when time runs out in the middle of
			// our own writing, which a busy machine makes happen.
			for range 5 {
				r := dialRaw(t, capulet, "capulet.example", cert)
				talk(r)
				got, err := io.ReadAll(r.conn)
				if isTimeout(err) {
					t.Fatal("still open after", string(got))
				}
				if strings.Contains(string(got), "<connection-timeout") {
					return
				}
			}
			t.Error("no reason given")
		})
	}
}

// isTimeout reports whether a deadline of the test's own passed.
func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

// rawServer accepts one connection for a script.
func rawServer(t *testing.T, cert *tls.Certificate, script func(*rawPeer)) []Target {
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		c := conn.(*tls.Conn)
		c.SetDeadline(time.Now().Add(10 * time.Second))
		script(&rawPeer{t, c, wire.NewParser(c, wire.Default())})
		io.Copy(io.Discard, c)
		c.Close()
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return []Target{{Host: "raw", Addr: ln.Addr().String()}}
}

const (
	serverHeader = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' " +
		"id='i' version='1.0' from='montague.example' to='capulet.example'>"
	serverFeatures = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>" +
		"<bidi xmlns='urn:xmpp:features:bidi'/></stream:features>"
	serverSuccess = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
)

// TestConnectingSide dials servers that answer in many ways.
func TestConnectingSide(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.issue("montague.example")
	for _, tt := range []struct {
		name      string
		steps     []string // what is answered to header, auth, header
		stage     string
		condition string
		permanent bool
		peer      bool
	}{
		{"no EXTERNAL", []string{serverHeader + strings.Replace(serverFeatures, "EXTERNAL", "PLAIN", 1)}, StageAuth, "", true, true},
		{"no mechanisms", []string{serverHeader + "<stream:features><bidi xmlns='urn:xmpp:features:bidi'/></stream:features>"}, StageAuth, "", true, true},
		{"no bidi", []string{serverHeader + strings.Replace(serverFeatures, "features:bidi", "other", 1)}, StageAuth, "", true, true},
		{"host unknown", []string{strings.Replace(serverHeader, " to='capulet.example'", "", 1) +
			"<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"}, StageHeader, "host-unknown", true, true},
		{"shutting down", []string{serverHeader + "<stream:error><system-shutdown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error></stream:stream>"},
			StageHeader, "system-shutdown", false, true},
		{"authentication refused", []string{serverHeader + serverFeatures,
			"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure></stream:stream>"}, StageAuth, "not-authorized", true, true},
		{"authentication refused for now", []string{serverHeader + serverFeatures,
			"<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><temporary-auth-failure/></failure></stream:stream>"}, StageAuth, "temporary-auth-failure", false, true},
		{"another answer to auth", []string{serverHeader + serverFeatures, "<iq/>"}, StageAuth, "policy-violation", true, false},
		{"from another domain", []string{strings.Replace(serverHeader, "montague", "verona", 1) + serverFeatures}, StageHeader, "invalid-from", true, false},
		{"to another domain", []string{strings.Replace(serverHeader, "capulet", "verona", 1) + serverFeatures}, StageHeader, "host-unknown", true, false},
		{"no from", []string{strings.Replace(serverHeader, " from='montague.example'", "", 1) + serverFeatures}, StageHeader, "improper-addressing", true, false},
		{"from changes at the restart", []string{serverHeader + serverFeatures, serverSuccess,
			strings.Replace(serverHeader, "montague", "verona", 1) + "<stream:features/>"}, StageReady, "invalid-from", true, false},
		{"sends ahead of the restart", []string{serverHeader + serverFeatures, serverSuccess + serverHeader + "<stream:features/>"}, StageReady, "policy-violation", true, false},
		{"stanza instead of features", []string{serverHeader + "<iq/>"}, StageHeader, "policy-violation", true, false},
		{"no id", []string{strings.Replace(serverHeader, " id='i'", "", 1) + serverFeatures}, StageHeader, "undefined-condition", false, false},
		{"client namespace", []string{strings.Replace(serverHeader, "jabber:server", "jabber:client", 1)}, StageHeader, "invalid-namespace", true, false},
		{"no version", []string{strings.Replace(serverHeader, " version='1.0' from", " from", 1)}, StageHeader, "unsupported-version", true, false},
		{"DTD", []string{"<!DOCTYPE a>"}, StageHeader, "restricted-xml", true, false},
		{"closes at once", []string{"</"}, StageHeader, "not-well-formed", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")},
				func(c *Config) { c.BackOff = time.Hour })
			targets := rawServer(t, cert, func(r *rawPeer) { r.serve(tt.steps) })
			_, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
			e, ok := errors.AsType[*NegotiationError](err)
			if !ok || e.Stage != tt.stage || e.Condition != tt.condition || e.Permanent != tt.permanent || e.Peer != tt.peer {
				t.Fatalf("%+v (%v)", e, err)
			}
			// And then it is left in peace, with the same story told.
			_, err = capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
			again, ok := errors.AsType[*NegotiationError](err)
			if !ok || again.Stage != StageBackOff || again.Condition != tt.condition || again.Permanent != tt.permanent || again.Peer != tt.peer {
				t.Fatalf("in back-off: %+v", err)
			}
			if s := capulet.Snapshot(); s.Dialled != 1 || s.DialFailures != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// serve answers each write of the peer that needs an answer.
func (r *rawPeer) serve(steps []string) {
	for i, s := range steps {
		if i == 0 || i == 2 {
			if _, err := r.parser.Header(); err != nil {
				r.t.Error(err)
				return
			}
		} else {
			for el := (*wire.Element)(nil); !el.Is(nsSASL, "auth"); {
				var err error
				if el, err = r.parser.Next(); err != nil {
					r.t.Error(err)
					return
				}
			}
			if err := r.parser.Reset(r.conn); err != nil {
				r.t.Error(err)
			}
		}
		if _, err := io.WriteString(r.conn, s); err != nil {
			return
		}
	}
}

// TestLimitsOfThePeer: announced in its features, or in its bidi element.
func TestLimitsOfThePeer(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	limits := func(n string) string {
		return "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>" + n + "</max-bytes></limits>"
	}
	for announced, want := range map[string]int{"": 512 << 10, limits("12345"): 12345, limits("9999"): 512 << 10, limits("x"): 512 << 10} {
		r := dialRaw(t, capulet, "capulet.example", ca.issue("verona.example"))
		r.open("verona.example", "capulet.example")
		r.send("<bidi xmlns='urn:xmpp:bidi'>" + announced + "</bidi>" + rawAuth)
		r.next()
		r.parser.Reset(r.conn)
		features := r.open("verona.example", "capulet.example")
		if got := features.Child(nsLimits, "limits").Child(nsLimits, "max-bytes"); string(got.Text) != "524288" {
			t.Errorf("our limit is announced as %q", got.Text)
		}
		l := liveAt(t, capulet, "capulet.example", "verona.example")
		if l.MaxStanza() != want {
			t.Errorf("%q taken as %d", announced, l.MaxStanza())
		}
		r.send("</stream:stream>")
		r.streamError()
		eventually(t, "gone", func() bool { return capulet.Live("capulet.example", "verona.example") == nil })
	}
}

package stream

import (
	"crypto/tls"
	"encoding/base64"
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

// modes are the two ways to TLS, for peers that dial.
var modes = []struct {
	name string
	dial func(t testing.TB, n *node, serverName string, cert *tls.Certificate) *rawPeer
}{{"direct TLS", dialRaw}, {"STARTTLS", dialStartTLS}}

// TestAcceptingSide talks to a node as peers might: each step is sent once
// the answer to the one before has come.
func TestAcceptingSide(t *testing.T) {
	for _, mode := range modes {
		t.Run(mode.name, func(t *testing.T) { testAcceptingSide(t, mode.dial) })
	}
}

func testAcceptingSide(t *testing.T, dial func(testing.TB, *node, string, *tls.Certificate) *rawPeer) {
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
		{"no bidi, as ordinary servers", nil, "", []string{good, rawAuth, restart}, "", "ready"},
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
			defer bounded(t)()
			cert, sni := tt.cert, tt.sni
			if cert == nil {
				cert = montague
			}
			if sni == "" {
				sni = "capulet.example"
			}
			before := capulet.Snapshot()
			r := dial(t, capulet, sni, cert)
			failure, condition := r.negotiate(tt.steps)
			if failure != tt.sasl || condition != tt.condition {
				t.Fatalf("ended with %q %q, want %q %q", failure, condition, tt.sasl, tt.condition)
			}
			if tt.condition == "ready" {
				r.send("</stream:stream>")
				r.streamError()
			}
			refused := int64(1)
			if tt.condition == "ready" {
				refused = 0
			}
			r.conn.NetConn().Close()
			eventually(t, "no link, and counted", func() bool {
				s := capulet.Snapshot()
				return s.Live == 0 && s.OneWay == 0 && s.NegotiationFailures-before.NegotiationFailures == refused &&
					s.StreamErrors-before.StreamErrors == refused
			})
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

	for _, addr := range []string{capulet.addr, capulet.clear} {
		raw, err := net.Dial("tcp", addr) // half open: not even TLS
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadAll(raw); isTimeout(err) {
			t.Error("a silent connection is kept")
		}
	}
	clear := func(steps string) func(t *testing.T) *rawPeer {
		return func(t *testing.T) *rawPeer {
			r := dialClear(t, capulet)
			r.send(steps)
			return r
		}
	}
	secure := func(steps ...string) func(t *testing.T) *rawPeer {
		return func(t *testing.T) *rawPeer {
			r := dialRaw(t, capulet, "capulet.example", cert)
			for _, s := range steps {
				r.send(s)
			}
			return r
		}
	}
	for name, talk := range map[string]func(*testing.T) *rawPeer{
		"silent in the clear":              clear(""),
		"silent in the header in clear":    clear(good[:40]),
		"silent after the header in clear": clear(good),
		"silent after TLS":                 secure(),
		"silent in the header":             secure(good[:40]),
		"silent after the header":          secure(good),
		"silent after bidi":                secure(good, rawBidi),
		"silent after auth": func(t *testing.T) *rawPeer {
			r := dialRaw(t, capulet, "capulet.example", cert)
			r.open("montague.example", "capulet.example")
			r.send(rawBidi + rawAuth)
			return r
		},
		"slow":              func(t *testing.T) *rawPeer { return slowly(dialRaw(t, capulet, "capulet.example", cert), good) },
		"slow in the clear": func(t *testing.T) *rawPeer { return slowly(dialClear(t, capulet), good) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The reason cannot be told when time runs out in the middle of
			// our own writing, which a busy machine makes happen.
			for range 5 {
				r := talk(t)
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

	// After proceed there is no stream in which to give a reason.
	r := dialClear(t, capulet)
	r.open("", "capulet.example")
	r.send(requestTLS)
	r.next()
	if got, err := io.ReadAll(r.conn); isTimeout(err) || len(got) > 0 {
		t.Errorf("silence instead of a handshake: %q %v", got, err)
	}
}

// slowly sends an octet at a time, which keeps nothing alive.
func slowly(r *rawPeer, s string) *rawPeer {
	for i := range s {
		if _, err := r.conn.Write([]byte{s[i]}); err != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return r
}

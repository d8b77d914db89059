package stream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"testing"

	"mailxmppd/xmpp/wire"
)

func TestStartTLSBothRoles(t *testing.T) {
	capulet, montague, _ := twoNodes(t)
	l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", montague.clearTarget())
	if err != nil {
		t.Fatal(err)
	}
	mustEcho(t, l)
	in := liveAt(t, montague, "montague.example", "capulet.example")
	mustEcho(t, in)
	if b := in.Binding(); b.Proof != "pkix" || !strings.HasPrefix(b.TLS, "TLS1.3 ") || b.Remote != "capulet.example" {
		t.Errorf("%+v", b)
	}
}

// TestStartTLSWithoutServerName: the header says which domain is meant, as
// servers expect that know no server names.
func TestStartTLSWithoutServerName(t *testing.T) {
	ca := newAuthority(t)
	certs := map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example"), "verona.example": ca.issue("verona.example")}
	capulet := startNode(t, ca, certs)
	for domain := range certs {
		r := dialClear(t, capulet)
		r.open("montague.example", domain)
		r.send(requestTLS)
		r.next()
		r = r.secure("", ca.issue("montague.example")).ready("montague.example", domain)
		if got := r.conn.ConnectionState().PeerCertificates[0].DNSNames[0]; got != domain {
			t.Errorf("certificate of %s for %s", got, domain)
		}
		r.send("</stream:stream>")
		r.streamError()
	}
}

// TestBeforeTLS is what a peer may try on the port for STARTTLS before TLS.
func TestBeforeTLS(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example"), "verona.example": ca.issue("verona.example")})
	good := rawHeader("montague.example", "capulet.example")
	for _, tt := range []struct {
		name      string
		steps     []string
		condition string
	}{
		{"ClientHello in the packet of starttls", []string{good, requestTLS + "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"}, "policy-violation"},
		{"stanza in the packet of starttls", []string{good, requestTLS + "<iq type='get' id='1'" + addressed + "/>"}, "policy-violation"},
		{"header in the packet of starttls", []string{good, requestTLS + good}, "policy-violation"},
		{"white space in the packet of starttls", []string{good, requestTLS + "\n"}, "policy-violation"},
		{"all at once", []string{good + requestTLS + good + rawBidi + rawAuth}, "policy-violation"},
		{"authentication", []string{good, rawAuth}, "policy-violation"},
		{"bidi", []string{good, rawBidi}, "policy-violation"},
		{"starttls in another namespace", []string{good, "<starttls xmlns='urn:x'/>"}, "policy-violation"},
		{"acks", []string{good, "<enable xmlns='urn:xmpp:sm:3'/>"}, "policy-violation"},
		{"stanza", []string{good, "<iq type='get' id='1'" + addressed + "><ping xmlns='urn:xmpp:ping'/></iq>"}, "not-authorized"},
		{"to nobody", []string{rawHeader("montague.example", "")}, "improper-addressing"},
		{"to a domain not ours", []string{rawHeader("montague.example", "mantua.example")}, "host-unknown"},
		{"from an address literal", []string{rawHeader("[192.0.2.1]", "capulet.example")}, "invalid-from"},
		{"version 0.9", []string{strings.Replace(good, " version='1.0' from", " version='0.9' from", 1)}, "unsupported-version"},
		{"TLS straight away", []string{"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"}, "not-well-formed"},
		{"DTD", []string{"<!DOCTYPE a>"}, "restricted-xml"},
		{"endless header", []string{good[:len(good)-1] + strings.Repeat(" ", 11000)}, "policy-violation"},
		{"too large an element", []string{good, "<starttls xmlns='" + nsTLS + "'>" + strings.Repeat("x", 11000)}, "policy-violation"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			before := capulet.Snapshot()
			r := dialClear(t, capulet)
			got := ""
			for _, step := range tt.steps {
				r.send(step)
				if r.parser.Buffered() == 0 && got == "" {
					if _, err := r.parser.Header(); err != nil {
						t.Fatal(err)
					}
					got = "header"
				}
				el := r.next()
				if el.Is(wire.StreamNS, "error") {
					got = readPeerError(el).condition
				}
			}
			if got == "header" {
				got = r.streamError()
			}
			if got != tt.condition {
				t.Fatalf("ended with %q, want %q", got, tt.condition)
			}
			r.conn.Close()
			eventually(t, "counted", func() bool {
				s := capulet.Snapshot()
				return s.StreamErrors == before.StreamErrors+1 && s.NegotiationFailures == before.NegotiationFailures+1
			})
		})
	}
}

// TestAfterProceed: octets in the clear where the handshake should be break
// it, and the names inside TLS must be those from before.
func TestAfterProceed(t *testing.T) {
	ca := newAuthority(t)
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example"), "verona.example": ca.issue("verona.example")})
	proceeded := func() *rawPeer {
		r := dialClear(t, capulet)
		r.open("montague.example", "capulet.example")
		r.send(requestTLS)
		r.next()
		return r
	}
	for _, in := range []string{rawHeader("montague.example", "capulet.example"), "\n", "<iq/>", "\x16\x03\x01\x00\x01\x00"} {
		r := proceeded()
		r.send(in)
		r.conn.CloseWrite()
		if got, err := io.ReadAll(r.conn); isTimeout(err) || bytes.ContainsAny(got, "<") {
			t.Errorf("%q was answered with %q", in, got)
		}
	}
	for want, header := range map[string]string{
		"invalid-from":        rawHeader("mantua.example", "capulet.example"),
		"host-unknown":        rawHeader("montague.example", "verona.example"),
		"improper-addressing": rawHeader("", "capulet.example"),
	} {
		r := proceeded().secure("capulet.example", ca.issue("montague.example"))
		r.send(header)
		if _, err := r.parser.Header(); err != nil {
			t.Fatal(err)
		}
		if c := r.streamError(); c != want {
			t.Errorf("%s\nended with %q, want %q", header, c, want)
		}
		r.conn.NetConn().Close()
	}
	eventually(t, "all counted", func() bool { return capulet.Snapshot().NegotiationFailures == 7 })
}

// TestServersBeforeTLS dials servers, or what stands between us and them, that
// answer in the clear in many ways. Nothing of ours but the header and
// starttls may be seen there.
func TestServersBeforeTLS(t *testing.T) {
	ca := newAuthority(t)
	cert, own := ca.issue("montague.example"), ca.issue("capulet.example")
	streamErr := func(s string) string {
		return serverHeader + "<stream:error>" + s + "</stream:error></stream:stream>"
	}
	const ns = " xmlns='urn:ietf:params:xml:ns:xmpp-streams'"
	for _, tt := range []struct {
		name      string
		steps     []string // what is answered to the header, and to starttls
		stage     string
		condition string
		permanent bool
	}{
		{"STARTTLS stripped", []string{serverHeader + "<stream:features/>"}, StageStartTLS, "", true},
		{"STARTTLS replaced", []string{serverHeader + serverFeatures}, StageStartTLS, "", true},
		{"STARTTLS in another namespace", []string{serverHeader + "<stream:features><starttls xmlns='urn:x'/></stream:features>"}, StageStartTLS, "", true},
		{"dialback only", []string{serverHeader + "<stream:features><dialback xmlns='urn:xmpp:features:dialback'/></stream:features>"}, StageStartTLS, "", true},
		{"stanza instead of features", []string{serverHeader + "<iq/>"}, StageStartTLS, "policy-violation", true},
		{"TLS refused", []string{serverHeader + requireTLS, "<failure xmlns='" + nsTLS + "'/></stream:stream>"}, StageStartTLS, "", false},
		{"another answer", []string{serverHeader + requireTLS, serverSuccess}, StageStartTLS, "policy-violation", true},
		{"features behind proceed", []string{serverHeader + requireTLS, proceedTLS + serverHeader + serverFeatures}, StageStartTLS, "policy-violation", true},
		{"white space behind proceed", []string{serverHeader + requireTLS, proceedTLS + " "}, StageStartTLS, "policy-violation", true},
		{"host unknown", []string{streamErr("<host-unknown" + ns + "/>")}, StageStartTLS, "host-unknown", true},
		{"referral", []string{streamErr("<see-other-host" + ns + ">127.0.0.1:1</see-other-host>")}, StageStartTLS, "see-other-host", true},
		{"DTD", []string{"<!DOCTYPE a>"}, StageStartTLS, "restricted-xml", true},
		{"flood", []string{serverHeader + "<stream:features>" + strings.Repeat("<a/>", 5000)}, StageStartTLS, "policy-violation", true},
		{"wrong version", []string{strings.Replace(serverHeader, "version='1.0' from", "version='0.9' from", 1)}, StageStartTLS, "unsupported-version", true},
		{"closes", []string{serverHeader + "</stream:stream>"}, StageStartTLS, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			saw := make(chan string, 1)
			targets := rawServer(t, cert, func(r *rawPeer) bool {
				var seen bytes.Buffer
				r.parser = wire.NewParser(io.TeeReader(r.conn, &seen), wire.Default())
				if _, err := r.parser.Header(); err != nil {
					t.Error(err)
				}
				io.WriteString(r.conn, tt.steps[0])
				if len(tt.steps) > 1 {
					r.parser.Next()
					io.WriteString(r.conn, tt.steps[1])
				}
				io.Copy(&seen, r.conn)
				saw <- seen.String()
				return false
			}, func(*rawPeer) {})
			capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": own})
			_, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
			e, ok := errors.AsType[*NegotiationError](err)
			if !ok || e.Stage != tt.stage || e.Condition != tt.condition || e.Permanent != tt.permanent || e.Peer {
				t.Fatalf("%+v (%v)", e, err)
			}
			if got := <-saw; strings.Contains(got, "<auth") || strings.Contains(got, "<bidi") {
				t.Error("said in the clear:", got)
			}
			if s := capulet.Snapshot(); s.Dialled != 1 || s.DialFailures != 1 || s.Redirects != 0 {
				t.Errorf("%+v", s)
			}
		})
	}

	// A packet behind proceed that comes late ends up in the handshake.
	targets := rawServer(t, cert, func(r *rawPeer) bool {
		if givesTLS(r) {
			io.ReadFull(r.conn, make([]byte, 1)) // of the ClientHello
			io.WriteString(r.conn, serverHeader+serverFeatures)
		}
		return false
	}, func(*rawPeer) {})
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": own})
	_, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
	if e, ok := errors.AsType[*NegotiationError](err); !ok || e.Stage != StageTLS {
		t.Fatal(err)
	}
}

package stream

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

// isTimeout reports whether a deadline of the test's own passed.
func isTimeout(err error) bool {
	n, ok := errors.AsType[net.Error](err)
	return ok && n.Timeout()
}

// rawServer accepts one connection for a script. before, if not nil, is what
// happens in the clear; it says whether TLS comes then.
func rawServer(t *testing.T, cert *tls.Certificate, before func(*rawPeer) bool, script func(*rawPeer)) []Target {
	ln := listen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(10 * time.Second))
		if before != nil && !before(&rawPeer{t, inClear{raw}, wire.NewParser(raw, wire.Default())}) {
			io.Copy(io.Discard, raw)
			return
		}
		c := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{*cert}, ClientAuth: tls.RequestClientCert})
		if c.Handshake() != nil {
			return
		}
		r := &rawPeer{t, c, wire.NewParser(c, wire.Default())}
		script(r)
		for err = nil; err == nil; {
			if _, err = r.parser.Next(); err == io.EOF {
				io.WriteString(c, "</stream:stream>")
			}
		}
		io.Copy(io.Discard, c)
		c.Close()
	}()
	t.Cleanup(func() {
		ln.Close()
		<-done
	})
	return []Target{{Host: "raw", Addr: ln.Addr().String(), StartTLS: before != nil}}
}

const (
	serverHeader = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' " +
		"id='i' version='1.0' from='montague.example' to='capulet.example'>"
	serverFeatures = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>" +
		"<bidi xmlns='urn:xmpp:features:bidi'/></stream:features>"
	serverSuccess = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
)

// givesTLS is a server's side of STARTTLS, as it should be.
func givesTLS(r *rawPeer) bool {
	if _, err := r.parser.Header(); err != nil {
		r.t.Error(err)
		return false
	}
	io.WriteString(r.conn, serverHeader+requireTLS)
	if el, err := r.parser.Next(); err != nil || !el.Is(nsTLS, "starttls") {
		r.t.Error("no starttls", err)
		return false
	}
	_, err := io.WriteString(r.conn, proceedTLS)
	return err == nil
}

// TestConnectingSide dials servers that answer in many ways.
func TestConnectingSide(t *testing.T) {
	for name, before := range map[string]func(*rawPeer) bool{"direct TLS": nil, "STARTTLS": givesTLS} {
		t.Run(name, func(t *testing.T) { testConnectingSide(t, before) })
	}
}

func testConnectingSide(t *testing.T, before func(*rawPeer) bool) {
	ca := newAuthority(t)
	cert, own := ca.issue("montague.example"), ca.issue("capulet.example")
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
		{"no bidi", []string{serverHeader + strings.Replace(serverFeatures, "features:bidi", "other", 1), serverSuccess,
			serverHeader + "<stream:features/>"}, StageBidi, "", true, true},
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
			defer bounded(t)()
			targets := rawServer(t, cert, before, func(r *rawPeer) { r.serve(tt.steps) })
			capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": own}, func(c *Config) { c.BackOff = time.Hour })
			_, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
			e, ok := errors.AsType[*NegotiationError](err)
			if !ok || e.Stage != tt.stage || e.Condition != tt.condition || e.Permanent != tt.permanent || e.Peer != tt.peer {
				t.Fatalf("%+v (%v)", e, err)
			}
			// And then it is left in peace, with the same story told.
			_, err = capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
			again, ok := errors.AsType[*NegotiationError](err)
			inPeace := ok && (again.Stage == StageBackOff || tt.stage == StageBidi && again.Stage == StageBidi)
			if !inPeace || again.Condition != tt.condition || again.Permanent != tt.permanent || again.Peer != tt.peer {
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

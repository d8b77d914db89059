package demo

import (
	"crypto/tls"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
)

// script answers each thing that it waits for.
type script []struct {
	wait   string // pattern
	answer string
}

const (
	header  = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='montague.example' to='mallory.example' id='1' version='1.0'>"
	offered = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms></stream:features>"
	ready   = "<stream:features/>"
	success = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
)

// negotiated is a stream on which everything goes well up to the offer.
func negotiated(answer string) script {
	return script{
		{`from='mallory.example' to='montague.example'[^>]*>`, header + offered},
		{`<bidi xmlns='urn:xmpp:bidi'/><auth[^>]*mechanism='EXTERNAL'>=</auth>`, success},
		{`<stream:stream[^>]*>`, header + ready},
		{`sender='juliet\+forged@capulet.example'.*</iq>`, answer},
	}
}

func (s script) serve(t *testing.T, ln net.Listener) {
	conn, err := ln.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	talk := &talk{conn: conn}
	for _, turn := range s {
		if talk.exchange("", regexp.MustCompile(turn.wait)); talk.err != nil {
			t.Errorf("waiting for %s: %v", turn.wait, talk.err)
			return
		}
		io.WriteString(conn, turn.answer)
	}
	io.Copy(io.Discard, conn)
}

func TestForge(t *testing.T) {
	a, err := newAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server, err := a.leaf(montague)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		script script
		want   forgeAnswer
		err    string
	}{
		{"refused", negotiated("<iq xmlns='jabber:server' type='error' id='forged' from='montague.example' to='mallory.example'><error type='auth'>" +
			"<forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>no</text></error></iq>"), forgeAnswer{"error", "forbidden"}, ""},
		{"refused, other quotes", negotiated(`<iq id="forged" type="error"><error type="auth"><forbidden xmlns="urn:ietf:params:xml:ns:xmpp-stanzas"/></error></iq>`), forgeAnswer{"error", "forbidden"}, ""},
		{"refused after a question of the peer's own", append(negotiated("<iq type='get' id='q1' from='montague.example' to='mallory.example'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>"),
			script{{`<iq type='result' from='mallory.example' to='montague.example' id='q1'><query xmlns='http://jabber.org/protocol/disco#info'/></iq>`,
				"<iq type='error' id='forged'><error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></iq>"}}...), forgeAnswer{"error", "forbidden"}, ""},
		{"taken", negotiated("<iq type='result' id='forged'><accepted xmlns='urn:xmpp:mail-transport:0'/></iq>"), forgeAnswer{"result", ""}, ""},
		{"stream error", negotiated("<stream:error><policy-violation/></stream:error></stream:stream>"), forgeAnswer{}, "policy-violation"},
		{"not authenticated", script{{`<stream:stream[^>]*>`, header + offered}, {`</auth>`, "<failure xmlns='x'><not-authorized/></failure>"}}, forgeAnswer{}, "not-authorized"},
		{"endless", script{{`<stream:stream[^>]*>`, header + strings.Repeat("x", 2*forgeOctets)}}, forgeAnswer{}, "too long"},
	} {
		ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{server.pair}})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() { defer close(done); tt.script.serve(t, ln) }()
		got, err := forge(t.Context(), ln.Addr().String(), &tls.Config{RootCAs: a.roots, ServerName: montague}, forgedSender, romeo+"@"+montague)
		ln.Close()
		<-done
		if got != tt.want || (tt.err == "") != (err == nil) || tt.err != "" && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %+v, %v", tt.name, got, err)
		}
	}
}

package proof

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"mailxmppd/xmpp/stream"
)

// TestDANE: from which answers a self-signed certificate is proven, by both
// roles, and what is said where it is not.
func TestDANE(t *testing.T) {
	peer, other, old := selfSigned(t, "whatever"), selfSigned(t, "montague.example"), outOfDate(t, "montague.example")
	const d, h = "montague.example", "xmpp.hoster.example"
	server, direct, own := "_xmpp-server", "_xmpps-server", "_xmpps-mail"
	for _, c := range []struct {
		name              string
		records           []string
		unsigned, failing []string
		cert              *issued
		dialled           *stream.Target // nil: accepted
		addrs             []string       // configured
		want, why         string
	}{
		{name: "accepted, _xmpp-server", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, peer)}, want: "dane"},
		{name: "accepted, _xmpps-server", records: []string{srv(direct, d, h, 5270), daneEE(h, 5270, peer)}, want: "dane"},
		{name: "accepted, _xmpps-mail", records: []string{srv(own, d, h, 5271), daneEE(h, 5271, peer)}, want: "dane"},
		{name: "accepted, second host", records: []string{srv(server, d, "a.example", 5269), daneEE("a.example", 5269, other),
			srv(server, d, h, 5269), daneEE(h, 5269, peer)}, want: "dane"},
		{name: "accepted, host's own alias in capitals", records: []string{srv(server, d, "XMPP.Hoster.Example", 5269), daneEE(h, 5269, peer)}, want: "dane"},
		{name: "dialled", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, peer)},
			dialled: &stream.Target{Host: h, Port: 5269}, want: "dane"},
		{name: "dialled, record of another port", records: []string{srv(server, d, h, 5269), srv(direct, d, h, 5270), daneEE(h, 5270, peer)},
			dialled: &stream.Target{Host: h, Port: 5269}, why: "dane at _5269._tcp.xmpp.hoster.example: no TLSA records"},
		{name: "dialled, record of another host", records: []string{srv(server, d, h, 5269), srv(server, d, "b.example", 5269),
			daneEE("b.example", 5269, peer), daneEE(h, 5269, other)},
			dialled: &stream.Target{Host: h, Port: 5269}, why: "_5269._tcp.xmpp.hoster.example: matches none"},
		{name: "dialled where no SRV record leads", records: []string{srv(server, d, "b.example", 5269), daneEE(h, 5269, peer)},
			dialled: &stream.Target{Host: h, Port: 5269}, why: "_5269._tcp.xmpp.hoster.example: no signed SRV record leads there"},
		{name: "expired certificate", cert: old, records: []string{srv(server, d, h, 5269), daneEE(h, 5269, old)}, want: "dane"},
		{name: "wrong key", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, other)},
			why: "dane at _5269._tcp.xmpp.hoster.example: matches none of the TLSA records"},
		{name: "unsigned SRV", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, peer)}, unsigned: []string{"_xmpp-server."},
			why: "_xmpp-server._tcp.montague.example: SRV records are not signed"},
		{name: "unsigned SRV, dialled", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, peer)}, unsigned: []string{"_xmpp-server."},
			dialled: &stream.Target{Host: h, Port: 5269}, why: "SRV records are not signed"},
		{name: "unsigned TLSA", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, peer)}, unsigned: []string{"_5269."},
			why: "_5269._tcp.xmpp.hoster.example: TLSA records are not signed"},
		{name: "bogus SRV", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, peer)}, failing: []string{"_xmpp-server."},
			why: "_xmpp-server._tcp.montague.example: SRV records cannot be had"},
		{name: "bogus SRV of one service of two", records: []string{srv(direct, d, h, 5270), daneEE(h, 5270, peer)}, failing: []string{"_xmpp-server."}, want: "dane"},
		{name: "bogus TLSA", records: []string{srv(server, d, h, 5269), daneEE(h, 5269, peer)}, failing: []string{"_5269."},
			why: "_5269._tcp.xmpp.hoster.example: TLSA records cannot be had"},
		{name: "no SRV", records: []string{daneEE(d, 5269, peer)}, why: "montague.example: no SRV records of XMPP services"},
		{name: "target is the root", records: []string{d + ". 60 IN A 127.0.0.1", "_xmpp-server._tcp." + d + ". 60 IN SRV 0 0 5269 .", daneEE(d, 5269, peer)},
			why: "no SRV records of XMPP services"},
		{name: "no TLSA", records: []string{srv(server, d, h, 5269)}, why: "_5269._tcp.xmpp.hoster.example: no TLSA records"},
		{name: "unknown usage", records: []string{srv(server, d, h, 5269), tlsa(h, 5269, 4, 1, 1, make([]byte, 32))},
			why: "none of 1 TLSA records can be used"},
		{name: "configured host, dialled", records: []string{daneEE(h, 5270, peer)}, addrs: []string{h + ":5270"},
			dialled: &stream.Target{Host: h, Port: 5270}, want: "dane"},
		{name: "configured host, accepted", records: []string{daneEE(h, 5270, peer)}, addrs: []string{h + ":5270"}, want: "dane"},
		{name: "configured host, unsigned", records: []string{daneEE(h, 5270, peer)}, addrs: []string{h + ":5270"}, unsigned: []string{"_5270."},
			why: "TLSA records are not signed"},
		{name: "configured address", records: nil, addrs: []string{"127.0.0.1:5270"}, dialled: &stream.Target{Host: "127.0.0.1", Port: 5270},
			why: "no signed SRV record leads there"},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := serveZone(t, &zone{records: c.records, unsigned: c.unsigned, failing: c.failing})
			p := newProver(t, Config{DNS: z.resolver(t), DANE: true, Peers: map[string]Peer{d: {Addrs: c.addrs}}})
			cert := c.cert
			if cert == nil {
				cert = peer
			}
			e := accepted(cert)
			e.Dialled = c.dialled
			proof, err := p.Prove(patience(t), e)
			check(t, proof, err, c.want, c.why)
			if c.want == "" && !errors.Is(err, errNoChain) {
				t.Error("the reason of PKIX is lost:", err)
			}
			s := p.Snapshot()
			if c.want == "" && (s.Refused != 1 || s.DANE != 0) || c.want != "" && (s.Refused != 0 || s.DANE != 1) {
				t.Errorf("counters: %+v", s)
			}
		})
	}
}

// TestSwitches: nothing is asked that is not needed or not wanted.
func TestSwitches(t *testing.T) {
	peer := selfSigned(t, "montague.example")
	z := startZone(t, srv("_xmpp-server", "montague.example", "h.example", 5269), daneEE("h.example", 5269, peer))
	p := newProver(t, Config{DNS: z.resolver(t)})
	proof, err := p.Prove(patience(t), accepted(peer))
	check(t, proof, err, "", "pkix: no chain")
	e := accepted(peer)
	e.PKIX = nil
	p = newProver(t, Config{DNS: z.resolver(t), DANE: true, POSH: true})
	proof, err = p.Prove(patience(t), e)
	check(t, proof, err, "pkix", "")
	e.State.PeerCertificates = nil
	proof, err = p.Prove(patience(t), e)
	check(t, proof, err, "", "no certificate was shown")
	if len(z.asked()) > 0 {
		t.Error("asked:", z.asked())
	}
	if _, err := New(Config{DANE: true}); err == nil {
		t.Error("DANE without DNS")
	}
	if _, err := New(Config{POSH: true}); err == nil {
		t.Error("POSH without DNS")
	}
}

// TestManyPlaces: a domain cannot make us ask about more than maxPlaces hosts.
func TestManyPlaces(t *testing.T) {
	var records []string
	for i := range maxPlaces {
		for _, service := range []string{"_xmpp-server", "_xmpps-server", "_xmpps-mail"} {
			records = append(records, srv(service, "montague.example", fmt.Sprintf("h%d%s.example", i, service), 5269))
		}
	}
	z := startZone(t, records...)
	p := newProver(t, Config{DNS: z.resolver(t), DANE: true})
	proof, err := p.Prove(patience(t), accepted(selfSigned(t, "x")))
	check(t, proof, err, "", "no TLSA records")
	if want := len(services) + maxPlaces; len(z.asked()) != want {
		t.Errorf("%d names asked, want %d", len(z.asked()), want)
	}
}

func TestPins(t *testing.T) {
	current, backup, wrong, old := selfSigned(t, "x"), selfSigned(t, "y"), selfSigned(t, "montague.example"), outOfDate(t, "x")
	z := startZone(t, srv("_xmpp-server", "montague.example", "h.example", 5269), daneEE("h.example", 5269, wrong))
	p := newProver(t, Config{DNS: z.resolver(t), DANE: true, Peers: map[string]Peer{
		"montague.example": {Pins: []Pin{PinOf(current.cert), PinOf(backup.cert), PinOf(old.cert)}},
	}})
	for _, c := range []struct {
		name string
		cert *issued
		pkix error
		want string
	}{
		{"current key", current, errNoChain, "pinned"},
		{"back-up key", backup, errNoChain, "pinned"},
		{"current key, PKIX as well", current, nil, "pinned"},
		{"expired certificate of a pinned key", old, errNoChain, "pinned"},
		{"wrong key, DANE would prove it", wrong, errNoChain, ""},
		{"wrong key, PKIX would prove it", wrong, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := accepted(c.cert)
			e.PKIX = c.pkix
			proof, err := p.Prove(patience(t), e)
			check(t, proof, err, c.want, "pinned: its key "+PinOf(wrong.cert).String()+" is not one of the 3 pinned")
		})
	}
	if len(z.asked()) > 0 {
		t.Error("asked:", z.asked())
	}
	e := accepted(wrong)
	e.Remote, e.PKIX = "other.example", nil
	if proof, err := p.Prove(patience(t), e); proof != "pkix" || err != nil {
		t.Error("pins of one domain bind another:", proof, err)
	}
}

func TestParsePin(t *testing.T) {
	pin := PinOf(selfSigned(t, "x").cert)
	if got, err := ParsePin(pin.String()); err != nil || got != pin {
		t.Error(got, err)
	}
	for _, bad := range []string{"", "00", pin.String() + "00", "zz" + pin.String()[2:], " " + pin.String()} {
		if _, err := ParsePin(bad); err == nil {
			t.Errorf("taken: %q", bad)
		}
	}
}

// TestUnproven: the text names all that was tried, in order.
func TestUnproven(t *testing.T) {
	peer := selfSigned(t, "x")
	z := startZone(t)
	p := newProver(t, Config{DNS: z.resolver(t), DANE: true, POSH: true})
	_, err := p.Prove(patience(t), accepted(peer))
	no, ok := errors.AsType[*Unproven](err)
	if !ok {
		t.Fatal(err)
	}
	var tried []string
	for _, r := range no.Reasons {
		tried = append(tried, r.Proof)
	}
	if want := []string{"pkix", "dane", "posh"}; !slices.Equal(tried, want) {
		t.Errorf("tried %q, want %q: %v", tried, want, err)
	}
}

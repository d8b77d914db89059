package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// referrer is a server of montague.example that sends everybody elsewhere.
func referrer(t *testing.T, cert *tls.Certificate, to string) []Target {
	return rawServer(t, cert, nil, func(r *rawPeer) {
		r.serve([]string{serverHeader + "<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>" + to +
			"</see-other-host></stream:error></stream:stream>"})
	})
}

func TestReferral(t *testing.T) {
	ca := newAuthority(t)
	cert := ca.issue("montague.example")
	montague := startNode(t, ca, map[string]*tls.Certificate{"montague.example": cert})
	wrong := startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("mallory.example")})
	port := montague.addr[strings.LastIndex(montague.addr, ":"):]
	lookup := func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "other.montague.example" {
			return nil, errors.New("no such host")
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	for _, tt := range []struct {
		name, to string
		ok       bool
		followed int64
	}{
		{"an address", montague.addr, true, 1},
		{"a name", "other.montague.example" + port, true, 1},
		{"a name with a dot", "other.montague.example." + port, true, 1},
		{"white space around it", "\n " + montague.addr + " ", true, 1},
		{"who cannot prove the domain", wrong.addr, false, 1},
		{"who refers on", referrer(t, cert, montague.addr)[0].Addr, false, 1},
		{"an unknown name", "x.example" + port, false, 0},
		{"nobody", "", false, 0},
		{"port 0", "127.0.0.1:0", false, 0},
		{"no port number", "127.0.0.1:x", false, 0},
		{"a port too high", "127.0.0.1:65536", false, 0},
		{"a literal", "[127.0.0.1" + port, false, 0},
		{"a zone", "[fe80::1%lo]" + port, false, 0},
		{"control characters", "a&#10;b.example" + port, false, 0},
		{"a path", "other.montague.example/x" + port, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer bounded(t)()
			targets := referrer(t, cert, tt.to)
			capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")},
				func(c *Config) { c.Lookup = lookup })
			l, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets)
			if (err == nil) != tt.ok {
				t.Fatal(l, err)
			}
			if s := capulet.Snapshot(); s.Redirects != tt.followed || s.Dialled != 1+tt.followed {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestReferralOfStrangers: who has not proven the domain sends us nowhere.
func TestReferralOfStrangers(t *testing.T) {
	ca := newAuthority(t)
	montague := startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("montague.example")})
	targets := rawServer(t, ca.issue("mallory.example"), nil, func(r *rawPeer) {
		// Without being asked, which is what a stranger would do.
		io.WriteString(r.conn, serverHeader+"<stream:error><see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>"+montague.addr+
			"</see-other-host></stream:error></stream:stream>")
	})
	capulet := startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")})
	if _, err := capulet.Link(t.Context(), "capulet.example", "montague.example", targets); err == nil {
		t.Fatal("a link")
	}
	if s := capulet.Snapshot(); s.Redirects != 0 || s.Dialled != 1 {
		t.Errorf("%+v", s)
	}
}

func TestSplitReferral(t *testing.T) {
	for in, want := range map[string]struct {
		host string
		port uint16
	}{
		"a.example":           {"a.example", 0},
		"A.Example.:5270":     {"a.example", 5270},
		"192.0.2.1":           {"192.0.2.1", 0},
		"192.0.2.1:5270":      {"192.0.2.1", 5270},
		"[2001:db8::1]":       {"2001:db8::1", 0},
		"[2001:db8::1]:9222":  {"2001:db8::1", 9222},
		"bücher.example:5269": {"xn--bcher-kva.example", 5269},
	} {
		host, port, err := splitReferral(in)
		if err != nil || host != want.host || port != want.port {
			t.Errorf("%s: %s %d %v", in, host, port, err)
		}
	}
	m := NewManager(Config{})
	defer m.Shutdown(t.Context())
	failure := &NegotiationError{Peer: true, Err: &peerError{condition: "see-other-host", host: "[2001:db8::1]"}}
	got := m.referral(failure, Target{Port: 5270})
	if len(got) != 1 || got[0] != (Target{Host: "2001:db8::1", Port: 5269, Addr: net.JoinHostPort("2001:db8::1", "5269"), StartTLS: true}) {
		t.Errorf("%+v", got)
	}
}

func FuzzSplitReferral(f *testing.F) {
	for _, s := range []string{"a.example:5269", "[::1]:1", "[::1]", "::1", ":", "[", "a:b:c", "\x00:1", "[::1%eth0]:5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, _, err := splitReferral(s)
		if err == nil && (host == "" || strings.ContainsAny(host, " /@%[]\r\n\x00")) {
			t.Fatalf("%q gave the host %q", s, host)
		}
	})
}

package harness

import "path/filepath"

// Pair is two gateways, not yet started, that are each other's configured
// peers.
type Pair struct{ A, B *Gateway }

// Side is what differs between the two.
type Side struct {
	Domain string
	Store  string // URL
	Schema string // Postgres
	Node   string // Postgres; "" for "lab"
	LMTP   string // address of an LMTP listener, or ""
}

// NewPair configures two gateways on free ports, in folders below s.Dir; of s,
// Domain, Store, Schema, Node, LMTP, SMTP, XMPP and Peers are filled in.
func NewPair(s Spec, a, b Side) (*Pair, error) {
	addrs, err := FreeAddrs(4)
	if err != nil {
		return nil, err
	}
	gatewayOf := func(own, other Side, smtp, xmpp, otherXMPP string) (*Gateway, error) {
		g := s
		g.Dir = filepath.Join(s.Dir, own.Domain)
		g.Domain, g.Store, g.Schema, g.Node, g.LMTP, g.SMTP, g.XMPP = own.Domain, own.Store, own.Schema, own.Node, own.LMTP, smtp, xmpp
		g.Peers = map[string]string{other.Domain: otherXMPP}
		return NewGateway(g)
	}
	p := &Pair{}
	if p.A, err = gatewayOf(a, b, addrs[0], addrs[1], addrs[3]); err != nil {
		return nil, err
	}
	p.B, err = gatewayOf(b, a, addrs[2], addrs[3], addrs[1])
	return p, err
}

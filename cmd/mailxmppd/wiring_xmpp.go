package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/gateway"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/grants"
	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/proof"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// openTransfers is how long an open transfer without progress is kept, and
// dialTimeout how long one address of a peer may take to connect: less than
// the time that discovery has for all of them.
const (
	openTransfers = 24 * time.Hour
	dialTimeout   = 3 * time.Second
)

// xmppSide is everything that speaks XMPP.
type xmppSide struct {
	prover     *proof.Prover
	streams    *stream.Manager
	components []*component.Component
	links      peers.Streams // of both
	directory  *peers.Directory
	sender     *transfer.Sender
	takes      transfer.Capabilities
	transfers  *transfer.Server // made by receiveFor
	gateway    *gateway.Gateway // set by receiveFor
	grants     *grants.Grants   // nil where none are kept
}

// newXMPP makes the sending half. Streams and gateway need each other: the
// streams hand requests up to the transfers' server and through it to the
// gateway, which sends through the streams. receiveFor closes the circle,
// before anything is served.
func newXMPP(cfg *config.Config, st store.Store, resolver *dns.Resolver, roots *x509.CertPool, certs *certificates, kept *grants.Grants, log *slog.Logger) (*xmppSide, error) {
	x := &xmppSide{takes: capabilities(cfg), grants: kept}
	prover, err := newProver(cfg, resolver, roots, log)
	if err != nil {
		return nil, err
	}
	x.prover = prover
	disco, err := announcements(cfg, x.takes)
	if err != nil {
		return nil, err
	}
	x.streams = stream.NewManager(stream.Config{
		Certificate: certs.of, Roots: roots, Prove: prover.Prove, Binary: transfer.Binary(),
		MaxStreams: cfg.XMPP.MaxStreams, MaxPerAddress: cfg.XMPP.PerAddress, DialTimeout: dialTimeout,
		IdleClose: cfg.XMPP.IdleClose.Duration, RequestTimeout: cfg.XMPP.RequestTimeout.Duration,
		Targets: func(ctx context.Context, local, remote string) ([]stream.Target, error) {
			return x.directory.ServerTargets(ctx, local, remote)
		},
		Lookup: func(ctx context.Context, host string) ([]netip.Addr, error) {
			a := resolver.Addrs(ctx, host)
			if len(a.Records) == 0 {
				return nil, fmt.Errorf("%s has no address: %s", host, a.Status)
			}
			return a.Records, nil
		},
		Handle: func(ctx context.Context, l *stream.Link, iq *stream.IQ) stream.Reply {
			return x.transfers.Handle(ctx, l, iq)
		},
		DiscoInfo: func(local, _ string) []byte { return disco[local] },
		Up:        x.up,
		Version:   readBuild().Version, Log: log,
	})
	if err := x.addComponents(cfg, log); err != nil {
		return nil, err
	}
	x.links = component.Over(peers.Over(x.streams), x.components...)
	x.directory = peers.NewDirectory(peers.Config{
		Peers: configuredPeers(cfg), Services: services(cfg), DNS: resolver, Streams: x.links, Store: st, Roots: roots,
		Validating: cfg.DNS.Validating, Log: log,
		Reached: x.reached,
	})
	var keys transfer.Keys
	if kept != nil {
		keys = kept
	}
	x.sender = transfer.NewSender(transfer.SenderConfig{
		Keys:  keys,
		Links: x.directory, MaxInline: maxInline(cfg), Chunk: int(cfg.XMPP.Chunk), Window: cfg.XMPP.Window,
		RequestTimeout: cfg.XMPP.RequestTimeout.Duration, Log: log,
	})
	return x, nil
}

// up tells that a peer can be reached, and the domains that it is a service of.
func (x *xmppSide) up(local, remote string) {
	x.directory.Seen(local, remote)
	go func() { // PeerUp asks the store, for which up must not wait
		for _, domain := range append(x.directory.Through(remote), remote) {
			x.reached(local, domain)
		}
	}()
}

// reached tells those who have something for a domain that it takes it again.
func (x *xmppSide) reached(local, domain string) {
	x.gateway.PeerUp(local, domain)
	if x.grants != nil {
		x.grants.PeerUp(domain)
	}
}

// announcements are the answers to disco#info under each of our names.
func announcements(cfg *config.Config, takes transfer.Capabilities) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, d := range cfg.Domains {
		name := d.XMPPName()
		info, err := servedUnder(cfg, name, takes).DiscoInfo()
		if err != nil {
			return nil, err
		}
		out[name] = info
	}
	return out, nil
}

// servedUnder names the domains of a service that has others than its own name
// (xep-draft section 4.5).
func servedUnder(cfg *config.Config, name string, c transfer.Capabilities) transfer.Capabilities {
	if served := cfg.ServedBy(name); !slices.Equal(served, []string{name}) {
		c.Serves = served
	}
	return c
}

// services are the names over XMPP of our domains that have another there.
func services(cfg *config.Config) map[string]string {
	out := map[string]string{}
	for _, d := range cfg.Domains {
		if d.Service != "" {
			out[d.Name] = d.Service
		}
	}
	return out
}

// addComponents makes the domains of ours that are components of chat servers.
func (x *xmppSide) addComponents(cfg *config.Config, log *slog.Logger) error {
	for _, k := range cfg.Components {
		disco, err := componentTakes(servedUnder(cfg, k.Domain, x.takes), int(k.MaxStanza)).DiscoInfo()
		if err != nil {
			return err
		}
		c, err := component.New(component.Config{
			Domain: k.Domain, Address: k.Server, Secret: string(k.Secret),
			AssertAuthenticated: k.AssertAuthenticated, MaxStanza: int(k.MaxStanza),
			RequestTimeout: cfg.XMPP.RequestTimeout.Duration,
			Handle: func(ctx context.Context, b mail.Binding, iq *stream.IQ) stream.Reply {
				return x.transfers.HandleBound(ctx, b, iq)
			},
			DiscoInfo: func(string, string) []byte { return disco },
			Up:        x.up, Version: readBuild().Version, Log: log,
		})
		if err != nil {
			return err
		}
		x.components = append(x.components, c)
	}
	return nil
}

// componentTakes is what a component announces: what fits into the server's
// stanzas, and not REQUIRETLS, since the server's streams are not ours to vouch
// for (xep-draft section 7.4).
func componentTakes(c transfer.Capabilities, maxStanza int) transfer.Capabilities {
	const around = 4000 // octets of a stanza beside its content
	room := (maxStanza - around) / 4 * 3
	c.MaxChunk, c.MaxInline = max(min(c.MaxChunk, room), 6000), min(c.MaxInline, room/2)
	c.Extensions = slices.DeleteFunc(slices.Clone(c.Extensions), func(e string) bool { return e == transfer.ExtRequireTLS })
	return c
}

// maxInline is what offers carry: the sender takes 0 for its default and a
// negative number for none.
func maxInline(cfg *config.Config) int {
	if cfg.XMPP.MaxInline == 0 {
		return -1
	}
	return int(cfg.XMPP.MaxInline)
}

// receiveFor makes the receiving half, which hands what peers send to g.
func (x *xmppSide) receiveFor(cfg *config.Config, g *gateway.Gateway, st store.Store, log *slog.Logger) {
	x.gateway = g
	var permissions transfer.Permissions
	if x.grants != nil {
		permissions = x.grants
	}
	x.transfers = transfer.NewServer(transfer.ServerConfig{
		Permissions: permissions,
		Receiver:    g, Transfers: st, Services: x.directory, Serves: cfg.ServedBy, Capabilities: x.takes, Log: log,
		OffersPerMinute: cfg.XMPP.OffersPerMinute, NullPerMinute: cfg.XMPP.NullPerMinute, ChecksPerMinute: cfg.XMPP.ChecksPerMinute,
	})
}

// newProver makes what judges peers' certificates. DANE counts only where the
// operator says that the resolver validates.
func newProver(cfg *config.Config, resolver *dns.Resolver, roots *x509.CertPool, log *slog.Logger) (*proof.Prover, error) {
	known := map[string]proof.Peer{}
	for _, p := range cfg.Peers {
		peer := proof.Peer{Addrs: p.Address}
		for _, s := range p.Pins {
			pin, err := proof.ParsePin(s)
			if err != nil {
				return nil, err
			}
			peer.Pins = append(peer.Pins, pin)
		}
		known[p.Domain] = peer
	}
	return proof.New(proof.Config{
		DNS: resolver, DANE: cfg.DNS.Validating, POSH: cfg.XMPP.POSH, Roots: roots, Peers: known, Log: log,
	})
}

// capabilities are what we announce to peers and keep.
func capabilities(cfg *config.Config) transfer.Capabilities {
	c := transfer.Announced()
	c.MaxMessage, c.MaxInline = int64(cfg.XMPP.MaxMessage), int(cfg.XMPP.MaxInline)
	c.MaxChunk, c.Window = int(cfg.XMPP.Chunk), cfg.XMPP.Window
	c.Retain, c.MaxRecipients = cfg.XMPP.Retain.Duration, cfg.Limits.MaxRecipients
	c.Policy, c.MaxAge, c.Sends = cfg.XMPP.Policy, cfg.XMPP.PolicyMaxAge.Duration, cfg.XMPP.Sends
	if cfg.Grants.Enabled {
		c.Extensions = append(slices.Clone(c.Extensions), transfer.ExtGrants)
	}
	if cfg.XMPP.RequireTLS {
		c.Extensions = append(slices.Clone(c.Extensions), transfer.ExtRequireTLS)
	}
	return c
}

func configuredPeers(cfg *config.Config) []peers.Configured {
	var out []peers.Configured
	for _, p := range cfg.Peers {
		out = append(out, peers.Configured{Domain: p.Domain, Addrs: p.Address, Policy: peers.Policy(p.Policy)})
	}
	return out
}

package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"time"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/gateway"
	"mailxmppd/smtpbridge"
	"mailxmppd/store"
	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// assemble makes all parts and puts them together. Streams and gateway need each
// other: the streams hand requests up to the transfers' server and through it
// to the gateway, which sends through the streams; the closures tie the knot.
func assemble(cfg *config.Config, st store.Store, log *slog.Logger) (*parts, error) {
	resolver, err := dns.New(cfg.DNS.Servers, cfg.DNS.Timeout.Duration)
	if err != nil {
		return nil, err
	}
	roots, err := cfg.TLS.Pool()
	if err != nil {
		return nil, err
	}
	certs, err := loadCertificates(cfg, log)
	if err != nil {
		return nil, err
	}
	p := &parts{certificates: certs}
	p.client = smtpbridge.NewClient(smtpbridge.ClientConfig{
		Hostname: cfg.SMTP.Hostname, DNS: resolver, MXPort: cfg.SMTP.MXPort, Roots: roots,
		MaxPerHop: cfg.Queue.PerDomain, Validating: cfg.DNS.Validating, Log: log,
	})

	capabilities := transfer.Announced()
	capabilities.MaxMessage, capabilities.MaxInline = int64(cfg.XMPP.MaxMessage), int(cfg.XMPP.MaxInline)
	capabilities.MaxChunk, capabilities.Window = int(cfg.XMPP.Chunk), cfg.XMPP.Window
	capabilities.Retain, capabilities.MaxRecipients = cfg.XMPP.Retain.Duration, cfg.Limits.MaxRecipients
	disco, err := capabilities.DiscoInfo()
	if err != nil {
		return nil, err
	}
	var transfers *transfer.Server
	p.streams = stream.NewManager(stream.Config{
		Certificate: certs.of,
		Roots:       roots, MaxStreams: cfg.XMPP.MaxStreams, MaxPerAddress: cfg.XMPP.PerAddress,
		IdleClose: cfg.XMPP.IdleClose.Duration, RequestTimeout: cfg.XMPP.RequestTimeout.Duration,
		Handle: func(ctx context.Context, l *stream.Link, iq *stream.IQ) stream.Reply {
			return transfers.Handle(ctx, l, iq)
		},
		DiscoInfo: func(string, string) []byte { return disco },
		Up: func(local, remote string) {
			p.directory.Seen(local, remote)
			go p.gateway.PeerUp(local, remote) // asks the store; Up must not wait for it
		},
		Version: readBuild().Version, Log: log,
	})
	p.directory = peers.NewDirectory(peers.Config{
		Peers: configuredPeers(cfg), DNS: resolver, Streams: peers.Over(p.streams), Store: st, Log: log,
	})
	sender := transfer.NewSender(transfer.SenderConfig{
		Links: p.directory, MaxInline: int(cfg.XMPP.MaxInline), Chunk: int(cfg.XMPP.Chunk), Window: cfg.XMPP.Window,
		RequestTimeout: cfg.XMPP.RequestTimeout.Duration, Log: log,
	})

	domains, err := ownDomains(cfg, p.client)
	if err != nil {
		return nil, err
	}
	legacy, err := legacyHops(cfg, p.client)
	if err != nil {
		return nil, err
	}
	p.gateway, err = gateway.New(gateway.Config{
		Hostname: cfg.SMTP.Hostname, Domains: domains, Store: st, Legacy: legacy, Log: log,
		Peers:      peering{p.directory, sender, p.streams},
		CutThrough: cfg.XMPP.CutThrough, CutThroughDeadline: cfg.XMPP.CutThroughDeadline.Duration, CutThroughPerPeer: cfg.XMPP.CutThroughPerPeer,
		Lifetime: cfg.Queue.Lifetime.Duration, DelayNotice: cfg.Queue.DelayNotice.Duration,
		RetryFirst: cfg.Queue.RetryFirst.Duration, RetryMax: cfg.Queue.RetryMax.Duration,
		Concurrency: cfg.Queue.Concurrency, PerDomain: cfg.Queue.PerDomain,
		Retention: store.Retention{Acceptances: cfg.XMPP.Retain.Duration, Transfers: openTransfers, Traces: cfg.Queue.KeepTrace.Duration},
	})
	if err != nil {
		return nil, err
	}
	transfers = transfer.NewServer(transfer.ServerConfig{Receiver: p.gateway, Transfers: st, Capabilities: capabilities, Log: log})
	if err := p.buildServers(cfg, certs, log); err != nil {
		return nil, err
	}
	if cfg.Admin.Socket != "" {
		p.admin = &service{server: admin.New(st, log, p.gateway.QueueChanged)}
	}
	return p, nil
}

// openTransfers is how long an open transfer without progress is kept.
const openTransfers = 24 * time.Hour

func (p *parts) buildServers(cfg *config.Config, certs *certificates, log *slog.Logger) error {
	limits := smtpbridge.DefaultLimits()
	limits.MaxSize, limits.Recipients = int64(cfg.Limits.MaxMessage), cfg.Limits.MaxRecipients
	limits.Connections, limits.PerAddress = cfg.Limits.Connections, cfg.Limits.PerAddress
	limits.Commands, limits.Errors = cfg.Limits.Commands, cfg.Limits.Errors
	limits.HeaderLines, limits.HeaderBytes = cfg.Limits.HeaderLines, int(cfg.Limits.HeaderBytes)
	// What the gateway carries over both of its legs; a next hop that cannot
	// keep REQUIRETLS is refused mail that asks for it.
	extensions := smtpbridge.DefaultExtensions()
	extensions.RequireTLS = true
	for _, l := range cfg.Listeners {
		trusted := make([]netip.Prefix, len(l.Trusted))
		for i, n := range l.Trusted {
			trusted[i] = n.Prefix
		}
		sc := smtpbridge.ServerConfig{
			Kind: smtpbridge.Kind(l.Kind), Hostname: cfg.SMTP.Hostname, ImplicitTLS: l.TLS == config.ListenImplicit,
			Extensions: extensions, Limits: limits, Handler: &gateway.Entrance{Gateway: p.gateway, Trusted: trusted}, Log: log,
		}
		if l.TLS != config.ListenPlain {
			sc.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.forSMTP}
		}
		server, err := smtpbridge.NewServer(sc)
		if err != nil {
			return err
		}
		p.smtp = append(p.smtp, service{server: server})
	}
	return nil
}

func configuredPeers(cfg *config.Config) []peers.Configured {
	var out []peers.Configured
	for _, p := range cfg.Peers {
		out = append(out, peers.Configured{Domain: p.Domain, Addrs: p.Address, Policy: peers.Policy(p.Policy)})
	}
	return out
}

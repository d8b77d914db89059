package main

import (
	"crypto/tls"
	"log/slog"
	"net/netip"

	"mailxmppd/config"
	"mailxmppd/gateway"
	"mailxmppd/smtpbridge"
)

// buildServers makes a server for each SMTP and LMTP listener.
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

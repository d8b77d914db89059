package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net/netip"

	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/gateway"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
	"mailxmppd/store"
)

// newSMTPClient makes what hands mail on by SMTP and LMTP, and what reports how
// TLS fared on the way; nil where nobody is told.
func (p *parts) newSMTPClient(cfg *config.Config, st store.Store, resolver *dns.Resolver, roots *x509.CertPool, log *slog.Logger) error {
	own := make([]netip.Addr, len(cfg.SMTP.OwnAddresses))
	for i, s := range cfg.SMTP.OwnAddresses {
		var err error
		if own[i], err = netip.ParseAddr(s); err != nil {
			return err
		}
	}
	cc := smtpbridge.ClientConfig{
		Hostname: cfg.SMTP.Hostname, DNS: resolver, MXPort: cfg.SMTP.MXPort, Roots: roots,
		MaxPerHop: cfg.Queue.PerDomain, Validating: cfg.DNS.Validating, MTASTS: cfg.SMTP.MTASTS, Policies: st,
		OwnNames: cfg.SMTP.OwnNames, OwnAddrs: own, Family: smtpbridge.Family(cfg.SMTP.IPFamily),
		Literals: cfg.SMTP.AddressLiterals, Log: log,
	}
	if cfg.SMTP.TLSReports {
		from, err := mail.ParseAddress(cfg.SMTP.TLSReportsFrom)
		if err != nil {
			return err
		}
		p.reporter = smtpbridge.NewTLSReporter(smtpbridge.TLSReporterConfig{
			Store: st, Client: cc, Log: log,
			Who: smtpbridge.Reporter{Organization: cfg.SMTP.TLSReportsOrganisation, Domain: from.Domain, Contact: from.String()},
			Submit: func(ctx context.Context, m *mail.Message) *mail.Failure {
				return p.gateway.Submit(ctx, m) // which is made later, and before Run
			},
		})
		cc.Reports = p.reporter
	}
	p.client = smtpbridge.NewClient(cc)
	return nil
}

// smtpUsers are the store's users, who own the addresses that they may write
// from.
func smtpUsers(cfg *config.Config, st store.Store) users {
	u := users{store: st}
	if asksDovecot(cfg) {
		u.domain = cfg.DefaultDomain().Name
	}
	return u
}

// buildServers makes a server for each listener.
func (p *parts) buildServers(ctx context.Context, cfg *config.Config, st store.Store, certs *certificates, log *slog.Logger) error {
	knows, err := newAuthenticators(ctx, cfg, st)
	if err != nil {
		return err
	}
	// What the gateway carries over both of its legs; a next hop that cannot
	// keep REQUIRETLS is refused mail that asks for it.
	extensions := smtpbridge.DefaultExtensions()
	extensions.RequireTLS = true
	// One for all listeners: who guesses at one of them guesses at the others,
	// and a user's hour or an address's minute is the same at each.
	shared := smtpbridge.ServerRates{
		Users:     smtpbridge.NewUserRate(cfg.Limits.MessagesPerHour),
		Addresses: smtpbridge.NewAddressRates(cfg.Limits.ConnectionsPerMinute, cfg.Limits.MessagesPerMinute),
	}
	crowd := smtpbridge.NewCrowd()
	tokens, err := newTokenVerifier(cfg)
	if err != nil {
		return err
	}
	guard := smtpbridge.NewAuthGuard(smtpbridge.AuthLimits{PerAddress: cfg.Limits.AuthFailuresByAddress, PerUser: cfg.Limits.AuthFailuresByUser})
	for _, l := range cfg.Listeners {
		if l.Beside() {
			s, err := p.besideServer(cfg, l, log)
			if err != nil {
				return err
			}
			p.smtp = append(p.smtp, s)
			continue
		}
		trusted := prefixes(l.Trusted)
		rates := shared
		rates.Exempt = trusted // a neighbour brings everybody's mail
		_, local := l.UnixSocket()
		sc := smtpbridge.ServerConfig{
			Kind: smtpbridge.Kind(l.Kind), Hostname: cfg.SMTP.Hostname, ImplicitTLS: l.TLS == config.ListenImplicit,
			Extensions: extensions, Limits: serverLimits(cfg), Timeouts: serverTimeouts(cfg), Rates: rates, Crowd: crowd,
			Proxies: prefixes(l.Proxies), XClient: prefixes(l.XClient), XForward: prefixes(l.XForward),
			Guard: guard, RepairLF: l.RepairLF,
			Handler: &gateway.Entrance{Gateway: p.gateway, Trusted: trusted, Local: local, Sign: cfg.DKIM.Signs(l.Kind)}, Log: log,
		}
		if l.TLS != config.ListenPlain {
			sc.TLS = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.forSMTP}
		}
		if l.Kind == config.ListenSubmission {
			sc.Auth, sc.Tokens = knows[l.Auth], tokens
		}
		server, err := smtpbridge.NewServer(sc)
		if err != nil {
			return err
		}
		p.smtp = append(p.smtp, service{server: server})
	}
	return nil
}

// newTokenVerifier makes what judges bearer tokens; nil where none are taken.
func newTokenVerifier(cfg *config.Config) (smtpbridge.TokenVerifier, error) {
	if cfg.OAuth.Keys == "" {
		return nil, nil
	}
	keys, err := cfg.OAuth.PublicKeys()
	if err != nil {
		return nil, err
	}
	return smtpbridge.NewJWTVerifier(smtpbridge.JWTConfig{
		Keys: keys, Issuer: cfg.OAuth.Issuer, Audience: cfg.OAuth.Audience, Claim: cfg.OAuth.Claim,
	})
}

// newAuthenticators makes what knows the users, by the listeners' values of
// auth.
func newAuthenticators(ctx context.Context, cfg *config.Config, st store.Store) (map[string]smtpbridge.Authenticator, error) {
	knows := map[string]smtpbridge.Authenticator{}
	for _, l := range cfg.Listeners {
		if l.Kind != config.ListenSubmission || knows[l.Auth] != nil {
			continue
		}
		if socket, ok := l.DovecotSocket(); ok {
			knows[l.Auth] = &smtpbridge.DovecotAuth{Socket: socket}
			continue
		}
		secret, err := sharedKey(ctx, st, "auth-secret")
		if err != nil {
			return nil, err
		}
		stored, err := smtpbridge.NewStoredAuth(smtpUsers(cfg, st), secret)
		if err != nil {
			return nil, err
		}
		knows[l.Auth] = stored
	}
	return knows, nil
}

func serverLimits(cfg *config.Config) smtpbridge.ServerLimits {
	limits := smtpbridge.DefaultLimits()
	limits.MaxSize, limits.Recipients = int64(cfg.Limits.MaxMessage), cfg.Limits.MaxRecipients
	limits.Connections, limits.PerAddress = cfg.Limits.Connections, cfg.Limits.PerAddress
	limits.Commands, limits.Errors, limits.AuthTries = cfg.Limits.Commands, cfg.Limits.Errors, cfg.Limits.AuthTries
	limits.HeaderLines, limits.HeaderBytes = cfg.Limits.HeaderLines, int(cfg.Limits.HeaderBytes)
	limits.HeaderField, limits.ContentLine = int(cfg.Limits.FieldBytes), int(cfg.Limits.LineBytes)
	return limits
}

func serverTimeouts(cfg *config.Config) smtpbridge.ServerTimeouts {
	l := cfg.Limits
	return smtpbridge.ServerTimeouts{
		Command: l.CommandTimeout.Duration, DataStart: l.DataStartTimeout.Duration, DataBlock: l.DataBlockTimeout.Duration,
		DataTotal: l.DataTimeout.Duration, Auth: l.AuthTimeout.Duration,
	}
}

func prefixes(list []config.Network) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, n := range list {
		out[i] = n.Prefix
	}
	return out
}

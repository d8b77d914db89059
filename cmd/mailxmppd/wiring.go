package main

import (
	"context"
	"crypto/rand"
	"log/slog"
	"time"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/gateway"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

// keepDropped is how long the content of dropped deliveries is kept, so that an
// operator may bring them back.
const keepDropped = 24 * time.Hour

// assemble makes all parts and puts them together.
func assemble(ctx context.Context, cfg *config.Config, st store.Store, log *slog.Logger) (*parts, error) {
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
	var signer gateway.Signer
	if p.signing = newSigning(cfg, st, resolver, log); p.signing != nil {
		if err := p.signing.Refresh(ctx); err != nil {
			return nil, err
		}
		signer = p.signing
	}
	if err := p.newSMTPClient(cfg, st, resolver, roots, log); err != nil {
		return nil, err
	}
	if err := p.newGrants(ctx, cfg, st, log); err != nil {
		return nil, err
	}
	if p.xmpp, err = newXMPP(cfg, st, resolver, roots, certs, p.grants, log); err != nil {
		return nil, err
	}

	domains, err := ownDomains(cfg, p.client)
	if err != nil {
		return nil, err
	}
	legacy, err := legacyHops(cfg, p.client)
	if err != nil {
		return nil, err
	}
	srs, err := newSRS(ctx, cfg, st)
	if err != nil {
		return nil, err
	}
	loopKey, err := sharedKey(ctx, st, "loop")
	if err != nil {
		return nil, err
	}
	p.learner = newLearner(cfg, st, resolver, roots, log)
	if p.trust, err = p.newJudge(ctx, cfg, st, resolver, log); err != nil {
		return nil, err
	}
	aliases, err := ownAliases(cfg)
	if err != nil {
		return nil, err
	}
	var answers gateway.Answers
	if p.grants != nil {
		answers = p.grants
	}
	p.gateway, err = gateway.New(gateway.Config{
		Answers: answers, Aliases: aliases, Voucher: vouching(p.trust),
		RewriteAliases: cfg.SRS.SMTP != config.RewriteNone, RewriteRelayed: cfg.SRS.SMTP == config.RewriteAll,
		Judge: judging(p.trust), Signer: signer, SRS: srs, LoopKey: loopKey, Hops: cfg.Limits.Hops,
		Hostname: cfg.SMTP.Hostname, Domains: domains, Store: st, Legacy: legacy, Hop: namedHop(cfg, p.client), Owners: smtpUsers(cfg, st), Log: log,
		Peers:          peering{p.xmpp.directory, p.xmpp.sender},
		DoubtOtherPath: cfg.XMPP.InDoubt == config.InDoubtOtherPath,
		CutThrough:     cfg.XMPP.CutThrough, CutThroughDeadline: cfg.XMPP.CutThroughDeadline.Duration, CutThroughPerPeer: cfg.XMPP.CutThroughPerPeer,
		Lifetime: cfg.Queue.Lifetime.Duration, DelayNotice: cfg.Queue.DelayNotice.Duration,
		RetryFirst: cfg.Queue.RetryFirst.Duration, RetryMax: cfg.Queue.RetryMax.Duration,
		Concurrency: cfg.Queue.Concurrency, PerDomain: cfg.Queue.PerDomain,
		Retention: store.Retention{Acceptances: cfg.XMPP.Retain.Duration, Transfers: openTransfers, Traces: cfg.Queue.KeepTrace.Duration,
			Dropped: keepDropped, TLSReports: keepTLSReports},
	})
	if err != nil {
		return nil, err
	}
	p.xmpp.receiveFor(cfg, p.gateway, st, log)
	if err := p.buildServers(ctx, cfg, st, certs, log); err != nil {
		return nil, err
	}
	if cfg.Admin.Socket != "" {
		server := admin.New(st, log, p.gateway.QueueChanged)
		server.ShowCounters(func() map[string]any { return p.counters(cfg) })
		operator := operatorOf(p.gateway, st)
		operator.Rekeyed, operator.Granted = p.rekeyed, p.grantsChanged
		server.Allow(operator)
		p.admin = &service{server: server}
	}
	return p, nil
}

// operatorOf is what operators may ask of the gateway beyond what its store can.
func operatorOf(g *gateway.Gateway, st store.Store) admin.Operator {
	o := admin.Operator{Fail: g.Fail}
	if own, ok := st.(*sqlite.Store); ok { // PostgreSQL has tools of its own
		o.Backup = own.Backup
	}
	return o
}

// newSRS makes what rewrites foreign reverse-paths; its key is made once and
// shared by all nodes.
func newSRS(ctx context.Context, cfg *config.Config, keys store.Keys) (*gateway.SRS, error) {
	if !cfg.SRS.Enabled {
		return nil, nil
	}
	key, err := sharedKey(ctx, keys, "srs")
	if err != nil {
		return nil, err
	}
	return gateway.NewSRS([][]byte{key}, cfg.SRS.Domain)
}

// sharedKey is a secret that is made once and shared by all nodes.
func sharedKey(ctx context.Context, keys store.Keys, name string) ([]byte, error) {
	fresh := make([]byte, 32)
	rand.Read(fresh)
	return keys.Key(ctx, name, fresh)
}

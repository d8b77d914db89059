package main

import (
	"context"
	"log/slog"
	"slices"

	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/grants"
)

// newGrants makes what keeps grants; nil where none are kept. It asks the
// gateway and the streams, which are made after it and before anything runs.
func (p *parts) newGrants(ctx context.Context, cfg *config.Config, st store.Store, log *slog.Logger) error {
	if !cfg.Grants.Enabled {
		return nil
	}
	secret, err := sharedKey(ctx, st, "grants")
	if err != nil {
		return err
	}
	c := grants.Config{
		Store: st, Secret: secret, Log: log,
		RequestFor: cfg.Grants.RequestFor.Duration, AutomaticFor: cfg.Grants.WayBackFor.Duration,
		Ours: func(domain string) bool {
			return slices.ContainsFunc(cfg.Domains, func(d config.Domain) bool { return d.Name == domain })
		},
		Exists: func(ctx context.Context, mailbox mail.Address) (bool, error) { return p.gateway.Exists(ctx, mailbox) },
		Tell:   p.tellPeer,
		Heard:  func(mailbox mail.Address) { p.gateway.AskAgain(mailbox) },
	}
	if cfg.Grants.AskByMail {
		c.Notify = func(ctx context.Context, id mail.ID, to mail.Address, content []byte) error {
			return p.gateway.Notify(ctx, id, to, content)
		}
	}
	p.grants = grants.New(c)
	return nil
}

// tellPeer tells a domain of a permission, if it is one that mail goes to over
// XMPP.
func (p *parts) tellPeer(ctx context.Context, local, domain string, say mail.Permission) *mail.Failure {
	switch standing, f := p.xmpp.directory.Standing(ctx, local, domain); standing {
	case mail.Legacy:
		return mail.Fail(mail.NotOffered, "", nil)
	case mail.Unsure:
		return f
	}
	return p.xmpp.sender.Permission(ctx, local, domain, say)
}

// grantsChanged tells the keeper of grants that an operator has changed some.
func (p *parts) grantsChanged() {
	if p.grants != nil {
		p.grants.Changed()
	}
}

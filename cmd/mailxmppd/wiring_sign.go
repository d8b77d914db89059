package main

import (
	"log/slog"

	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/store"
	"mailxmppd/trust/signing"
)

// newSigning makes what signs our mail; nil where nothing is to be signed.
func newSigning(cfg *config.Config, st store.Signing, resolver *dns.Resolver, log *slog.Logger) *signing.Signer {
	if cfg.DKIM.Sign == config.SignNever {
		return nil
	}
	domains := make([]string, len(cfg.Domains))
	for i, d := range cfg.Domains {
		domains[i] = d.Name
	}
	return signing.New(signing.Config{Store: st, DNS: resolver, Domains: domains, Always: cfg.DKIM.Sign == config.SignAlways, Log: log})
}

// rekeyed tells the gateway's signer that the keys are others now.
func (p *parts) rekeyed() {
	if p.signing != nil {
		p.signing.Changed()
	}
}

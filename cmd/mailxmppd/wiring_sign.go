package main

import (
	"log/slog"

	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/gateway"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
	"mailxmppd/trust/arc"
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

// sealing returns what seals forwarded mail; nil where nothing is to be sealed.
func sealing(cfg *config.Config, signer *signing.Signer) func() (arc.Sealer, bool) {
	if signer == nil || !cfg.ARC.Seal {
		return nil
	}
	return func() (arc.Sealer, bool) {
		k, ok := signer.SealingKey(cfg.SRS.Domain)
		return arc.Sealer{Domain: k.Domain, Selector: k.Selector, Key: k.Signer, AuthservID: cfg.SMTP.Hostname}, ok
	}
}

// vouching is a Judge for the gateway as its Voucher: no interface around
// nothing.
func vouching(j *trust.Judge) gateway.Voucher {
	if j == nil {
		return nil
	}
	return j
}

// ownAliases are the aliases of the configuration.
func ownAliases(cfg *config.Config) ([]gateway.Alias, error) {
	out := make([]gateway.Alias, len(cfg.Aliases))
	for i, a := range cfg.Aliases {
		var err error
		if out[i].Address, err = mail.ParseAddress(a.Address); err != nil {
			return nil, err
		}
		for _, s := range a.To {
			to, err := mail.ParseAddress(s)
			if err != nil {
				return nil, err
			}
			out[i].To = append(out[i].To, to)
		}
	}
	return out, nil
}

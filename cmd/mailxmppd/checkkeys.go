package main

import (
	"context"

	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/trust/signing"
)

// signing tells whether what signs our mail can be verified: DNS has to show the
// newest key of each kind. Those before it need not be there any more.
func (n *inspection) signing(ctx context.Context, resolver *dns.Resolver) {
	if n.cfg.DKIM.Sign == config.SignNever || !n.keysKnown {
		return
	}
	newest, domains := map[string]signing.Key{}, map[string]bool{}
	for _, stored := range n.keys { // the oldest first
		k, err := signing.Open(stored)
		if err != nil {
			n.add(levelError, "signing", "key %s of %s: %s", stored.Selector, stored.Domain, err)
			continue
		}
		newest[k.Domain+" "+k.Kind], domains[k.Domain] = k, true
	}
	for _, d := range n.cfg.Domains {
		if !domains[d.Name] {
			n.add(levelOK, "signing", "mail of %s is not signed yet: mailxmppd serve makes its keys", d.Name)
		}
		for _, kind := range signing.Kinds() {
			if k, ok := newest[d.Name+" "+kind]; ok {
				n.signingKey(k, k.Look(ctx, resolver))
			}
		}
	}
}

func (n *inspection) signingKey(k signing.Key, standing signing.Standing) {
	name := k.RecordName()
	switch {
	case standing == signing.Published:
		n.add(levelOK, "signing", "DNS shows the %s key %s", k.Kind, name)
	case standing == signing.Unknown:
		n.add(levelWarning, "signing", "no answer about %s: it cannot be told whether the signatures of %s can be verified", name, k.Domain)
	case k.Forced || n.cfg.DKIM.Sign == config.SignAlways:
		n.add(levelWarning, "signing", "DNS does not show the %s key %s, which signs all the same: nobody can verify that; mailxmppd keys dns prints the record", k.Kind, name)
	default:
		n.add(levelWarning, "signing", "DNS does not show the %s key %s: it does not sign mail of %s until it does; mailxmppd keys dns prints the record", k.Kind, name, k.Domain)
	}
}

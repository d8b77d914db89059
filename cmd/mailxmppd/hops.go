package main

import (
	"context"

	"mailxmppd/config"
	"mailxmppd/gateway"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/transfer"
)

// hop is one next hop of the SMTP client, as the gateway sees it.
type hop struct {
	client *smtpbridge.Client
	hop    smtpbridge.Hop
}

func (h hop) Deliver(ctx context.Context, a mail.Attempt) []mail.Outcome {
	return h.client.Deliver(ctx, h.hop, a)
}

// Destination tells the gateway which domains share a next hop.
func (h hop) Destination(domain string) string { return h.client.Destination(h.hop, domain) }

func (h hop) Verify(ctx context.Context, sender mail.Address, utf8 bool, rcpts []mail.Recipient) ([]*mail.Failure, error) {
	return h.client.Verify(ctx, h.hop, sender, utf8, rcpts)
}

// ownDomains makes the gateway's domains, the default one first.
func ownDomains(cfg *config.Config, client *smtpbridge.Client) ([]gateway.Domain, error) {
	var out []gateway.Domain
	for _, d := range cfg.Domains {
		next, err := smtpbridge.ParseHop(d.Deliver)
		if err != nil {
			return nil, err
		}
		own := gateway.Domain{Name: d.Name, Transport: hop{client, next}, MTA: next.Protocol == smtpbridge.ProtocolSMTP}
		switch d.Verify {
		case config.VerifyNeighbour:
			own.Verifier = hop{client, next}
		case config.VerifyTable:
			mailboxes, err := d.Mailboxes()
			if err != nil {
				return nil, err
			}
			own.Verifier = gateway.NewTable(mailboxes)
		}
		if d.Default {
			out = append([]gateway.Domain{own}, out...)
		} else {
			out = append(out, own)
		}
	}
	return out, nil
}

// legacyHops finds the next hop for a domain that is neither ours nor a peer.
func legacyHops(cfg *config.Config, client *smtpbridge.Client) (func(domain string) gateway.Transport, error) {
	rest := smtpbridge.Hop{Protocol: smtpbridge.ProtocolSMTP, TLS: smtpbridge.TLSMode(cfg.SMTP.TLS)}
	if cfg.SMTP.Legacy == config.LegacyNeighbour {
		var err error
		// Its TLS is taken where offered: the operator named it by its address.
		if rest, err = smtpbridge.ParseHop(cfg.SMTP.Neighbour); err != nil {
			return nil, err
		}
	}
	routes := map[string]hop{config.AnyDomain: {client, rest}}
	for _, r := range cfg.Routes {
		next, err := smtpbridge.ParseHop(r.Next)
		if err != nil {
			return nil, err
		}
		next.TLS, next.User, next.Password = smtpbridge.TLSMode(r.TLS), r.User, string(r.Password)
		routes[r.Domain] = hop{client, next}
	}
	return func(domain string) gateway.Transport {
		if h, ok := routes[domain]; ok {
			return h
		}
		return routes[config.AnyDomain]
	}, nil
}

// namedHop finds the next hop that an operator redirects mail to: that of a
// route with its user and password where one is written so, else one without.
func namedHop(cfg *config.Config, client *smtpbridge.Client) func(next string) (gateway.Transport, error) {
	return func(next string) (gateway.Transport, error) {
		h, err := smtpbridge.ParseHop(next)
		if err != nil {
			return nil, err
		}
		for _, r := range cfg.Routes {
			if r.Next == next {
				h.TLS, h.User, h.Password = smtpbridge.TLSMode(r.TLS), r.User, string(r.Password)
				break
			}
		}
		return hop{client, h}, nil
	}
}

// peering is the XMPP side as the gateway sees it.
type peering struct {
	*peers.Directory
	*transfer.Sender
}

package gateway

import (
	"context"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// way is where a domain's mail goes.
type way string

const (
	toLocal  way = "local" // final delivery here
	toPeer   way = "xmpp"
	toLegacy way = "smtp"
)

// route is a decision for one recipient domain. It holds for one attempt: the
// next one asks again, since domains become peers and cease to be.
type route struct {
	way       way
	transport Transport
	mta       bool // the next hop is an MTA that may bring the mail back
}

// route decides how mail to a domain goes. local is the domain of ours that
// the sender belongs to. A failure means that it cannot be told now.
func (g *Gateway) route(ctx context.Context, local, domain string) (route, *mail.Failure) {
	if d, ours := g.domains[domain]; ours {
		return route{toLocal, d.Transport, d.MTA}, nil
	}
	if mail.IsLiteral(domain) {
		return route{toLegacy, g.Legacy(domain), true}, nil
	}
	switch standing, failure := g.Peers.Standing(ctx, local, domain); standing {
	case mail.Peer:
		return route{toPeer, g.Peers, false}, nil
	case mail.Legacy:
		return route{toLegacy, g.Legacy(domain), true}, nil
	default:
		return route{}, failure
	}
}

// likelyWay is what route will most likely say, without asking anybody: what
// is recorded of an attempt when it begins, so that few need a second write
// once the way is known.
func (g *Gateway) likelyWay(sender mail.Address, o mail.Origin, domain string) store.Way {
	if _, ours := g.domains[domain]; ours {
		return store.WayLocal
	}
	if local, _, _ := g.speaker(sender, o); !mail.IsLiteral(domain) && g.Peers.Live(local, domain) {
		return store.WayXMPP
	}
	return store.WaySMTP
}

// speaker is the domain of ours that a message is sent for (xep-draft section
// 6), and the reverse-path under which it goes to a peer: the reverse-path's
// domain if it is ours; for a null one the domain that was found when the
// message came in; for a foreign one that of SRS, which rewrites it, since no
// stream of ours may speak for it. ok is false where that cannot be; local is
// then the default domain, which asks for the way all the same.
func (g *Gateway) speaker(sender mail.Address, o mail.Origin) (local string, as mail.Address, ok bool) {
	if sender.IsNull() {
		if _, ours := g.domains[o.Local]; ours {
			return o.Local, sender, true
		}
		return g.fallbackDomain(), sender, true
	}
	if _, ours := g.domains[sender.Domain]; ours {
		return sender.Domain, sender, true
	}
	if g.SRS != nil {
		if as, err := g.SRS.Forward(sender); err == nil {
			return as.Domain, as, true
		}
	}
	return g.fallbackDomain(), sender, false
}

// errForeignSender answers mail to a peer whose sender no stream of ours may
// speak for.
func errForeignSender(sender mail.Address, domain string) *mail.Failure {
	return mail.Failf(mail.NotPermitted, "%s takes mail over XMPP, where %s is not ours to speak for", domain, sender.Domain)
}

package main

import (
	"context"
	"errors"
	"net"
	"syscall"

	"mailxmppd/dns"
)

// listeners tells which addresses could be listened on now.
func (n *inspection) listeners(ctx context.Context) {
	for _, l := range n.cfg.Listeners {
		if _, local := l.UnixSocket(); !local { // whether its directory is there, serve finds out
			n.bindable(ctx, l.Kind, l.Address)
		}
	}
	for _, address := range n.cfg.XMPP.Listen {
		n.bindable(ctx, "xmpp", address)
	}
}

func (n *inspection) bindable(ctx context.Context, kind, address string) {
	var config net.ListenConfig
	ln, err := config.Listen(ctx, "tcp", address)
	switch {
	case err == nil:
		ln.Close()
		n.add(levelOK, "listener", "%s %s can be had", kind, address)
	case n.running != nil && errors.Is(err, syscall.EADDRINUSE):
		n.add(levelOK, "listener", "%s %s is in use while the gateway runs", kind, address)
	default:
		n.add(levelError, "listener", "%s %s: %s", kind, address, reason(err))
	}
}

// reason leaves out what the line says already.
func reason(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// dns asks what peers ask about our domains: whether the servers answer, and
// whether we can be found.
func (n *inspection) dns(ctx context.Context) {
	resolver, err := dns.New(n.cfg.DNS.Servers, n.cfg.DNS.Timeout.Duration)
	if err != nil {
		n.add(levelError, "dns", "%s", err)
		return
	}
	n.signing(ctx, resolver)
	for _, d := range n.cfg.Domains {
		name := "_xmpps-mail._tcp." + d.XMPPName()
		answer := resolver.SRV(ctx, name)
		switch {
		case answer.Status == dns.Failed:
			n.add(levelError, "dns", "no answer about %s: %v", name, answer.Err)
		case answer.Status == dns.Found && answer.Records[0].Target == ".":
			n.add(levelWarning, "dns", "%s says that the domain takes no mail over XMPP", name)
		case answer.Status == dns.Found:
			n.add(levelOK, "dns", "peers find %s at %s port %d", d.Name, answer.Records[0].Target, answer.Records[0].Port)
		default:
			n.add(levelWarning, "dns", "no SRV record %s: only peers that have the address configured reach %s", name, d.Name)
		}
	}
}

package peers

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

// Bounds on what DNS can make us dial.
const (
	maxTargets   = 16
	maxAddresses = 4 // of one host, so that it cannot crowd out the others
)

// reach is how a domain's streams are reached: where, and what the answer of
// whoever is there counts for.
type reach struct {
	service  service
	mailGone bool // as in place
	mailDark bool
	targets  []stream.Target
}

// holds reports whether a link leads to one of the targets.
func (r reach) holds(l Link) bool {
	addr := l.Binding().Addr
	return !l.Inbound() && slices.ContainsFunc(r.targets, func(t stream.Target) bool { return t.Addr == addr })
}

// ours reports whether what is asked over a link goes to the domain itself, and
// not to whoever has opened a stream in its name: it is one of ours to a
// target, or of the server that a component trusts with finding the domain
// (xep-draft section 6.4).
func (r reach) ours(l Link) bool { return r.holds(l) || l.Binding().Proof == "component" }

// host is a name and port to resolve.
type host struct {
	name     string
	port     uint16
	startTLS bool
}

// reach lists where a domain's streams are accepted, the first to be tried
// first. The failure is temporary: whoever asks has reason to believe that
// there is something.
func (d *Directory) reach(ctx context.Context, domain string) (reach, *mail.Failure) {
	var hosts []host
	var at place
	var cause error
	if c := d.configured[domain]; len(c.Addrs) > 0 {
		at.service = atConfigured
		hosts, cause = configuredHosts(c.Addrs)
	} else {
		at = d.lookup(ctx, domain)
		if len(at.records) == 0 {
			return reach{}, nowhere(domain, at.why, nil)
		}
		for _, r := range at.records {
			hosts = append(hosts, host{r.Target, r.Port, r.startTLS})
		}
	}
	targets, err := d.resolve(ctx, hosts)
	if len(targets) == 0 {
		if cause == nil {
			cause = err
		}
		return reach{}, nowhere(domain, "its hosts have no address that can be found", cause)
	}
	return reach{at.service, at.mailGone, at.mailDark, targets}, nil
}

func nowhere(domain, why string, cause error) *mail.Failure {
	f := mail.Fail(mail.Unreachable, "peer domain cannot be reached over XMPP: "+why, cause).WithStatus("4.4.3")
	f.Remote = domain
	return f
}

func configuredHosts(addrs []string) (out []host, err error) {
	for _, a := range addrs {
		name, port, bad := net.SplitHostPort(a)
		n, badPort := strconv.ParseUint(port, 10, 16)
		if bad != nil || badPort != nil {
			err = errors.Join(bad, badPort)
			continue
		}
		out = append(out, host{name, uint16(n), false})
	}
	return out, err
}

// resolve finds the addresses of hosts, all at once, and keeps their order.
func (d *Directory) resolve(ctx context.Context, hosts []host) ([]stream.Target, error) {
	found := make([][]netip.Addr, len(hosts))
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		if a, err := netip.ParseAddr(h.name); err == nil {
			found[i] = []netip.Addr{a}
			continue
		}
		wg.Go(func() {
			ans := d.cfg.DNS.Addrs(ctx, h.name)
			found[i], errs[i] = ans.Records, ans.Err
		})
	}
	wg.Wait()
	var out []stream.Target
	var err error
	for i, h := range hosts {
		if errs[i] != nil {
			err = errs[i]
		}
		for _, a := range found[i][:min(len(found[i]), maxAddresses)] {
			if len(out) < maxTargets {
				addr := netip.AddrPortFrom(a.Unmap(), h.port).String()
				out = append(out, stream.Target{Host: h.name, Port: h.port, Addr: addr, StartTLS: h.startTLS})
			}
		}
	}
	return out, err
}

// ServerTargets finds where a domain's chat server is dialled, to which its
// ordinary requests are answered. It fits stream.Config.Targets.
func (d *Directory) ServerTargets(ctx context.Context, _, remote string) ([]stream.Target, error) {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	direct, start := d.cfg.DNS.SRV(ctx, serverService+remote), d.cfg.DNS.SRV(ctx, startTLSService+remote)
	var hosts []host
	for _, r := range inOrder(append(services(direct, false), services(start, true)...), rand.IntN) {
		hosts = append(hosts, host{r.Target, r.Port, r.startTLS})
	}
	targets, err := d.resolve(ctx, hosts)
	if len(targets) == 0 {
		return nil, nowhere(remote, "its chat server cannot be found", err)
	}
	return targets, nil
}

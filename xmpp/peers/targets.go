package peers

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

// The SRV names (xep-draft section 4.1), in their order.
const (
	mailService   = "_xmpps-mail._tcp."
	serverService = "_xmpps-server._tcp."
)

// Bounds on what DNS can make us dial.
const (
	maxSRV     = 8
	maxTargets = 16
)

// targets lists where a domain's streams are accepted, the first to be tried
// first. The failure is temporary: whoever asks for targets has reason to
// believe that there are some.
func (d *Directory) targets(ctx context.Context, domain string) ([]stream.Target, *mail.Failure) {
	var hosts []string // "host:port"
	cause := error(nil)
	if c := d.configured[domain]; len(c.Addrs) > 0 {
		hosts = c.Addrs
	} else {
		for _, service := range []string{mailService, serverService} {
			ans := d.cfg.DNS.SRV(ctx, service+domain)
			if ans.Status == dns.Failed {
				cause = ans.Err
			}
			if ans.Status == dns.Found && !declines(ans.Records) {
				hosts = srvHosts(ans.Records)
				break
			}
		}
	}
	var out []stream.Target
	for _, h := range hosts {
		found, err := d.resolve(ctx, h)
		if err != nil {
			cause = err
		}
		out = append(out, found...)
	}
	if len(out) == 0 {
		f := mail.Fail(mail.Unreachable, "no address of the peer domain's streams found", cause).WithStatus("4.4.3")
		f.Remote = domain
		return nil, f
	}
	return out[:min(len(out), maxTargets)], nil
}

// resolve finds the addresses of "host:port".
func (d *Directory) resolve(ctx context.Context, hostport string) ([]stream.Target, error) {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []stream.Target{{Host: host, Addr: hostport}}, nil
	}
	ans := d.cfg.DNS.Addrs(ctx, host)
	var out []stream.Target
	for _, a := range ans.Records {
		out = append(out, stream.Target{Host: host, Addr: net.JoinHostPort(a.String(), port)})
	}
	return out, ans.Err
}

// declines reports whether the records say that the service is not there: RFC
// 2782, a single record with the target ".".
func declines(records []dns.SRV) bool {
	return !slices.ContainsFunc(records, func(r dns.SRV) bool { return r.Target != "." && r.Target != "" })
}

func srvHosts(records []dns.SRV) []string {
	var out []string
	for _, r := range order(records, rand.IntN) {
		if r.Target != "." && r.Target != "" && len(out) < maxSRV {
			out = append(out, net.JoinHostPort(r.Target, strconv.Itoa(int(r.Port))))
		}
	}
	return out
}

// order sorts as RFC 2782 says: by priority, and among equals drawn one by one
// with the weights as their chances, those with weight 0 having little.
func order(records []dns.SRV, intN func(int) int) []dns.SRV {
	rest := slices.Clone(records)
	slices.SortStableFunc(rest, func(a, b dns.SRV) int {
		if a.Priority != b.Priority {
			return int(a.Priority) - int(b.Priority)
		}
		return min(int(a.Weight), 1) - min(int(b.Weight), 1) // weight 0 first
	})
	var out []dns.SRV
	for len(rest) > 0 {
		n, sum := 0, 0
		for n < len(rest) && rest[n].Priority == rest[0].Priority {
			sum += int(rest[n].Weight)
			n++
		}
		draw, i := intN(sum+1), 0
		for running := int(rest[0].Weight); running < draw; running += int(rest[i].Weight) {
			i++
		}
		out = append(out, rest[i])
		rest = slices.Delete(rest, i, i+1)
	}
	return out
}

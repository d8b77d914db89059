package smtpbridge

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

const (
	// maxHosts and maxPlaces bound what one attempt tries.
	maxHosts  = 5
	maxPlaces = 10
)

// place is one address to connect to.
type place struct {
	network string // "tcp" or "unix"
	addr    string // as net.Dial wants it
	host    string // the name by which it was found; shown, and verified in TLS
	trusted bool   // the name did not come from unsigned DNS
}

// tlsName is the name that the certificate of this place must show.
func (p place) tlsName(h Hop) string {
	if h.ServerName != "" {
		return h.ServerName
	}
	return p.host
}

// route yields the places of a hop in the order in which to try them, looked
// up as they are needed, with a failure in place of each that could not be.
// It yields at least once.
func (c *Client) route(ctx context.Context, h Hop, domain string) iter.Seq2[place, *mail.Failure] {
	return func(yield func(place, *mail.Failure) bool) {
		if len(h.Addrs) > 0 {
			c.fixedPlaces(ctx, h.Addrs, yield)
			return
		}
		hosts, f := c.exchangers(ctx, domain)
		if f != nil {
			yield(place{}, f)
			return
		}
		left := maxPlaces
		for _, host := range hosts[:min(len(hosts), maxHosts)] {
			addrs, f := c.hostAddrs(ctx, host.name)
			if f != nil && !yield(place{}, f) {
				return
			}
			for _, ip := range addrs[:min(len(addrs), left)] {
				left--
				addr := net.JoinHostPort(ip.String(), strconv.Itoa(c.cfg.MXPort))
				if !yield(place{network: "tcp", addr: addr, host: host.name, trusted: host.secure}, nil) {
					return
				}
			}
		}
	}
}

// fixedPlaces resolves the operator's own names by the configured DNS, and
// leaves to the system what that does not know: it may be in the hosts file
// alone, as "localhost" is.
func (c *Client) fixedPlaces(ctx context.Context, addrs []string, yield func(place, *mail.Failure) bool) {
	for _, addr := range addrs {
		if path, ok := strings.CutPrefix(addr, unixPrefix); ok {
			if !yield(place{network: "unix", addr: path, host: path, trusted: true}, nil) {
				return
			}
			continue
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			if !yield(place{}, mail.Fail(mail.Internal, "", fmt.Errorf("hop address %q: %w", addr, err))) {
				return
			}
			continue
		}
		for _, numeric := range c.fixedAddrs(ctx, host) {
			if !yield(place{network: "tcp", addr: net.JoinHostPort(numeric, port), host: host, trusted: true}, nil) {
				return
			}
		}
	}
}

func (c *Client) fixedAddrs(ctx context.Context, host string) []string {
	if _, err := netip.ParseAddr(host); err == nil || c.cfg.DNS == nil || !strings.Contains(host, ".") {
		return []string{host}
	}
	ans := c.cfg.DNS.Addrs(ctx, host)
	if ans.Status != dns.Found {
		return []string{host}
	}
	var out []string
	for _, ip := range ans.Records[:min(len(ans.Records), maxPlaces)] {
		out = append(out, ip.String())
	}
	return out
}

// exchanger is a host that takes a domain's mail.
type exchanger struct {
	name   string
	secure bool // found by signed DNS
}

// exchangers applies RFC 5321 section 5.1: which hosts to try, in which order.
func (c *Client) exchangers(ctx context.Context, domain string) ([]exchanger, *mail.Failure) {
	switch {
	case mail.IsLiteral(domain) || domain == "":
		return nil, mail.Fail(mail.NoSuchDomain, "mail to address literals is not sent", nil)
	case c.cfg.DNS == nil:
		return nil, mail.Fail(mail.Internal, "", fmt.Errorf("no resolver to find the mail exchangers of %s", domain))
	}
	ans := c.cfg.DNS.MX(ctx, domain)
	records := ans.Records
	switch ans.Status {
	case dns.Found:
	case dns.NoData: // section 5.1: the domain itself, as if it had one MX record
		records = []dns.MX{{Host: domain}}
	case dns.NoDomain:
		return nil, mail.Fail(mail.NoSuchDomain, "domain "+domain+" does not exist", ans.Err)
	default:
		return nil, lookupFailed("mail exchangers of "+domain, ans.Err)
	}
	if len(records) == 1 && records[0].Host == "." { // RFC 7505 section 4.1
		f := mail.Fail(mail.NoSuchDomain, "domain "+domain+" takes no mail", nil)
		f.Code = 556
		return nil, f.WithStatus("5.1.10")
	}
	records = c.orderExchangers(records)
	if len(records) == 0 {
		return nil, mail.Fail(mail.Loop, "mail for "+domain+" would loop back to this host", nil)
	}
	out := make([]exchanger, 0, len(records))
	for _, r := range records {
		out = append(out, exchanger{name: r.Host, secure: ans.Secure})
	}
	return out, nil
}

// orderExchangers sorts by preference, equals at random to spread the load,
// and cuts the list where this host stands: those at our preference or less
// preferred would hand the mail to us (RFC 5321 section 5.1).
func (c *Client) orderExchangers(in []dns.MX) []dns.MX {
	records := slices.DeleteFunc(slices.Clone(in), func(r dns.MX) bool { return r.Host == "." })
	rand.Shuffle(len(records), func(i, j int) { records[i], records[j] = records[j], records[i] })
	slices.SortStableFunc(records, func(a, b dns.MX) int { return cmp.Compare(a.Preference, b.Preference) })
	own := slices.IndexFunc(records, func(r dns.MX) bool { return c.ownNames[strings.ToLower(r.Host)] })
	if own < 0 {
		return records
	}
	limit := records[own].Preference
	return slices.DeleteFunc(records, func(r dns.MX) bool { return r.Preference >= limit })
}

func (c *Client) hostAddrs(ctx context.Context, host string) ([]netip.Addr, *mail.Failure) {
	ans := c.cfg.DNS.Addrs(ctx, host)
	switch ans.Status {
	case dns.Found:
		return ans.Records, nil
	case dns.Failed:
		return nil, lookupFailed("addresses of "+host, ans.Err)
	}
	return nil, mail.Fail(mail.NoSuchDomain, "mail exchanger "+host+" has no address", ans.Err).WithStatus("5.4.4")
}

// lookupFailed is the temporary failure of the DNS itself (RFC 3463 X.4.3).
func lookupFailed(what string, cause error) *mail.Failure {
	return mail.Fail(mail.Unreachable, "DNS does not tell the "+what+" now", cause).WithStatus("4.4.3")
}

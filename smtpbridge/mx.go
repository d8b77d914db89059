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
	domain  string // by MX: the recipients' domain, whose policy applies
	policy  tlsPolicy
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
func (c *Client) route(ctx context.Context, e errand) iter.Seq2[place, *mail.Failure] {
	return func(yield func(place, *mail.Failure) bool) {
		switch {
		case len(e.hop.Addrs) > 0:
			c.fixedPlaces(ctx, e.hop.Addrs, yield)
		case mail.IsLiteral(e.domain):
			yield(c.literalPlace(e.domain))
		default:
			c.exchangerPlaces(ctx, e, yield)
		}
	}
}

// exchangerPlaces finds the places by MX (RFC 5321 section 5.1).
func (c *Client) exchangerPlaces(ctx context.Context, e errand, yield func(place, *mail.Failure) bool) {
	hosts, f := c.exchangers(ctx, e.domain)
	c.sets.note(e.domain, hosts)
	var policy domainPolicy
	if f == nil {
		policy, f = c.policyOfDomain(ctx, e)
	}
	if f != nil {
		yield(place{}, f)
		return
	}
	left := maxPlaces
	for _, host := range hosts[:min(len(hosts), maxHosts)] {
		addrs, f := c.hostAddrs(ctx, host.name)
		if f == nil && c.isOurs(addrs.Records) {
			// Hosts no more preferred than we are would hand the mail to us.
			yield(place{}, loopFailure(e.domain))
			return
		}
		p := place{network: "tcp", host: host.name, trusted: host.secure, domain: e.domain}
		if f == nil {
			p.policy, f = c.policyOfHost(ctx, e, policy, host, addrs)
		}
		if f != nil {
			if !yield(place{}, f) {
				return
			}
			continue
		}
		for _, ip := range addrs.Records[:min(len(addrs.Records), left)] {
			left--
			p.addr = net.JoinHostPort(ip.String(), strconv.Itoa(c.cfg.MXPort))
			if !yield(p, nil) {
				return
			}
		}
	}
}

// literalPlace is where mail to an address literal goes (RFC 5321 section
// 2.3.5), by setting: never to an address that can only be this machine or its
// link, which nobody outside can mean.
func (c *Client) literalPlace(domain string) (place, *mail.Failure) {
	if !c.cfg.Literals {
		return place{}, mail.Fail(mail.NoSuchDomain, "mail to address literals is not sent", nil)
	}
	ip, err := netip.ParseAddr(strings.TrimPrefix(strings.Trim(domain, "[]"), "IPv6:"))
	switch {
	case err != nil || !ip.IsGlobalUnicast():
		return place{}, mail.Fail(mail.NoSuchDomain, "mail to "+domain+" is not sent", err)
	case c.isOurs([]netip.Addr{ip}):
		return place{}, loopFailure(domain)
	}
	return place{network: "tcp", addr: net.JoinHostPort(ip.String(), strconv.Itoa(c.cfg.MXPort)), host: ip.String()}, nil
}

func (c *Client) isOurs(addrs []netip.Addr) bool {
	return slices.ContainsFunc(addrs, func(ip netip.Addr) bool { return c.ownAddrs[ip.Unmap()] })
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
		numerics := c.fixedAddrs(ctx, host)
		if len(numerics) == 0 {
			f := mail.Fail(mail.Unreachable, "next hop "+host+" has no address of the wanted family", nil).WithStatus("4.4.4")
			if !yield(place{}, f) {
				return
			}
		}
		for _, numeric := range numerics {
			if !yield(place{network: "tcp", addr: net.JoinHostPort(numeric, port), host: host, trusted: true}, nil) {
				return
			}
		}
	}
}

// fixedAddrs returns what to dial, nothing where a host has no address of the
// families wanted.
func (c *Client) fixedAddrs(ctx context.Context, host string) []string {
	if _, err := netip.ParseAddr(host); err == nil || c.cfg.DNS == nil || !strings.Contains(host, ".") {
		return []string{host}
	}
	ans := c.cfg.DNS.Addrs(ctx, host)
	if ans.Status != dns.Found {
		return []string{host}
	}
	var out []string
	addrs := c.cfg.Family.order(ans.Records)
	for _, ip := range addrs[:min(len(addrs), maxPlaces)] {
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
	case domain == "":
		return nil, mail.Fail(mail.NoSuchDomain, "no domain to find the mail exchangers of", nil)
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
		return nil, loopFailure(domain)
	}
	out := make([]exchanger, 0, len(records))
	for _, r := range records {
		out = append(out, exchanger{name: r.Host, secure: ans.Secure && c.cfg.Validating})
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

// hostAddrs looks up a host's addresses, those of the families wanted.
func (c *Client) hostAddrs(ctx context.Context, host string) (dns.Answer[netip.Addr], *mail.Failure) {
	ans := c.cfg.DNS.Addrs(ctx, host)
	if ans.Status == dns.Failed {
		return ans, lookupFailed("addresses of "+host, ans.Err)
	}
	if ans.Records = c.cfg.Family.order(ans.Records); len(ans.Records) == 0 {
		return ans, mail.Fail(mail.NoSuchDomain, "mail exchanger "+host+" has no address", ans.Err).WithStatus("5.4.4")
	}
	return ans, nil
}

// order leaves out the family that is not wanted, and lets the families take
// turns, so that a family that does not work here costs one wait before the
// other is tried.
func (f Family) order(in []netip.Addr) []netip.Addr {
	var v4, v6 []netip.Addr
	for _, ip := range in {
		if ip.Unmap().Is4() {
			v4 = append(v4, ip)
		} else {
			v6 = append(v6, ip)
		}
	}
	first, second := v6, v4
	switch f {
	case FamilyIPv4First:
		first, second = v4, v6
	case FamilyIPv4:
		first, second = v4, nil
	case FamilyIPv6:
		second = nil
	}
	var out []netip.Addr
	for i := range max(len(first), len(second)) {
		out = append(out, first[min(i, len(first)):min(i+1, len(first))]...)
		out = append(out, second[min(i, len(second)):min(i+1, len(second))]...)
	}
	return out
}

// lookupFailed is the temporary failure of the DNS itself (RFC 3463 X.4.3).
func lookupFailed(what string, cause error) *mail.Failure {
	return mail.Fail(mail.Unreachable, "DNS does not tell the "+what+" now", cause).WithStatus("4.4.3")
}

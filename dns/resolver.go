// Package dns asks the configured DNS servers, and tells apart what mail
// routing has to tell apart: that something is there, that the name has no
// such record, that the name does not exist, and that nobody knows now.
//
// Invariants: only an answer that carries the query's id and question, from
// the server asked, is looked at; a truncated answer is asked for again over
// TCP and never used; names come back lower-case, without trailing dot, with
// host name characters only ("." is the root, which null MX and "no service"
// SRV records use); an answer holds at most 64 records.
//
// Failure semantics: lookups return no error but a Status. Failed means try
// again later; NoData and NoDomain are definite. Secure repeats the AD bit
// and is worth what the path to the server is worth: only where the operator
// runs a validating resolver on the same machine does it prove anything (RFC
// 6840 section 5.7).
package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	mdns "github.com/miekg/dns"
)

// Status says how a lookup ended.
type Status int

// The ends of a lookup. The zero value is Failed, so that an answer nobody
// filled in is never taken for a definite one.
const (
	Failed   Status = iota // SERVFAIL, REFUSED, time-out, malformed: nothing is known
	Found                  // at least one record
	NoData                 // the name exists, without a record of this type
	NoDomain               // NXDOMAIN, or a name that DNS cannot hold
)

// String names the status as logs do.
func (s Status) String() string {
	switch s {
	case Found:
		return "found"
	case NoData:
		return "no data"
	case NoDomain:
		return "no such domain"
	}
	return "failed"
}

// Answer is the outcome of one lookup. Records is empty unless Status is
// Found. Err tells why, for the log, and may be nil unless Status is Failed.
type Answer[T any] struct {
	Records []T
	Status  Status
	Secure  bool   // the server set the AD bit: every step from the name asked to the records is signed
	Name    string // where the chain of aliases ends, the name asked if there is none; "" unless known
	Err     error
}

// MX is a mail exchanger (RFC 5321 section 5.1); Host "." is a null MX (RFC
// 7505).
type MX struct {
	Preference uint16
	Host       string
}

// SRV is a service's place (RFC 2782); Target "." means that the service is
// decidedly not available.
type SRV struct {
	Priority uint16
	Weight   uint16
	Port     uint16
	Target   string
}

// defaultTimeout bounds one try at one server.
const defaultTimeout = 3 * time.Second

// Resolver asks DNS servers and remembers answers for at most five minutes.
// It is safe for concurrent use and holds no resource that needs closing.
type Resolver struct {
	servers []string
	timeout time.Duration
	cache   *cache
}

// New makes a Resolver for servers, IP addresses with or without a port (53),
// which are asked in this order; with none given, those of /etc/resolv.conf.
// timeout bounds each try at one server; 0 stands for 3 seconds.
func New(servers []string, timeout time.Duration) (*Resolver, error) {
	if len(servers) == 0 {
		conf, err := mdns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil {
			return nil, fmt.Errorf("dns servers of the system: %w", err)
		}
		servers = conf.Servers
	}
	if len(servers) == 0 {
		return nil, errors.New("no dns servers: none configured and none in /etc/resolv.conf")
	}
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	r := &Resolver{timeout: timeout, cache: newCache(maxCached)}
	for _, s := range servers {
		addr, err := serverAddr(s)
		if err != nil {
			return nil, err
		}
		r.servers = append(r.servers, addr)
	}
	return r, nil
}

// serverAddr takes no host names: there is nobody yet to resolve them.
func serverAddr(s string) (string, error) {
	if ap, err := netip.ParseAddrPort(s); err == nil && ap.Port() != 0 {
		return ap.String(), nil
	}
	if ip, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(ip, 53).String(), nil
	}
	return "", fmt.Errorf("dns server %q: want an IP address, with or without a port", s)
}

// MX looks up the mail exchangers of a domain, in no particular order.
func (r *Resolver) MX(ctx context.Context, domain string) Answer[MX] {
	return lookup(ctx, r, domain, mdns.TypeMX, func(rr mdns.RR) (MX, bool) {
		mx, ok := rr.(*mdns.MX)
		if !ok {
			return MX{}, false
		}
		host, ok := hostName(mx.Mx)
		return MX{Preference: mx.Preference, Host: host}, ok
	})
}

// SRV looks up service records of a full owner name such as
// "_xmpps-mail._tcp.capulet.example", in no particular order.
func (r *Resolver) SRV(ctx context.Context, name string) Answer[SRV] {
	return lookup(ctx, r, name, mdns.TypeSRV, func(rr mdns.RR) (SRV, bool) {
		srv, ok := rr.(*mdns.SRV)
		if !ok {
			return SRV{}, false
		}
		target, ok := hostName(srv.Target)
		return SRV{Priority: srv.Priority, Weight: srv.Weight, Port: srv.Port, Target: target}, ok
	})
}

// TXT looks up texts, the strings of each record joined without a space, as
// SPF and DKIM want them (RFC 7208 section 3.3, RFC 6376 section 3.6.2.2).
// Octets outside printable ASCII come as themselves.
func (r *Resolver) TXT(ctx context.Context, name string) Answer[string] {
	return lookup(ctx, r, name, mdns.TypeTXT, func(rr mdns.RR) (string, bool) {
		txt, ok := rr.(*mdns.TXT)
		if !ok {
			return "", false
		}
		return unescape(strings.Join(txt.Txt, "")), true
	})
}

// CNAME looks up where a name is an alias to, without following it. RFC 7672
// section 2.2.2 wants it to tell a signed alias into an unsigned zone from an
// unsigned name.
func (r *Resolver) CNAME(ctx context.Context, name string) Answer[string] {
	return lookup(ctx, r, name, mdns.TypeCNAME, func(rr mdns.RR) (string, bool) {
		c, ok := rr.(*mdns.CNAME)
		if !ok {
			return "", false
		}
		return hostName(c.Target)
	})
}

// Addrs looks up the A and AAAA records of a host, both at the same time,
// IPv6 and IPv4 taking turns in the answer. One family's answer is enough;
// absence is definite only when both say so. It is secure where every answer
// that was had is: a family that failed adds nothing to the records, and to
// suppress it must not turn a signed host into an unsigned one (RFC 7672
// section 2.1.1).
func (r *Resolver) Addrs(ctx context.Context, host string) Answer[netip.Addr] {
	other := make(chan Answer[netip.Addr], 1)
	go func() { other <- r.family(ctx, host, mdns.TypeA) }()
	v6 := r.family(ctx, host, mdns.TypeAAAA)
	v4 := <-other

	out := Answer[netip.Addr]{Status: Found, Err: errors.Join(v6.Err, v4.Err)}
	out.Secure = (v4.Secure || v4.Status == Failed) && (v6.Secure || v6.Status == Failed) && (v4.Secure || v6.Secure)
	if out.Name = v4.Name; len(v4.Records) == 0 && v6.Name != "" {
		out.Name = v6.Name
	}
	for i := range max(len(v6.Records), len(v4.Records)) {
		if i < len(v6.Records) {
			out.Records = append(out.Records, v6.Records[i])
		}
		if i < len(v4.Records) {
			out.Records = append(out.Records, v4.Records[i])
		}
	}
	switch {
	case len(out.Records) > 0:
	case v4.Status == Failed || v6.Status == Failed:
		out.Status = Failed
	case v4.Status == NoDomain && v6.Status == NoDomain:
		out.Status = NoDomain
	default:
		out.Status = NoData
	}
	return out
}

// Family looks up the addresses of a host in one family, as SPF wants them
// (RFC 7208 section 5): that of the client, whatever the other one says.
func (r *Resolver) Family(ctx context.Context, host string, v6 bool) Answer[netip.Addr] {
	if v6 {
		return r.family(ctx, host, mdns.TypeAAAA)
	}
	return r.family(ctx, host, mdns.TypeA)
}

// PTR looks up the names that the owner of an address gives it (RFC 1035
// section 3.5). They prove nothing unless they lead back to the address.
func (r *Resolver) PTR(ctx context.Context, addr netip.Addr) Answer[string] {
	name, err := mdns.ReverseAddr(addr.Unmap().WithZone("").String())
	if err != nil {
		return Answer[string]{Status: NoDomain, Err: fmt.Errorf("dns: no address to look up: %w", err)}
	}
	return lookup(ctx, r, name, mdns.TypePTR, func(rr mdns.RR) (string, bool) {
		p, ok := rr.(*mdns.PTR)
		if !ok {
			return "", false
		}
		return hostName(p.Ptr)
	})
}

func (r *Resolver) family(ctx context.Context, host string, qtype uint16) Answer[netip.Addr] {
	return lookup(ctx, r, host, qtype, func(rr mdns.RR) (ip netip.Addr, ok bool) {
		switch rr := rr.(type) {
		case *mdns.A:
			ip, ok = netip.AddrFromSlice(rr.A)
		case *mdns.AAAA:
			ip, ok = netip.AddrFromSlice(rr.AAAA)
		}
		return ip.Unmap(), ok
	})
}

// lookup asks for one type and reads the records. A record that cannot be
// read is left out; if none can be, nothing is known.
func lookup[T any](ctx context.Context, r *Resolver, name string, qtype uint16, read func(mdns.RR) (T, bool)) Answer[T] {
	res := r.resolve(ctx, name, qtype)
	out := Answer[T]{Status: res.status, Secure: res.secure, Err: res.err}
	if name, ok := hostName(res.owner); ok {
		out.Name = name
	}
	for _, rr := range res.records {
		if rec, ok := read(rr); ok {
			out.Records = append(out.Records, rec)
		}
	}
	if out.Status == Found && len(out.Records) == 0 {
		out.Status, out.Err = Failed, fmt.Errorf("dns %s %s: no usable record in the answer", name, mdns.TypeToString[qtype])
	}
	return out
}

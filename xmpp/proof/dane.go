package proof

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"mailxmppd/dns"
	"mailxmppd/xmpp/stream"
)

// maxPlaces bounds the hosts of one domain whose TLSA records are looked up.
const maxPlaces = 8

// services are those by which a domain's streams are found (xep-draft section
// 4.1): a host that serves one of them is trusted by the domain to speak for
// it.
var services = [...]string{"_xmpps-mail._tcp.", "_xmpps-server._tcp.", "_xmpp-server._tcp."}

// place is where a domain's streams are accepted, as DNS or the operator names
// it.
type place struct {
	host string
	port uint16
}

func (p place) tlsaName() string { return "_" + strconv.Itoa(int(p.port)) + "._tcp." + p.host }

// published is what DNS says at one place, or at an SRV name that leads to
// none.
type published struct {
	place          // zero where it is about an SRV name
	name    string // looked up
	records []dns.TLSA
	err     error
	binding bool    // signed records that can be used are there, or may be and are kept from us
	plain   []place // that an unsigned SRV answer names: they have no records that count
}

// byDANE tells the name of the TLSA record that proves the certificate, or ""
// and adds why there is none. binding says that the place which was dialled has
// signed records that the certificate had to match: then no other proof counts
// (RFC 7673 section 4.2). A look-up that fails counts as such a record, or
// whoever can break it would take DANE away (RFC 7673 section 3.3); so does one
// of SRV records, while no answer tells how the place came to be dialled. Who
// connects is not bound: the records are those of servers, and a domain's
// outgoing streams may come from elsewhere.
func (p *Prover) byDANE(ctx context.Context, e stream.Evidence, no *Unproven) (where string, binding bool) {
	all, err := p.places.do(ctx, e.Remote, func(ctx context.Context) []published { return p.lookUp(ctx, e.Remote) })
	if err != nil {
		no.because(proofDANE, "", err)
		return "", mayHaveTLSA(e.Dialled)
	}
	// RFC 7712 section 5.1: whoever connects is proven by the records of the
	// places at which its domain accepts streams. Where we dialled, only the
	// place dialled counts (RFC 7673 section 3.3).
	named := false // how the place came to be dialled is known
	if d := e.Dialled; d != nil {
		at := place{hostName(d.Host), d.Port}
		all = slices.DeleteFunc(slices.Clone(all), func(f published) bool { return f.host != "" && f.place != at })
		named = slices.ContainsFunc(all, func(f published) bool { return f.host != "" || slices.Contains(f.plain, at) })
		if !slices.ContainsFunc(all, func(f published) bool { return f.host != "" }) {
			all = append(all, published{name: at.tlsaName(), err: errors.New("no signed SRV record leads there")})
		}
	}
	j := &judgement{certs: e.State.PeerCertificates, roots: p.cfg.Roots, now: p.now(), accepted: e.Dialled == nil, chains: maxChains}
	for _, f := range all {
		err := f.err
		if err == nil {
			if err = j.match(f.records, e.Remote, f.host); err == nil {
				return f.name, false
			}
		}
		no.because(proofDANE, f.name, err)
		binding = binding || f.binding && mayHaveTLSA(e.Dialled) && (f.host != "" || !named)
	}
	return "", binding
}

// mayHaveTLSA reports whether there can be TLSA records of what was dialled:
// not where the operator has named an address.
func mayHaveTLSA(d *stream.Target) bool {
	if d == nil {
		return false
	}
	_, notIP := netip.ParseAddr(d.Host)
	return notIP != nil
}

// lookUp finds a domain's places and what is published there.
func (p *Prover) lookUp(ctx context.Context, domain string) []published {
	found, out := p.findPlaces(ctx, domain)
	at := make([]published, len(found))
	var wg sync.WaitGroup
	for i, pl := range found {
		wg.Go(func() { at[i] = p.askTLSA(ctx, pl) })
	}
	wg.Wait()
	return append(at, out...)
}

// findPlaces returns the places that the operator or a signed answer names,
// and what is wrong with the answers that do not count.
func (p *Prover) findPlaces(ctx context.Context, domain string) (found []place, out []published) {
	add := func(pl place) {
		if len(found) < maxPlaces && !slices.Contains(found, pl) {
			found = append(found, pl)
		}
	}
	for _, a := range p.cfg.Peers[domain].Addrs {
		host, port, err := net.SplitHostPort(a)
		n, badPort := strconv.ParseUint(port, 10, 16)
		if _, notIP := netip.ParseAddr(host); err == nil && badPort == nil && notIP != nil {
			add(place{hostName(host), uint16(n)})
		}
	}
	var answers [len(services)]dns.Answer[dns.SRV]
	var wg sync.WaitGroup
	for i, s := range services {
		wg.Go(func() { answers[i] = p.cfg.DNS.SRV(ctx, s+domain) })
	}
	wg.Wait()
	for i, ans := range answers {
		switch {
		case ans.Status == dns.Failed:
			out = append(out, published{name: services[i] + domain, err: failed("SRV", ans.Err), binding: true})
		case ans.Status == dns.Found && !ans.Secure:
			f := published{name: services[i] + domain, err: errors.New("SRV records are not signed")}
			for _, r := range ans.Records {
				f.plain = append(f.plain, place{hostName(r.Target), r.Port})
			}
			out = append(out, f)
		case ans.Status == dns.Found:
			for _, r := range ans.Records {
				if r.Target != "." && r.Target != "" {
					add(place{hostName(r.Target), r.Port})
				}
			}
		}
	}
	if len(found)+len(out) == 0 {
		out = append(out, published{name: domain, err: errors.New("no SRV records of XMPP services")})
	}
	return found, out
}

// askTLSA looks up the records of a place. The addresses of the host need not
// be signed as well (RFC 7673 section 3.2 would not even ask otherwise): who
// answers there has to show the key that the signed record names.
func (p *Prover) askTLSA(ctx context.Context, at place) published {
	f := published{place: at, name: at.tlsaName()}
	ans := p.cfg.DNS.TLSA(ctx, f.name)
	switch {
	case ans.Status == dns.Failed:
		f.err, f.binding = failed("TLSA", ans.Err), true
	case ans.Status != dns.Found:
		f.err = errors.New("no TLSA records")
	case !ans.Secure:
		f.err = errors.New("TLSA records are not signed")
	default:
		f.records = usableTLSA(ans.Records)
		if f.binding = len(f.records) > 0; !f.binding {
			f.err = fmt.Errorf("none of %d TLSA records can be used", len(ans.Records))
		}
	}
	return f
}

// failed is also what a validating resolver makes of a bogus signature: it
// answers SERVFAIL.
func failed(what string, err error) error {
	if err == nil {
		err = errors.New("no reason given")
	}
	return fmt.Errorf("%s records cannot be had: %w", what, err)
}

func hostName(s string) string { return strings.ToLower(strings.TrimSuffix(s, ".")) }

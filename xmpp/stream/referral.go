package stream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"mailxmppd/mail"
)

// maxReferred bounds the addresses of one referral.
const maxReferred = 4

// referral reads where a peer that has been proven sends us (RFC 6120 section
// 4.9.3.19). Whoever answers there has to prove the same domain, so that it
// can cost us a connection and no more; before TLS anybody on the way could
// say it, and it counts for nothing.
func (m *Manager) referral(failure error, from Target) []Target {
	theirs, ok := errors.AsType[*peerError](failure)
	said, _ := errors.AsType[*NegotiationError](failure)
	if !ok || theirs.condition != "see-other-host" || said == nil || !said.Peer {
		return nil
	}
	t := Target{Port: from.Port, StartTLS: from.StartTLS}
	var err error
	if t.Host, t.Port, err = splitReferral(theirs.host); err != nil {
		return nil
	}
	if t.Port == 0 {
		t.Port, t.StartTLS = 5269, true // the port that goes without saying is one for STARTTLS
	}
	var addrs []netip.Addr
	if addr, err := netip.ParseAddr(t.Host); err == nil {
		addrs = []netip.Addr{addr}
	} else {
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.DialTimeout)
		defer cancel()
		if addrs, err = m.cfg.Lookup(ctx, t.Host); err != nil {
			return nil
		}
	}
	var out []Target
	for _, addr := range addrs[:min(len(addrs), maxReferred)] {
		t.Addr = netip.AddrPortFrom(addr, t.Port).String()
		out = append(out, t)
	}
	return out
}

// splitReferral reads "host", "host:port", "[v6]" or "[v6]:port"; port 0 means
// that none was named.
func splitReferral(s string) (host string, port uint16, err error) {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	} else if !strings.Contains(s, ":") {
		host = s
	} else {
		var digits string
		if host, digits, err = net.SplitHostPort(s); err != nil {
			return "", 0, err
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 {
			return "", 0, errors.New("no port")
		}
		port = uint16(n)
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if addr.Zone() != "" {
			return "", 0, errors.New("address with a zone")
		}
		return host, port, nil
	}
	domain, err := mail.ParseDomain(strings.TrimSuffix(host, "."))
	if err != nil || mail.IsLiteral(domain) {
		return "", 0, errors.New("no host")
	}
	return domain, port, nil
}

package config

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"mailxmppd/mail"
)

// name puts the domain at path into the form that domains are compared in.
func (c *checker) name(path string, s *string) bool {
	if *s == "" {
		c.add(path, "is missing")
		return false
	}
	d, err := mail.ParseDomain(*s)
	switch {
	case err != nil:
		c.add(path, "%s", err)
		return false
	case mail.IsLiteral(d):
		c.add(path, "%s is an address, not a domain", d)
		return false
	}
	*s = d
	return true
}

// hop checks the URL of a fixed next hop and puts it into its one form. Only
// LMTP goes to a socket in the file system.
func (c *checker) hop(path string, s *string, schemes ...string) {
	wants := "smtp://host:port"
	if slices.Contains(schemes, "lmtp") {
		wants = "lmtp://host:port, lmtp:///socket or smtp://host:port"
	}
	if *s == "" {
		c.add(path, "is missing: wants %s", wants)
		return
	}
	u, err := url.Parse(*s)
	if err != nil || u.Opaque != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		c.add(path, "%q is not a URL of the form %s", clip(*s), wants)
		return
	}
	switch {
	case !slices.Contains(schemes, u.Scheme):
		c.add(path, "%q is not a URL of the form %s", clip(*s), wants)
	case u.Scheme == "lmtp" && u.Host == "" && len(u.Path) > 1:
		*s = (&url.URL{Scheme: u.Scheme, Path: u.Path}).String()
	case u.Path != "" && u.Path != "/":
		c.add(path, "%q: a path after host and port has no meaning", clip(*s))
	default:
		if why := badHostPort(u.Host, true); why != "" {
			c.add(path, "%q: %s", clip(*s), why)
			return
		}
		*s = u.Scheme + "://" + u.Host
	}
}

// badHostPort tells what is wrong with "host:port"; "" when nothing is. An
// address to dial needs a host, an address to listen on does not.
func badHostPort(s string, dial bool) string {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "wants host:port"
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || dial && n == 0 {
		return "the port is not a number from 1 to 65535"
	}
	if host == "" {
		if dial {
			return "the host is missing"
		}
		return ""
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	if d, err := mail.ParseDomain(host); err != nil || mail.IsLiteral(d) || looksNumeric(d) {
		return "the host is neither an IP address nor a name"
	}
	return ""
}

// looksNumeric: no top-level domain is all digits, so this is a mistyped
// address (RFC 3696 section 2).
func looksNumeric(domain string) bool {
	last := domain[strings.LastIndexByte(domain, '.')+1:]
	return strings.Trim(last, "0123456789") == ""
}

// resolverAddress reads an IP address with or without a port.
func resolverAddress(s string) (string, bool) {
	if ip, err := netip.ParseAddr(s); err == nil {
		return net.JoinHostPort(ip.String(), "53"), true
	}
	ap, err := netip.ParseAddrPort(s)
	return s, err == nil && ap.Port() != 0
}

// socket is an address that we listen on.
type socket struct {
	path string // of its key
	host string // "" for all addresses
	port string
}

// socket checks an address to listen on, also against those before it.
func (c *checker) socket(path, s string) {
	if s == "" {
		c.add(path, "is missing: wants host:port")
		return
	}
	if why := badHostPort(s, false); why != "" {
		c.add(path, "%q: %s", clip(s), why)
		return
	}
	host, port, _ := net.SplitHostPort(s)
	n, _ := strconv.ParseUint(port, 10, 16)
	if n == 0 {
		return // the system chooses a free one
	}
	k := socket{path: path, host: anyHost(host), port: strconv.FormatUint(n, 10)}
	for _, other := range c.sockets {
		if other.port == k.port && (other.host == k.host || other.host == "" || k.host == "") {
			c.add(path, "%s is taken by %s in line %d", s, keyName(other.path), c.line(other.path))
			return
		}
	}
	c.sockets = append(c.sockets, k)
}

// anyHost turns the forms of "all addresses" into "".
func anyHost(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil {
		if ip.IsUnspecified() {
			return ""
		}
		return ip.String()
	}
	return strings.ToLower(host)
}

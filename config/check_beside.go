package config

import (
	"net/netip"
	"strings"

	"mailxmppd/mail"
)

// maxAnswer bounds what a lookup tells.
const maxAnswer = 255

// trustOf says what is wrong with trusting everybody.
func trustOf(l *Listener) string {
	if l.Beside() {
		return "lets everybody ask what only the mail server beside us may"
	}
	return "lets everybody relay to any domain"
}

// beside checks a listener that an MTA beside us uses, and puts the defaults of
// its kind in force.
func (c *checker) beside(at string, l *Listener) {
	// A filter's client tells of its own clients, for which it must have an address.
	if path, ok := l.UnixSocket(); ok && l.Kind != ListenFilter {
		c.unixSocket(at+".address", l, path)
	} else {
		c.socket(at+".address", l.Address)
	}
	if _, set := c.lines[at+".tls"]; set && l.TLS != ListenPlain {
		c.add(at+".tls", "is of no use with kind = %q, which knows no TLS", l.Kind)
	}
	l.TLS = ListenPlain
	for _, k := range []struct {
		key string
		set bool
	}{
		{"auth", l.Auth != ""}, {"repair_lf", l.RepairLF}, {"proxies", len(l.Proxies) > 0},
		{"xclient", len(l.XClient) > 0}, {"xforward", len(l.XForward) > 0},
	} {
		if k.set {
			c.add(at+"."+k.key, "is of no use with kind = %q", l.Kind)
		}
	}
	if len(l.Trusted) == 0 {
		l.Trusted = []Network{{netip.MustParsePrefix("127.0.0.0/8")}, {netip.MustParsePrefix("::1/128")}}
	}
}

// unixSocket checks the path of a socket to listen on.
func (c *checker) unixSocket(at string, l *Listener, path string) {
	if path == "" {
		c.add(at, `wants a path after "unix:"`)
		return
	}
	l.Address = ListenUnix + c.path(path)
	if path, _ = l.UnixSocket(); len(path) > maxSocketPath {
		c.add(at, "the path is longer than %d octets, too long for a Unix socket", maxSocketPath)
		return
	}
	for _, other := range c.sockets {
		if other.host == l.Address {
			c.add(at, "%s is taken by %s in line %d", l.Address, keyName(other.path), c.line(other.path))
			return
		}
	}
	c.sockets = append(c.sockets, socket{path: at, host: l.Address, port: "unix"})
}

// besideKeys checks the keys that one kind has alone.
func (c *checker) besideKeys(at string, l *Listener) {
	switch {
	case l.Kind == ListenLookup && l.Answer == "":
		c.add(at+".answer", "is missing: wants what the mail server is to do with a peer's mail, such as lmtp:[127.0.0.1]:24")
	case l.Kind == ListenLookup:
		c.answer(at+".answer", l.Answer)
		c.answer(at+".own_answer", l.OwnAnswer)
	default:
		if l.Answer != "" {
			c.add(at+".answer", `is of no use without kind = "lookup"`)
		}
		if l.OwnAnswer != "" {
			c.add(at+".own_answer", `is of no use without kind = "lookup"`)
		}
	}
	switch {
	case l.Kind == ListenFilter:
		c.hop(at+".next", &l.Next, "smtp")
	case l.Next != "":
		c.add(at+".next", `is of no use without kind = "filter"`)
	}
}

func (c *checker) answer(at, s string) {
	if len(s) > maxAnswer || mail.Sanitise(s) != strings.TrimSpace(s) || s != strings.TrimSpace(s) {
		c.add(at, "wants at most %d printable characters on one line", maxAnswer)
	}
}

package config

import "net/netip"

func (c *checker) listeners(cfg *Config) {
	for i := range cfg.Listeners {
		l, at := &cfg.Listeners[i], item("listener", i)
		c.mode(at, l)
		c.oneOf(at+".kind", l.Kind, ListenRelay, ListenSubmission, ListenLMTP, ListenLookup, ListenMilter, ListenFilter)
		c.networks(at+".trusted", l.Trusted, trustOf(l))
		c.besideKeys(at, l)
		if l.Beside() {
			c.beside(at, l)
			continue
		}
		c.oneOf(at+".tls", l.TLS, ListenPlain, ListenStartTLS, ListenImplicit)
		c.mailSocket(at, l)
		c.networks(at+".proxies", l.Proxies, "lets everybody come from any address")
		c.networks(at+".xclient", l.XClient, "lets everybody come from any address")
		c.networks(at+".xforward", l.XForward, "lets everybody tell of any address")
		if l.Kind == ListenSubmission {
			c.submission(at, l)
		} else {
			c.noSubmission(at, l)
		}
	}
}

// mailSocket checks where a listener takes mail. Whoever may open a socket in
// the file system may relay, so that its clients are the local mail server and
// nobody's mail client.
func (c *checker) mailSocket(at string, l *Listener) {
	path, local := l.UnixSocket()
	if !local || l.Kind == ListenSubmission {
		c.socket(at+".address", l.Address)
		return
	}
	c.unixSocket(at+".address", l, path)
	for _, k := range []struct {
		key  string
		list []Network
	}{{"trusted", l.Trusted}, {"proxies", l.Proxies}, {"xclient", l.XClient}, {"xforward", l.XForward}} {
		if len(k.list) > 0 {
			c.add(at+"."+k.key, "is of no use with a local socket, whose clients have no address: see mode")
		}
	}
}

// mode puts the default of the kind in force: who only asks may be anybody who
// enters the directory, who may relay is of our own group.
func (c *checker) mode(at string, l *Listener) {
	_, local := l.UnixSocket()
	switch {
	case !local && l.Mode != 0:
		c.add(at+".mode", "is of no use without the address of a local socket, unix:/path")
	case local && l.Mode == 0 && l.Beside():
		l.Mode = 0o666
	case local && l.Mode == 0:
		l.Mode = 0o660
	}
}

// submission checks what only a listener for mail clients has.
func (c *checker) submission(at string, l *Listener) {
	if l.TLS == ListenPlain {
		c.add(at+".tls", `is "none", but passwords are taken over TLS only: wants "starttls" or "implicit"`)
	}
	if len(l.Trusted) > 0 {
		c.add(at+".trusted", `is of no use with kind = "submission": its clients authenticate themselves`)
	}
	socket, dovecot := l.DovecotSocket()
	switch {
	case l.Auth == "":
		l.Auth = AuthStore
	case dovecot && socket != "":
		l.Auth = AuthDovecot + c.path(socket)
		if path, _ := l.DovecotSocket(); len(path) > maxSocketPath {
			c.add(at+".auth", "the path is longer than %d octets, too long for a Unix socket", maxSocketPath)
		}
	case l.Auth != AuthStore:
		c.add(at+".auth", `%q is neither "store" nor "dovecot:" with the path of a socket`, clip(l.Auth))
	}
}

func (c *checker) noSubmission(at string, l *Listener) {
	if l.Auth != "" {
		c.add(at+".auth", `is of no use without kind = "submission"`)
	}
	if l.RepairLF {
		c.add(at+".repair_lf", `is of no use without kind = "submission"`)
	}
}

// networks refuses ranges that hold every address.
func (c *checker) networks(path string, list []Network, why string) {
	for i, n := range list {
		if n.IsValid() && (n.Bits() == 0 || mapped(n.Prefix)) {
			c.add(item(path, i), "%s %s", n, why)
		}
	}
}

// mapped reports whether an IPv6 range holds every IPv4 address in its mapped
// form (RFC 4291 section 2.5.5.2).
func mapped(p netip.Prefix) bool {
	return p.Addr().Is6() && p.Bits() <= 96 && p.Contains(netip.MustParseAddr("::ffff:0:0"))
}

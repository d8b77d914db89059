package main

import (
	"net"
	"net/netip"
	"net/url"
	"os"

	"mailxmppd/config"
)

// settings warns of what is allowed but weak.
func (n *inspection) settings(file string) {
	n.weakListeners()
	n.beside()
	n.weakDomains()
	n.weakRoutes()
	if n.cfg.Admin.Socket == "" {
		n.add(levelWarning, "settings", "admin.socket is empty: the queue of a running gateway cannot be looked at")
	}
	n.private("config", file, hasPassword(n.cfg.Store))
	n.private("store.url_file", n.cfg.Store.URLFile, true)
	for _, d := range n.cfg.Domains {
		n.private("domain.key", d.Key, true)
	}
	for _, r := range n.cfg.Routes {
		n.private("route.password_file", r.PasswordFile, true)
	}
}

func (n *inspection) weakListeners() {
	if len(n.cfg.Listeners) == 0 {
		n.add(levelWarning, "settings", "no [[listener]]: mail from here to others has no way in")
	}
	for _, l := range n.cfg.Listeners {
		if l.Beside() {
			continue
		}
		if len(l.Trusted) == 0 && l.Kind != config.ListenSubmission {
			n.add(levelWarning, "settings", "listener %s: trusted is empty, so only mail to our own domains is taken", l.Address)
		}
		if socket, ok := l.DovecotSocket(); ok {
			if _, err := os.Stat(socket); err != nil {
				n.add(levelWarning, "settings", "listener %s: Dovecot cannot be asked about users: %s", l.Address, err)
			}
		}
		if l.TLS == config.ListenPlain && !loopback(l.Address) {
			n.add(levelWarning, "settings", "listener %s: mail can only come in plain text", l.Address)
		}
	}
}

func (n *inspection) weakDomains() {
	for _, d := range n.cfg.Domains {
		if d.Verify == config.VerifyNone {
			n.add(levelWarning, "settings", `domain %s: with verify = "none" mail for unknown mailboxes is taken and then bounced`, d.Name)
		}
		if u, err := url.Parse(d.Deliver); err == nil && u.Host != "" && !loopback(u.Host) {
			n.add(levelWarning, "settings", "domain %s: what leaves for %s is not certain to be encrypted", d.Name, u.Host)
		}
	}
}

func (n *inspection) weakRoutes() {
	if n.cfg.SMTP.TLS == config.TLSNone {
		n.add(levelWarning, "settings", `smtp.tls is "none": mail to MX hosts goes in plain text`)
	}
	for _, r := range n.cfg.Routes {
		u, err := url.Parse(r.Next)
		if r.TLS == config.TLSNone && err == nil && u.Host != "" && !loopback(u.Host) {
			n.add(levelWarning, "settings", "route %s: mail to %s goes in plain text", r.Domain, u.Host)
		}
	}
	for _, p := range n.cfg.Peers {
		if p.Policy == config.PolicyPreferred {
			n.add(levelWarning, "settings", `peer %s: with policy = "preferred" whoever breaks its streams moves its mail to SMTP`, p.Domain)
		}
	}
}

// private warns when others can read a file that holds a secret.
func (n *inspection) private(key, file string, secret bool) {
	if file == "" || !secret {
		return
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o007 != 0 {
		n.add(levelWarning, "settings", "%s: %s holds a secret and is open to every user (mode %#o)", key, file, info.Mode().Perm())
	}
}

// hasPassword reports whether the file itself holds the store's password.
func hasPassword(s config.Store) bool {
	if s.URLFile != "" || s.URLEnv != "" {
		return false
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return false
	}
	_, set := u.User.Password()
	return set || u.Query().Has("password")
}

// loopback reports whether "host:port" stays on this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback() || host == "localhost"
}

package main

import (
	"net"
	"strings"

	"mailxmppd/config"
)

// beside tells what the mail server beside us must be told, and what of it
// cannot work.
func (n *inspection) beside() {
	lookup := false
	for _, l := range n.cfg.Listeners {
		switch l.Kind {
		case config.ListenMilter:
			n.add(levelOK, "settings", "milter %s: in Postfix's main.cf, smtpd_milters = %s", l.Address, postfixSocket(l))
		case config.ListenFilter:
			n.add(levelOK, "settings", "filter %s: for Postfix's smtp service in master.cf, -o smtpd_proxy_filter=%s", l.Address, l.Address)
		case config.ListenLookup:
			lookup = true
			n.add(levelOK, "settings", "lookup %s: in Postfix's main.cf, transport_maps = socketmap:%s:peers", l.Address, postfixSocket(l))
			if !n.takes(l.Answer) {
				n.add(levelWarning, "settings", "lookup %s: answer %q names the port of none of our listeners for SMTP or LMTP", l.Address, l.Answer)
			}
		}
	}
	if lookup && !n.judges() {
		n.add(levelWarning, "settings", "mail that the mail server beside us takes by SMTP is not judged here, only mail over XMPP is")
	}
}

// postfixSocket writes a listener's address as Postfix does.
func postfixSocket(l config.Listener) string {
	if _, local := l.UnixSocket(); local {
		return l.Address
	}
	host, port, err := net.SplitHostPort(l.Address)
	if err != nil {
		return l.Address
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return "inet:" + net.JoinHostPort(host, port)
}

// takes reports whether a lookup's answer leads to a listener of ours.
func (n *inspection) takes(answer string) bool {
	for _, l := range n.cfg.Listeners {
		if _, local := l.UnixSocket(); local && !l.Beside() && strings.HasSuffix(answer, l.Address) {
			return true
		}
		if _, port, err := net.SplitHostPort(l.Address); err == nil && !l.Beside() && strings.HasSuffix(answer, ":"+port) {
			return true
		}
	}
	return false
}

// judges reports whether mail from others by SMTP comes past us: at a listener
// that everybody may use, or by asking us about it.
func (n *inspection) judges() bool {
	for _, l := range n.cfg.Listeners {
		if l.Kind == config.ListenMilter || l.Kind == config.ListenFilter || l.Kind == config.ListenRelay && !loopback(l.Address) {
			return true
		}
	}
	return false
}

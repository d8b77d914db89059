package demo

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// retryFirst is the queue's first retry in the demo's gateways: far longer than
// the run, so that mail which arrives after an outage has not waited for it.
const retryFirst = "5m"

// configure gives a gateway its directory, certificate and configuration file.
func (n *network) configure(g *gateway, box *mailbox) error {
	dir := filepath.Join(n.dir, g.domain)
	cert, err := n.ca.leaf(g.domain)
	if err != nil {
		return err
	}
	g.exe = n.options.Executable
	g.config = filepath.Join(dir, "mailxmppd.toml")
	g.log = filepath.Join(dir, "gateway.log")
	g.admin = filepath.Join(dir, "admin.sock")
	g.store = (&url.URL{Scheme: "sqlite", Path: filepath.Join(dir, "mail.db")}).String()
	if n.options.Store != "" {
		g.store, g.schema = n.options.Store, newSchema(g.domain)
	}
	return os.WriteFile(g.config, []byte(n.configText(g, cert, box)), 0o600)
}

func (n *network) configText(g *gateway, cert leaf, box *mailbox) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by the demo for the gateway of %s.", g.domain)
	line("[[domain]]")
	line("name = %s", quoted(g.domain))
	line("certificate = %s", quoted(cert.certFile))
	line("key = %s", quoted(cert.keyFile))
	line("deliver = %s", quoted("lmtp://"+box.addr))
	line("verify = \"neighbour\"")
	line("")
	line("[[listener]]")
	line("kind = \"relay\"")
	line("address = %s", quoted(g.smtp))
	line("tls = \"starttls\"")
	line("trusted = [\"127.0.0.0/8\"]")
	line("")
	for _, l := range []struct{ addr, tls string }{{g.submission, "starttls"}, {g.submissions, "implicit"}} {
		line("[[listener]]")
		line("kind = \"submission\"")
		line("address = %s", quoted(l.addr))
		line("tls = %s", quoted(l.tls))
		line("")
	}
	line("[limits] # all mail clients of the demo have one address")
	line("connections_per_minute = 0")
	line("messages_per_minute = 0")
	line("messages_per_hour = 0")
	line("")
	line("[store]")
	line("url = %s", quoted(g.store))
	if g.schema != "" {
		line("schema = %s", quoted(g.schema))
	}
	line("")
	line("[dns]")
	line("servers = [%s]", quoted(n.dns.addr))
	line("")
	line("[tls]")
	line("roots = %s", quoted(n.ca.certFile))
	line("")
	line("[xmpp]")
	line("listen = [%s]", quoted(g.xmpps))
	if g.xmpp != "" {
		line("listen_starttls = [%s]", quoted(g.xmpp))
	}
	line("")
	line("[smtp]")
	line("mx_port = %d # where the SMTP server of %s listens", portOf(n.boxes[2].addr), legacy)
	line("")
	line("[queue]")
	line("retry_first = %q", retryFirst)
	line("")
	line("[admin]")
	line("socket = %s", quoted(g.admin))
	return b.String()
}

// quoted writes a TOML basic string.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Package beside runs the recipes of docs/recipes.md: real mail servers with
// gateways beside them, configured from the document's own words.
package beside

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/postfix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	document = "../../docs/recipes.md"
	ours     = "capulet.example"
	peer     = "montague.example"
	legacy   = "verona.example"
)

// site is a machine of our own: the document's 127.0.0.1 with all its ports is
// an address that no other test uses.
type site struct {
	ip  string
	exe string
	dir string
	ca  *harness.CA

	names *harness.Names // knows nobody: all but the configured peer is legacy

	mailboxes, peersMailboxes, others *harness.Sink
	ours, peer                        *harness.Gateway
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newSite starts what stands around a recipe: mailboxes, a peer, and the rest
// of the world.
func newSite(t *testing.T, exe, ip string) *site {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &site{ip: ip, exe: exe, dir: dir}
	s.ca, err = harness.NewCA(dir)
	must(t, err)
	s.names, err = harness.NewNames()
	must(t, err)
	t.Cleanup(func() { s.names.Close() })
	sink := func(port string) *harness.Sink {
		k, err := harness.NewSink(ip+":"+port, func(content []byte) string { return string(content) })
		must(t, err)
		k.Refuse(func(rcpt string) bool { return strings.HasPrefix(rcpt, "nobody@") })
		t.Cleanup(k.Close)
		return k
	}
	s.mailboxes, s.peersMailboxes, s.others = sink("10024"), sink("10124"), sink("2500")
	s.peer = s.gateway(t, peer, ip+":2626", fmt.Sprintf(`[[domain]]
name = %q
certificate = "/etc/mailxmppd/cert.pem"
key = "/etc/mailxmppd/key.pem"
deliver = "lmtp://127.0.0.1:10124"
[[listener]]
kind = "relay"
address = "127.0.0.1:2626"
tls = "none"
trusted = ["127.0.0.0/8"]
`, peer), ip+":5271", ours, ip+":5270")
	return s
}

// gateway runs a gateway with settings from the document, and what they leave
// open.
func (s *site) gateway(t *testing.T, domain, greets, settings, xmpp, other, otherXMPP string) *harness.Gateway {
	t.Helper()
	cert, key, err := s.ca.Issue(domain)
	must(t, err)
	dir := filepath.Join(s.dir, domain)
	must(t, os.MkdirAll(dir, 0o700))
	settings = strings.ReplaceAll(s.here(settings), "[127.0.0.1]", "["+s.ip+"]")
	settings = strings.ReplaceAll(settings, "/etc/mailxmppd/cert.pem", cert)
	settings = strings.ReplaceAll(settings, "/etc/mailxmppd/key.pem", key)
	settings += fmt.Sprintf(`
[store]
url = "sqlite:%s/mail.db"
[dns]
servers = [%q]
[tls]
roots = %q
[admin]
socket = "%s/admin.sock"
[xmpp]
listen = [%q]
[queue]
retry_first = "1s"
[[peer]]
domain = %q
address = [%q]
[[route]]
domain = "*"
next = "smtp://%s"
tls = "none"
`, dir, s.names.Addr, s.ca.File, dir, xmpp, other, otherXMPP, s.others.Addr)
	g := &harness.Gateway{Exe: s.exe, Domain: domain, SMTP: greets, XMPP: xmpp, Config: filepath.Join(dir, "mailxmppd.toml")}
	must(t, os.WriteFile(g.Config, []byte(settings), 0o600))
	t.Cleanup(func() {
		g.Kill()
		if log := g.Log(); t.Failed() {
			t.Logf("the end of the log of %s's gateway:\n%s", domain, log[max(0, len(log)-3000):])
		}
	})
	must(t, g.Start(t.Context()))
	return g
}

// here puts this site's address in the place of the document's.
func (s *site) here(settings string) string {
	return strings.ReplaceAll(settings, "127.0.0.1:", s.ip+":")
}

// block returns a recipe's settings with one name, those of several recipes
// together.
func block(t *testing.T, name string, titles ...string) string {
	t.Helper()
	var b strings.Builder
	for _, title := range titles {
		r, err := harness.ReadRecipe(document, title)
		must(t, err)
		b.WriteString(r[name] + "\n")
	}
	return b.String()
}

// parameters are the lines of main.cf that several recipes have together: what a
// later one sets takes the place of what an earlier one does.
func parameters(t *testing.T, titles ...string) string {
	t.Helper()
	var names []string
	lines := map[string]string{}
	name := ""
	for line := range strings.Lines(block(t, "main.cf", titles...)) {
		switch {
		case strings.TrimSpace(line) == "", strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, " "): // goes on
			lines[name] += line
		default:
			first, _, _ := strings.Cut(line, "=")
			if name = strings.TrimSpace(first); lines[name] == "" {
				names = append(names, name)
			}
			lines[name] = line
		}
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(lines[name])
	}
	return b.String()
}

// startOurs runs our gateway as the recipes say.
func (s *site) startOurs(t *testing.T, greets string, titles ...string) {
	t.Helper()
	s.ours = s.gateway(t, ours, greets, block(t, "mailxmppd.toml", titles...), s.ip+":5270", peer, s.ip+":5271")
}

// startPostfix runs Postfix as the recipes say. What they give to no transport
// goes to the others.
func (s *site) startPostfix(t *testing.T, listen string, titles ...string) *postfix.Server {
	t.Helper()
	services := s.here(block(t, "master.cf", titles...))
	if strings.TrimSpace(services) == "" {
		services = "smtp inet n - n - - smtpd\n"
	}
	// Postfix would take the port at every address.
	services = strings.ReplaceAll("\n"+services, "\nsmtp ", "\n"+s.ip+":25 ")
	settings := strings.ReplaceAll(s.here(parameters(t, titles...)), "[127.0.0.1]", "["+s.ip+"]")
	return s.runPostfix(t, postfix.Spec{
		Listen: listen, Sink: s.others.Addr, Services: strings.TrimPrefix(services, "\n"),
		// Asked for a verdict, it is to have it before we lose patience; loops are
		// ours to find.
		Extra: settings + "\naddress_verify_poll_delay = 1s\naddress_verify_poll_count = 15\nsmtpd_error_sleep_time = 0\nhopcount_limit = 200\n" +
			"smtpd_authorized_xclient_hosts = 127.0.0.0/8\n",
	})
}

// runPostfix runs Postfix until the test ends.
func (s *site) runPostfix(t *testing.T, spec postfix.Spec) *postfix.Server {
	t.Helper()
	spec.Host = "mx." + ours
	p, err := postfix.Start(spec)
	if errors.Is(err, postfix.ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		log := p.Log()
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the end of Postfix's log:\n%s", log[max(0, len(log)-4000):])
		}
	})
	return p
}

// letter is a message that a careless relay would change: a long line, dots,
// octets above 127.
func letter(mark string) []byte {
	return []byte("From: someone <x@y.example>\r\nMessage-ID: <" + mark + "@lab.example>\r\nDate: Mon, 23 Nov 2026 06:00:00 +0000\r\nSubject: " + mark + "\r\n\r\n" +
		".\r\n..\r\n caf\xc3\xa9 \r\n" + strings.Repeat("long", 1000) + "\r\n")
}

// send hands a letter over by SMTP and returns the last reply.
func send(t *testing.T, addr, from, to, mark string) string {
	t.Helper()
	return sendContent(t, addr, from, to, letter(mark))
}

func sendContent(t *testing.T, addr, from, to string, content []byte) string {
	t.Helper()
	c, err := harness.Dial(addr)
	must(t, err)
	defer c.Close()
	reply, err := c.Send(from, []string{to}, harness.Stuff(content))
	if err != nil && !strings.HasPrefix(err.Error(), "answered ") {
		t.Fatalf("sending to %s: %v", addr, err)
	}
	return reply
}

func expectReply(t *testing.T, what, reply, want string) {
	t.Helper()
	if !strings.HasPrefix(reply, want) {
		t.Errorf("%s: answered %q, want %q", what, reply, want)
	}
}

// arrived waits for a letter at one of the places and makes sure that its
// octets are as they were sent. It returns what was put before it.
func arrived(t *testing.T, at *harness.Sink, mark string) (before string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		for _, got := range at.Got() {
			if !strings.Contains(got, "Subject: "+mark+"\r\n") {
				continue
			}
			before, unchanged := strings.CutSuffix(got, string(letter(mark)))
			if !unchanged {
				t.Errorf("%s arrived changed: %.2000q", mark, got)
			}
			return before
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s has not arrived", mark)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// never makes sure that a letter is at none of the places.
func never(t *testing.T, mark string, places ...*harness.Sink) {
	t.Helper()
	for _, at := range places {
		for _, got := range at.Got() {
			if strings.Contains(got, "Subject: "+mark+"\r\n") {
				t.Errorf("%s has arrived", mark)
			}
		}
	}
}

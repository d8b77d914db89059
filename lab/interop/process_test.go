package interop

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"mailxmppd/lab/harness"
)

// TestProcesses: whole gateways, as an operator runs them, in the two forms
// beside chat servers: each domain a component of its server, and each with
// mail streams of its own. Mail goes in by SMTP and comes out by LMTP.
func TestProcesses(t *testing.T) {
	t.Parallel()
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	t.Run("components", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		p, e := s.prosody(t, nil, prosodyMail), s.ejabberd(t, ejabberdMail)
		// A peer of which nothing is known yet gets its mail by SMTP while its
		// component is still connecting: so each names the other.
		component := func(c *chatServer, domain, peer, secretFile string) string {
			return fmt.Sprintf("[[component]]\ndomain = %q\nserver = %q\nsecret_file = %q\nassert_authenticated = true\n[[peer]]\ndomain = %q\n",
				domain, c.component, secretFile, peer)
		}
		file := filepath.Join(s.ca.Dir, "component.secret")
		must(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
		a := s.gateway(t, exe, prosodyMail, component(p, prosodyMail, ejabberdMail, file))
		b := s.gateway(t, exe, ejabberdMail, component(e, ejabberdMail, prosodyMail, file))
		passOn(t, a, b)
	})
	t.Run("streams beside", func(t *testing.T) {
		t.Parallel()
		s := newSite(t)
		s.prosody(t, nil)
		s.ejabberd(t)
		host := s.host(t, "127.0.0.1")
		var gateways []*processGateway
		for _, domain := range []string{prosodyDomain, ejabberdDomain} {
			g := s.gateway(t, exe, domain, "")
			_, port, _ := strings.Cut(g.XMPP, ":")
			must(t, s.names.Add(fmt.Sprintf("_xmpps-mail._tcp.%s. 60 IN SRV 0 0 %s %s", domain, port, host)))
			gateways = append(gateways, g)
		}
		passOn(t, gateways[0], gateways[1])
	})
}

// processGateway is a gateway process with its mailboxes.
type processGateway struct {
	*harness.Gateway
	sink *harness.Sink
}

func (s *site) gateway(t *testing.T, exe, domain, extra string) *processGateway {
	t.Helper()
	return s.gatewayAs(t, exe, domain, "", extra)
}

// gatewayAs is gateway for a domain whose service over XMPP has another name.
func (s *site) gatewayAs(t *testing.T, exe, domain, service, extra string) *processGateway {
	t.Helper()
	sink, err := harness.NewSink("127.0.0.1:0", func(content []byte) string { return string(content) })
	must(t, err)
	t.Cleanup(sink.Close)
	addrs, err := harness.FreeAddrs(2)
	must(t, err)
	cert, key := s.cert(t, cmp.Or(service, domain))
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	g, err := harness.NewGateway(harness.Spec{
		Exe: exe, Dir: dir, CA: s.ca, Domain: domain, Service: service, Cert: cert, Key: key, DNS: s.names.Addr,
		Store: "sqlite://" + filepath.Join(dir, "mail.db"), Deliver: "lmtp://" + sink.Addr, SMTP: addrs[0], XMPP: addrs[1],
		// Nobody listens here: mail that went by SMTP would not arrive.
		Route: "smtp://127.0.0.1:9", Extra: "[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\n" + extra,
	})
	must(t, err)
	t.Cleanup(func() {
		g.Kill()
		if log := g.Log(); t.Failed() {
			t.Logf("the end of the log of %s's gateway:\n%s", domain, log[max(0, len(log)-4000):])
		}
	})
	must(t, g.Start(t.Context()))
	return &processGateway{g, sink}
}

// passOn sends letters both ways and looks for each, once and unchanged.
func passOn(t *testing.T, a, b *processGateway) {
	t.Helper()
	all := letters(t)[:40]
	for _, way := range [][2]*processGateway{{a, b}, {b, a}} {
		from, to := way[0], way[1]
		for _, l := range all {
			c, err := harness.Dial(from.SMTP)
			must(t, err)
			if _, err := c.Send("x@"+from.Domain, []string{"y@" + to.Domain}, harness.Stuff(l.content)); err != nil {
				t.Fatalf("%v\nlog of %s:\n%s", err, from.Domain, from.Log())
			}
			c.Close()
		}
		eventually(t, "all mail at "+to.Domain, func() bool { return to.sink.Count() >= len(all) })
		arrived := to.sink.Got()
		if len(arrived) != len(all) {
			t.Errorf("%d messages arrived at %s, %d were sent", len(arrived), to.Domain, len(all))
		}
		for i, l := range all {
			n := 0
			for _, got := range arrived {
				if strings.HasSuffix(got, string(l.content)) && strings.Contains(got, " with XMPP id ") {
					n++
				}
			}
			if n != 1 {
				t.Errorf("message %d arrived %d times unchanged at %s", i, n, to.Domain)
			}
		}
	}
}

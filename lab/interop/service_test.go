package interop

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"mailxmppd/lab/harness"
	"mailxmppd/store"
	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// serving makes an office that takes and sends the mail of domain under another
// name.
func (s *site) serving(t *testing.T, domain, service string) *office {
	t.Helper()
	o := s.office(t, domain)
	o.service = service
	o.server = transfer.NewServer(transfer.ServerConfig{
		Receiver: receiver{o.store}, Transfers: o.store, Services: o, Log: testLog(t),
		Serves: func(string) []string { return []string{domain} },
	})
	return o
}

// TestServiceOfAChatServer: the mail of a domain whose chat server is Prosody
// is that of a component, which Prosody lists unasked. The other domain has
// streams of its own. A component that only takes its own name's mail stands
// beside it and is not taken for the domain's.
func TestServiceOfAChatServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p := s.prosody(t, nil, prosodyMail, "amail.prosody.example")
	own, oc := s.asComponent(t, p, "amail.prosody.example")
	a := s.serving(t, prosodyDomain, prosodyMail)
	comp := p.connect(t, prosodyMail, func(cfg *component.Config) {
		cfg.Handle, cfg.DiscoInfo = a.server.HandleBound, a.disco
		cfg.Up = func(local, remote string) { a.directory.Seen(local, remote) }
	})
	a.over(t, s, component.Over(nil, comp))
	b := s.office(t, clearDomain)
	b.server = transfer.NewServer(transfer.ServerConfig{Receiver: receiver{b.store}, Transfers: b.store, Services: b, Log: testLog(t)})
	b.over(t, s, peers.Over(s.ours(t, func(c *stream.Config) { c.DiscoInfo, c.Handle = b.disco, b.server.Handle })))
	connected(t, comp, oc)

	for _, content := range [][]byte{[]byte("Message-ID: <1@lab.example>\r\n\r\nhi\r\n"), large(2 << 20)} {
		for _, way := range []struct {
			from, to *office
			proof    string
		}{{b, a, "pkix"}, {a, b, "component"}} {
			out := way.from.sender.Deliver(t.Context(), way.from.attempt(way.to, content))
			if len(out) != 1 || !out[0].Delivered() {
				t.Fatalf("from %s: %v", way.from.domain, out[0].Failure)
			}
			if out[0].Proof != way.proof {
				t.Errorf("from %s by proof %q", way.from.domain, out[0].Proof)
			}
		}
	}
	for domain, o := range map[string]*office{prosodyDomain: a, clearDomain: b} {
		entries, err := o.store.List(t.Context(), store.Filter{Limit: 10})
		must(t, err)
		if len(entries) != 2 {
			t.Errorf("%s holds %d messages", domain, len(entries))
		}
	}
	if entries, err := own.store.List(t.Context(), store.Filter{Limit: 10}); err != nil || len(entries) != 0 {
		t.Errorf("the other component holds %d messages, %v", len(entries), err)
	}
	// The other component is none of the domain's: its mail is not taken.
	forged := own.attempt(b, []byte("Subject: x\r\n\r\nx\r\n"))
	forged.Envelope.Sender.Domain = prosodyDomain
	if f := b.directory.Speaks(t.Context(), clearDomain, "amail.prosody.example", prosodyDomain); f == nil {
		t.Error("a component that does not serve the domain speaks for it")
	}
}

// TestServiceProcesses is the same with whole gateways, as an operator sets them
// up: each domain's service is a component of its own chat server.
func TestServiceProcesses(t *testing.T) {
	t.Parallel()
	exe, err := harness.Build(t.TempDir())
	must(t, err)
	s := newSite(t)
	p, e := s.prosody(t, nil, prosodyMail), s.ejabberd(t, ejabberdMail)
	file := filepath.Join(s.ca.Dir, "component.secret")
	must(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
	gateway := func(c *chatServer, domain, service, peer string) *processGateway {
		return s.gatewayAs(t, exe, domain, service, fmt.Sprintf(
			"[[component]]\ndomain = %q\nserver = %q\nsecret_file = %q\nassert_authenticated = true\n[[peer]]\ndomain = %q\n",
			service, c.component, file, peer))
	}
	passOn(t, gateway(p, prosodyDomain, prosodyMail, ejabberdDomain), gateway(e, ejabberdDomain, ejabberdMail, prosodyDomain))
}

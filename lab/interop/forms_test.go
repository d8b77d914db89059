package interop

import (
	"context"
	"fmt"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/stream"
)

// TestBesideChatServers: two domains whose chat servers are Prosody and
// ejabberd, and whose mail has streams of its own, found by _xmpps-mail. Chat
// between the servers goes on.
func TestBesideChatServers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, e := s.prosody(t, nil), s.ejabberd(t)
	host := s.host(t, "127.0.0.1")
	open := func(domain string) *office {
		o := s.office(t, domain)
		m, direct, _ := s.streams(t, func(c *stream.Config) {
			c.DiscoInfo, c.Handle = o.disco, o.server.Handle
		}, domain)
		must(t, s.names.Add(fmt.Sprintf("_xmpps-mail._tcp.%s. 60 IN SRV 0 0 %d %s", domain, direct, host)))
		o.over(t, s, peers.Over(m))
		return o
	}
	a, b := open(prosodyDomain), open(ejabberdDomain)
	exchange(t, a, b, letters(t), "pkix")
	if el := ask(t, p.connect(t, p.bot, nil), ejabberdDomain, disco); identities(el) != "server/im" {
		t.Errorf("chat server of %s says it is %q", ejabberdDomain, identities(el))
	}
	if el := ask(t, e.connect(t, e.bot, nil), prosodyDomain, disco); identities(el) != "server/im" {
		t.Errorf("chat server of %s says it is %q", prosodyDomain, identities(el))
	}
}

// The mail domains that are components.
const prosodyMail, ejabberdMail = "mail.prosody.example", "mail.ejabberd.example"

// asComponent is an office that is a component of a chat server.
func (s *site) asComponent(t *testing.T, c *chatServer, domain string) (*office, *component.Component) {
	t.Helper()
	o := s.office(t, domain)
	comp := c.connect(t, domain, func(cfg *component.Config) {
		cfg.Handle, cfg.DiscoInfo = o.server.HandleBound, o.disco
		cfg.Up = func(local, remote string) { o.directory.Seen(local, remote) }
	})
	o.over(t, s, component.Over(nil, comp))
	return o, comp
}

// connected waits for components to be known to their servers.
func connected(t *testing.T, components ...*component.Component) {
	t.Helper()
	for _, c := range components {
		eventually(t, c.Domain()+" is connected", func() bool { return c.Snapshot().Live })
	}
}

// TestComponents: a component of Prosody and one of ejabberd send each other
// every letter, the large one in chunks that both servers take.
func TestComponents(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, e := s.prosody(t, nil, prosodyMail), s.ejabberd(t, ejabberdMail)
	a, ac := s.asComponent(t, p, prosodyMail)
	b, bc := s.asComponent(t, e, ejabberdMail)
	connected(t, ac, bc)
	exchange(t, a, b, letters(t), "component")
}

// TestComponentAndStreams: a component and a gateway with streams of its own,
// whose domain has no other server. The server dials the gateway for the
// component and the gateway dials the server. With ejabberd there is no
// bidirectional stream, so no mail: it is deferred, not lost, both ways.
func TestComponentAndStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	p, e := s.prosody(t, nil, prosodyMail), s.ejabberd(t, ejabberdMail)
	own := s.office(t, clearDomain)
	ours := s.ours(t, func(c *stream.Config) { c.DiscoInfo, c.Handle = own.disco, own.server.Handle })
	own.over(t, s, peers.Over(ours))
	t.Run("prosody", func(t *testing.T) {
		a, comp := s.asComponent(t, p, prosodyMail)
		connected(t, comp)
		content := large(3 << 20)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, way := range [][2]*office{{a, own}, {own, a}} {
			out := way[0].sender.Deliver(ctx, way[0].attempt(way[1], content))
			if len(out) != 1 || !out[0].Delivered() {
				t.Errorf("from %s: %+v", way[0].domain, out)
			}
		}
	})
	t.Run("ejabberd", func(t *testing.T) {
		b, comp := s.asComponent(t, e, ejabberdMail)
		connected(t, comp)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, way := range [][2]*office{{b, own}, {own, b}} {
			out := way[0].sender.Deliver(ctx, way[0].attempt(way[1], []byte("Subject: hi\r\n\r\nhi\r\n")))
			if len(out) != 1 || out[0].Delivered() || out[0].Failure.Class != mail.Temporary {
				t.Errorf("from %s: %+v", way[0].domain, out)
			}
		}
	})
}

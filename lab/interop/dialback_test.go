package interop

import (
	"context"
	"errors"
	"testing"

	"mailxmppd/lab/prosody"
	"mailxmppd/mail"
	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/peers"
	"mailxmppd/xmpp/stream"
)

// TestDialbackOnly: with a chat server that knows nothing but dialback there is
// no stream in either direction, whatever its certificate says. A domain never
// seen with the mail feature gets its mail by SMTP for that reason.
func TestDialbackOnly(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, *site) *chatServer{
		"prosody": func(t *testing.T, s *site) *chatServer {
			return s.prosody(t, func(spec *prosody.Spec) { spec.DialbackOnly = true })
		},
		// It offers EXTERNAL even to whom it does not believe, and falls back to
		// dialback where it is not believed.
		"ejabberd": func(t *testing.T, s *site) *chatServer {
			s.alone = true
			return s.ejabberd(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			own := s.office(t, clearDomain)
			ours := s.ours(t, func(c *stream.Config) { c.DiscoInfo, c.Handle = own.disco, own.server.Handle })
			own.over(t, s, peers.Over(ours))
			onlyDialback(t, own, ours, start(t, s))
		})
	}
}

func onlyDialback(t *testing.T, own *office, ours *stream.Manager, p *chatServer) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, way := range []struct{ name, local string }{{"direct", directDomain}, {"starttls", clearDomain}} {
		_, err := ours.Link(ctx, way.local, p.domain, p.targets(way.name))
		n, ok := errors.AsType[*stream.NegotiationError](err)
		if !ok || n.Stage != stream.StageAuth || !n.Permanent || !n.Peer {
			t.Errorf("dialled by %s: %v", way.name, err)
		}
	}
	bot := p.connect(t, p.bot, nil)
	for _, local := range []string{directDomain, clearDomain} {
		before := ours.Snapshot().DialbackResults
		l, err := bot.Link(ctx, p.bot, local)
		must(t, err)
		asking, stop := context.WithCancel(ctx)
		answer := make(chan error, 1)
		go func() {
			_, err := l.Request(asking, "get", []byte(ping))
			answer <- err
		}()
		eventually(t, local+" is asked for dialback", func() bool { return ours.Snapshot().DialbackResults > before })
		if p.name == "ejabberd" { // it tells nobody that it was refused
			stop()
		}
		err = <-answer
		stop()
		if _, bounced := errors.AsType[*component.Bounce](err); err == nil || bounced != (p.name == "prosody") {
			t.Errorf("ping of %s: %v", local, err)
		}
	}
	if n := ours.Snapshot().Ready; n != 0 {
		t.Errorf("%d streams", n)
	}
	if got, f := own.directory.Standing(ctx, clearDomain, p.domain); got != mail.Legacy {
		t.Errorf("mail to %s: standing %d, %v", p.domain, got, f)
	}
}

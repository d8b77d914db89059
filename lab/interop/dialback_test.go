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
	s := newSite(t)
	own := s.office(t, clearDomain)
	ours := s.ours(t, func(c *stream.Config) { c.DiscoInfo, c.Handle = own.disco, own.server.Handle })
	own.over(t, s, peers.Over(ours))
	p := s.prosody(t, func(spec *prosody.Spec) { spec.DialbackOnly = true })
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
		_, err = l.Request(ctx, "get", []byte(ping))
		if _, bounced := errors.AsType[*component.Bounce](err); !bounced {
			t.Errorf("ping of %s: %v", local, err)
		}
		if ours.Snapshot().DialbackResults == before {
			t.Errorf("%s was not asked for dialback", local)
		}
	}
	if n := ours.Snapshot().Ready; n != 0 {
		t.Errorf("%d streams", n)
	}
	if got, f := own.directory.Standing(ctx, clearDomain, p.domain); got != mail.Legacy {
		t.Errorf("mail to %s: standing %d, %v", p.domain, got, f)
	}
}

package interop

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// padded is a payload that makes a whole stanza of n octets, given what is
// around it.
func padded(n, around int) []byte {
	const open, end = "<pad xmlns='urn:lab'>", "</pad>"
	return []byte(open + strings.Repeat("x", n-around-len(open)-len(end)) + end)
}

// TestStanzaLimits: the largest stanza that a stream or a component lets us
// send is one that the server takes; what is larger never leaves.
func TestStanzaLimits(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ours := s.ours(t, func(c *stream.Config) {
		c.Handle = func(context.Context, *stream.Link, *stream.IQ) stream.Reply { return stream.Reply{} }
	})
	p, e := s.prosody(t, nil), s.ejabberd(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()

	t.Run("prosody's stream", func(t *testing.T) {
		l, err := ours.Link(ctx, directDomain, p.domain, p.targets("direct"))
		must(t, err)
		around := len("<iq type='get' id='0123456789abcdef' from='" + directDomain + "' to='" + p.domain + "'></iq>")
		_, err = l.Request(ctx, "get", padded(l.MaxStanza(), around))
		if refusal, ok := errors.AsType[*stream.StanzaError](err); !ok || refusal.Condition != "service-unavailable" {
			t.Errorf("stanza of %d octets: %v", l.MaxStanza(), err)
		}
		if _, err = l.Request(ctx, "get", padded(l.MaxStanza()+1, around)); !errors.Is(err, stream.ErrNotSent) {
			t.Errorf("stanza of %d octets: %v", l.MaxStanza()+1, err)
		}
		if _, err := l.Request(ctx, "get", []byte(ping)); err != nil {
			t.Error("ping after it:", err)
		}
	})
	for _, c := range []*chatServer{p, e} {
		t.Run("component of "+c.name, func(t *testing.T) {
			bot := c.connect(t, c.bot, nil)
			l, err := bot.Link(ctx, c.bot, directDomain)
			must(t, err)
			around := len("<iq type='get' id='0123456789abcdef' from='" + c.bot + "' to='" + directDomain + "'></iq>")
			// An ordinary server's stream is none that we take requests on.
			_, err = l.Request(ctx, "get", padded(l.MaxStanza(), around))
			if refusal, ok := errors.AsType[*stream.StanzaError](err); err != nil && (!ok || refusal.Condition != "service-unavailable") {
				t.Errorf("stanza of %d octets: %v", l.MaxStanza(), err)
			}
			if _, err = l.Request(ctx, "get", padded(l.MaxStanza()+1, around)); !errors.Is(err, stream.ErrNotSent) {
				t.Errorf("stanza of %d octets: %v", l.MaxStanza()+1, err)
			}
			if n := bot.Snapshot().Connected; n != 1 {
				t.Errorf("connected %d times", n)
			}
		})
	}
}

// TestTooLargeForUs: a server that sends more than we take loses that stream,
// and the next stanza finds another.
func TestTooLargeForUs(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ours := s.ours(t, func(c *stream.Config) {
		c.Limits = wire.Default()
		c.Limits.StanzaBytes = 100_000
	})
	for _, c := range []*chatServer{s.prosody(t, nil), s.ejabberd(t)} {
		t.Run(c.name, func(t *testing.T) {
			bot := c.connect(t, c.bot, func(cfg *component.Config) { cfg.RequestTimeout = time.Second })
			ask(t, bot, directDomain, ping)
			before := ours.Snapshot()
			l, err := bot.Link(t.Context(), c.bot, directDomain)
			must(t, err)
			if el, err := l.Request(t.Context(), "get", padded(300_000, 200)); err == nil {
				t.Errorf("answered with %v", el)
			}
			eventually(t, "the stream is ended", func() bool { return ours.Snapshot().StreamErrors > before.StreamErrors })
			eventually(t, "they are back", func() bool {
				_, err := l.Request(t.Context(), "get", []byte(ping))
				return err == nil
			})
		})
	}
}

// TestFlood: requests without end from one chat server, while the handler is
// stuck: they are refused beyond the bound, all are answered, and another
// server's ping is answered meanwhile.
func TestFlood(t *testing.T) {
	t.Parallel()
	const flood, inHand = 3000, 16
	s := newSite(t)
	release := make(chan struct{})
	stuck := func(ctx context.Context) stream.Reply {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return stream.Reply{}
	}
	ours := s.ours(t, func(c *stream.Config) {
		c.HandlerSlots = inHand
		c.Handle = func(ctx context.Context, _ *stream.Link, _ *stream.IQ) stream.Reply { return stuck(ctx) }
	})
	p, e := s.prosody(t, nil, prosodyMail), s.ejabberd(t)
	ourComponent := p.connect(t, prosodyMail, func(c *component.Config) {
		c.HandlerSlots = inHand
		c.Handle = func(ctx context.Context, _ mail.Binding, _ *stream.IQ) stream.Reply { return stuck(ctx) }
	})
	connected(t, ourComponent)
	floodBot, calmBot := p.connect(t, p.bot, nil), e.connect(t, e.bot, nil)
	for _, target := range []struct {
		domain string
		shed   func() int64
	}{
		{directDomain, func() int64 { return ours.Snapshot().RequestsShed }},
		{prosodyMail, func() int64 { return ourComponent.Snapshot().RequestsShed }},
	} {
		ask(t, floodBot, target.domain, ping)
		l, err := floodBot.Link(t.Context(), p.bot, target.domain)
		must(t, err)
		var running sync.WaitGroup
		var mu sync.Mutex
		refused, answered, lost := 0, 0, 0
		for range flood {
			running.Go(func() {
				_, err := l.Request(t.Context(), "get", []byte("<flood xmlns='urn:lab'/>"))
				refusal, isRefusal := errors.AsType[*stream.StanzaError](err)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					answered++
				case isRefusal && refusal.Condition == "resource-constraint":
					refused++
				default:
					lost++
				}
			})
		}
		eventually(t, "the flood is refused", func() bool { return target.shed() == flood-inHand })
		ask(t, calmBot, target.domain, ping)
		for range inHand {
			release <- struct{}{}
		}
		running.Wait()
		if refused != flood-inHand || answered != inHand || lost != 0 {
			t.Errorf("%s: %d refused, %d answered, %d lost", target.domain, refused, answered, lost)
		}
	}
}

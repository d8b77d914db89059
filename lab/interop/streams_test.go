package interop

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/stream"
)

// TestStreams: the streams with real chat servers, both ways and over both
// ways to TLS.
func TestStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	ends := newEndings(t)
	ours := s.ours(t, func(c *stream.Config) { c.Log = slog.New(ends) })
	for _, start := range []func() *chatServer{func() *chatServer { return s.prosody(t, nil) }, func() *chatServer { return s.ejabberd(t) }} {
		c := start()
		t.Run(c.name, func(t *testing.T) {
			bot := c.connect(t, c.bot, nil)
			for _, way := range []struct{ name, local string }{{"direct", directDomain}, {"starttls", clearDomain}} {
				t.Run("we dial by "+way.name, func(t *testing.T) { dialThem(t, ours, c, way.local, way.name) })
				t.Run("they dial by "+way.name, func(t *testing.T) { letThemDial(t, ours, bot, way.local) })
			}
			t.Run("we close", func(t *testing.T) { closeOurs(t, s, c, bot) })
			t.Run("they close", func(t *testing.T) { letThemClose(t, ours, c, ends) })
		})
	}
}

// dialThem opens a stream to a chat server and asks it for disco#info and
// ping. Prosody has bidirectional streams and answers over ours; ejabberd has
// none, and dials us for its answer: the stream that it opens is how it comes.
func dialThem(t *testing.T, ours *stream.Manager, c *chatServer, local, way string) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	el, err := ours.Probe(ctx, local, c.domain, c.targets(way), []byte(disco))
	if err != nil {
		t.Fatal("disco#info:", err)
	}
	if got := identities(el); got != "server/im" || !hasFeature(el, "urn:xmpp:ping") {
		t.Errorf("disco#info: identity %q, %d children", got, len(el.Children))
	}
	if _, err := ours.Probe(ctx, local, c.domain, c.targets(way), []byte(ping)); err != nil {
		t.Error("our ping:", err)
	}
	l, err := ours.Link(ctx, local, c.domain, c.targets(way))
	if c.name == "ejabberd" {
		if n, ok := errors.AsType[*stream.NegotiationError](err); !ok {
			t.Fatalf("link without bidirectional streams: %v", err)
		} else if n.Stage != stream.StageBidi && n.Stage != stream.StageBackOff {
			t.Fatalf("failed at %s: %v", n.Stage, err)
		}
		return
	}
	must(t, err)
	if b := l.Binding(); b.Proof != "pkix" || b.TLS == "" || l.MaxStanza() < 10_000 || l.MaxStanza() > 524288 {
		t.Errorf("bound by %q over %q, stanzas of %d", b.Proof, b.TLS, l.MaxStanza())
	}
	if _, err := l.Request(ctx, "get", []byte(ping)); err != nil {
		t.Error("ping:", err)
	}
	l.Close("")
	select {
	case <-l.Done():
	case <-ctx.Done():
		t.Error("stream is not closed")
	}
}

// letThemDial has a component write to our domain, whose server opens a stream
// to us for that.
func letThemDial(t *testing.T, ours *stream.Manager, bot *component.Component, local string) {
	before := ours.Snapshot()
	ask(t, bot, local, ping)
	if got := identities(ask(t, bot, local, disco)); got != "gateway/smtp" {
		t.Errorf("they are told %q", got)
	}
	if ask(t, bot, local, "<query xmlns='jabber:iq:version'/>") == nil {
		t.Error("no version")
	}
	if after := ours.Snapshot(); after.Accepted == before.Accepted || after.Ready == before.Ready {
		t.Errorf("no stream of theirs: %+v", after)
	}
}

// letThemClose ends a chat server: its streams are gone, and a new one is a
// failure of the moment.
func letThemClose(t *testing.T, ours *stream.Manager, c *chatServer, ends *endings) {
	before := ours.Snapshot()
	if before.Live+before.OneWay == 0 {
		t.Fatal("there is no stream to close")
	}
	must(t, c.stop())
	eventually(t, "their streams are gone", func() bool {
		n := ours.Snapshot()
		return n.Live+n.OneWay == 0
	})
	if c.name == "prosody" { // ejabberd cuts its connections
		for _, failed := range append(ends.of("in"), ends.of("out")...) {
			if failed != "" && !strings.Contains(failed, "system-shutdown") {
				t.Errorf("a stream ended without a closing tag: %s", failed)
			}
		}
	}
	_, err := ours.Link(t.Context(), directDomain, c.domain, c.targets("direct"))
	if n, ok := errors.AsType[*stream.NegotiationError](err); !ok || n.Permanent && n.Stage != stream.StageBackOff {
		t.Errorf("link after it: %v", err)
	}
}

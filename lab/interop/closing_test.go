package interop

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/stream"
)

// endings is a log handler that keeps how streams ended: by direction, the
// error of each. An end by the peer's closing tag has none.
type endings struct {
	slog.Handler
	mu   sync.Mutex
	seen map[string][]string
}

func newEndings(t *testing.T) *endings {
	return &endings{Handler: testLog(t).Handler(), seen: map[string][]string{}}
}

func (e *endings) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "stream closed" {
		var dir, failed string
		r.Attrs(func(a slog.Attr) bool {
			switch a.Key {
			case "dir":
				dir = a.Value.String()
			case "err":
				failed = a.Value.String()
			}
			return true
		})
		e.mu.Lock()
		e.seen[dir] = append(e.seen[dir], failed)
		e.mu.Unlock()
	}
	return e.Handler.Handle(ctx, r)
}

func (e *endings) of(dir string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]string(nil), e.seen[dir]...)
}

const closingDomain = "closing.example"

// closeOurs has a server of ours with streams in both directions close them
// when they are idle: the chat server answers our closing tag with its own, on
// the stream that we have dialled and on the one that it has. Both carried a
// ping before, and its answer: with ejabberd, which has no bidirectional streams,
// each over the other.
func closeOurs(t *testing.T, s *site, c *chatServer, bot *component.Component) {
	ends := newEndings(t)
	ours, direct, _ := s.streams(t, func(cfg *stream.Config) {
		cfg.Log, cfg.IdleClose, cfg.CloseTimeout = slog.New(ends), time.Second, patience
	}, closingDomain)
	must(t, s.names.Add(fmt.Sprintf("_xmpps-server._tcp.%s. 60 IN SRV 0 0 %d %s", closingDomain, direct, s.host(t, "127.0.0.1"))))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := ours.Probe(ctx, closingDomain, c.domain, c.targets("direct"), []byte(disco))
	must(t, err)
	_, err = ours.Probe(ctx, closingDomain, c.domain, c.targets("direct"), []byte(ping))
	must(t, err)
	ask(t, bot, closingDomain, ping)
	if n := ours.Snapshot(); n.Dialled == 0 || n.Accepted == 0 || n.AnswersLost+n.StreamErrors+n.StanzaErrors != 0 {
		t.Errorf("before the end: %+v", n)
	}
	eventually(t, "all streams are closed", func() bool {
		n := ours.Snapshot()
		return n.Live+n.OneWay == 0 && len(ends.of("in")) > 0 && len(ends.of("out")) > 0
	})
	for _, dir := range []string{"in", "out"} {
		for _, failed := range ends.of(dir) {
			if failed != "" {
				t.Errorf("stream %s ended without their closing tag: %s", dir, failed)
			}
		}
	}
}

// TestEjabberdCloses: an ejabberd closes idle streams in order, its own and
// ours, with a stream error that says why.
func TestEjabberdCloses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.extra = "s2s_timeout: 1 second"
	e := s.ejabberd(t)
	ends := newEndings(t)
	ours := s.ours(t, func(c *stream.Config) { c.Log = slog.New(ends) })
	bot := e.connect(t, e.bot, nil)
	for _, local := range []string{directDomain, clearDomain} {
		ask(t, bot, local, ping)
	}
	eventually(t, "its streams are closed", func() bool { return len(ends.of("in")) >= 2 && len(ends.of("out")) >= 2 })
	for _, failed := range append(ends.of("in"), ends.of("out")...) {
		if !strings.HasPrefix(failed, "peer ended the stream: connection-timeout") {
			t.Errorf("a stream ended otherwise: %q", failed)
		}
	}
	if n := ours.Snapshot(); n.StreamErrors != 0 {
		t.Errorf("%+v", n)
	}
}

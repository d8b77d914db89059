package component

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

// hold is a handler that waits to be let go.
type hold struct {
	entered chan string
	release chan struct{}
}

func newHold() *hold { return &hold{make(chan string, 64), make(chan struct{})} }

// next waits for a request to come in and says whose it is.
func (h *hold) next(t *testing.T) string {
	t.Helper()
	select {
	case from := <-h.entered:
		return from
	case <-time.After(patience):
		t.Fatal("no request comes in")
		return ""
	}
}

func (h *hold) handle(ctx context.Context, b mail.Binding, iq *stream.IQ) stream.Reply {
	h.entered <- b.Remote
	select {
	case <-h.release:
	case <-ctx.Done():
	}
	return echo(ctx, b, iq)
}

const work = "<echo xmlns='urn:test'>x</echo>"

// TestHandsFull: a peer that asks for too much at once is refused, and the
// others are not; all together are bounded as well.
func TestHandsFull(t *testing.T) {
	h := newHold()
	srv := newServer(t)
	c := srv.start(func(c *Config) { c.Handle, c.HandlerSlots = h.handle, 2 })
	conn := srv.accept()
	refused := func(from string) {
		t.Helper()
		conn.send(request("over", from, ourDomain, work))
		if e, _ := readError(conn.next()); e.Condition != "resource-constraint" || e.Type != "wait" {
			t.Errorf("%s: %+v", from, e)
		}
	}
	const peers = allPeers
	for i := range peers {
		from := string(rune('a'+i)) + ".example"
		for range 2 {
			conn.send(request("1", from, ourDomain, work))
			if got := h.next(t); got != from {
				t.Errorf("%s is served, not %s", got, from)
			}
		}
		refused(from)
	}
	refused("z.example") // who has nothing in hand, but all have
	conn.send(request("p", "z.example", ourDomain, "<ping xmlns='urn:xmpp:ping'/>"))
	if el := conn.next(); el.Attr("type") != "result" {
		t.Error("no ping while hands are full")
	}
	close(h.release)
	for range 2 * peers {
		if el := conn.next(); el.Attr("type") != "result" {
			t.Errorf("%v", el)
		}
	}
	handsEmpty(t, c)
	if s := c.Snapshot(); s.RequestsShed != peers+1 || s.RequestsReceived != 2*peers {
		t.Errorf("%+v", s)
	}
}

// TestOctetsInHand: the bound is on octets too, but one request always goes.
func TestOctetsInHand(t *testing.T) {
	h := newHold()
	srv := newServer(t)
	c := srv.start(func(c *Config) { c.Handle, c.MaxInBytes = h.handle, 10_000 })
	conn := srv.accept()
	big := "<echo xmlns='urn:test'>" + strings.Repeat("x", 20_000) + "</echo>"
	conn.send(request("1", peer, ourDomain, big))
	h.next(t)
	conn.send(request("2", peer, ourDomain, work))
	if e, _ := readError(conn.next()); e.Condition != "resource-constraint" {
		t.Errorf("%+v", e)
	}
	close(h.release)
	if el := conn.next(); el.Attr("id") != "1" || el.Attr("type") != "result" {
		t.Errorf("%v", el)
	}
	handsEmpty(t, c)
}

// handsEmpty waits until nothing counts as being in hand.
func handsEmpty(t *testing.T, c *Component) {
	t.Helper()
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	eventually(t, "all hands are empty", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range s.links {
			if !l.idle() || l.holding != 0 {
				return false
			}
		}
		return s.handling == 0 && s.holding == 0
	})
}

// TestPeers: the table of links is bounded; one that is idle makes room.
func TestPeers(t *testing.T) {
	var told standing
	srv := newServer(t)
	c := srv.start(told.note, func(c *Config) { c.MaxPeers, c.IdleBeforeEvict = 1, time.Nanosecond })
	conn := srv.accept()
	done := ask(t, c, "a.example", "get")
	iq := conn.next()
	if _, err := c.Link(t.Context(), ourDomain, "b.example"); mail.AsFailure(err).Kind != mail.ResourceShort {
		t.Error("room beside a busy link:", err)
	}
	conn.answer(iq, "result", "")
	if o := wait(t, done); o.err != nil {
		t.Fatal(o.err)
	}
	old := c.Live(ourDomain, "a.example")
	if _, err := c.Link(t.Context(), ourDomain, "b.example"); err != nil {
		t.Error(err)
	}
	select {
	case <-old.Done():
	default:
		t.Error("the idle link is not dead")
	}
	if _, err := old.Request(t.Context(), "get", []byte(work)); !errors.Is(err, stream.ErrNotSent) {
		t.Error("request on a dead link:", err)
	}
	if want := "up " + ourDomain + " a.example, down " + ourDomain + " a.example"; told.String() != want || c.Snapshot().Links != 1 {
		t.Errorf("told %q, %d links", told.String(), c.Snapshot().Links)
	}
}

// TestLife: after its time a link is replaced, unless it is in use.
func TestLife(t *testing.T) {
	srv := newServer(t)
	c := srv.start(func(c *Config) { c.MaxLife = time.Nanosecond })
	conn := srv.accept()
	first, err := c.Link(t.Context(), ourDomain, peer)
	if err != nil {
		t.Fatal(err)
	}
	second, _ := c.Link(t.Context(), ourDomain, peer)
	done := make(chan error, 1)
	go func() {
		_, err := second.Request(t.Context(), "get", []byte(work))
		done <- err
	}()
	iq := conn.next()
	if third, _ := c.Link(t.Context(), ourDomain, peer); first == second || third != second {
		t.Error("link replaced while in use, or not at all")
	}
	conn.answer(iq, "result", "")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestStanzaLimit: what is larger than the server takes never leaves, and an
// answer that would be is an error, or silence where an error would deny what
// was done.
func TestStanzaLimit(t *testing.T) {
	srv := newServer(t)
	c := srv.start(func(c *Config) {
		c.MaxStanza = 10_000
		c.Handle = func(context.Context, mail.Binding, *stream.IQ) stream.Reply {
			return stream.Reply{Payload: []byte("<big xmlns='urn:test'>" + strings.Repeat("x", 10_000) + "</big>")}
		}
	})
	conn := srv.accept()
	l, err := c.Link(t.Context(), ourDomain, peer)
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Request(t.Context(), "set", []byte("<a xmlns='urn:test'>"+strings.Repeat("x", l.MaxStanza())+"</a>"))
	if !errors.Is(err, stream.ErrNotSent) {
		t.Error(err)
	}
	conn.send(strings.Replace(request("1", peer, ourDomain, work), "type='get'", "type='set'", 1))
	eventually(t, "answer dropped", func() bool { return c.Snapshot().AnswersLost == 1 })
	conn.send(request("2", peer, ourDomain, work))
	answer := conn.next()
	if e, _ := readError(answer); e.Condition != "resource-constraint" || answer.Attr("id") != "2" {
		t.Errorf("%+v to %s", e, answer.Attr("id"))
	}
}

// TestReconnect: links and what waits on them end with the connection; Up and
// Down alternate; what never left is told apart.
func TestReconnect(t *testing.T) {
	var told standing
	srv := newServer(t)
	c := srv.start(told.note)
	conn := srv.accept()
	conn.send(request("1", peer, ourDomain, work))
	conn.next()
	old := c.Live(ourDomain, peer)
	if old == nil || !old.Inbound() {
		t.Fatal("no link that the peer began")
	}
	conn.conn.Close()
	select {
	case <-old.Done():
	case <-time.After(patience):
		t.Fatal("link outlives its connection")
	}
	conn = srv.accept()
	eventually(t, "connected again", func() bool { return c.Snapshot().Live })
	if c.Live(ourDomain, peer) != nil {
		t.Error("peer counts as heard over the new connection")
	}
	done := ask(t, c, peer, "get")
	conn.answer(conn.next(), "result", "")
	if o := wait(t, done); o.err != nil || c.Live(ourDomain, peer) == nil || c.Live(ourDomain, peer).Inbound() {
		t.Error(o.err)
	}
	pair := ourDomain + " " + peer
	if want := "up " + pair + ", down " + pair + ", up " + pair; told.String() != want {
		t.Errorf("told %q", told.String())
	}
}

// TestNeverLeft: a request that waits behind a server that does not read, and
// then is gone, was certainly not sent.
func TestNeverLeft(t *testing.T) {
	srv := newServer(t)
	c := srv.start(func(c *Config) { c.WriteTimeout, c.MaxOutBytes = time.Second, 64<<20 }) // all have room in the queue
	srv.accept()
	eventually(t, "connected", func() bool { return c.Snapshot().Live })
	l, err := c.Link(t.Context(), ourDomain, peer)
	if err != nil {
		t.Fatal(err)
	}
	big := []byte("<a xmlns='urn:test'>" + strings.Repeat("x", 400_000) + "</a>")
	results := make(chan error, 64)
	for range cap(results) {
		go func() {
			_, err := l.Request(t.Context(), "set", big)
			results <- err
		}()
	}
	never, perhaps := 0, 0
	for range cap(results) {
		switch err := <-results; {
		case errors.Is(err, stream.ErrNotSent):
			never++
		case errors.Is(err, stream.ErrClosed):
			perhaps++
		default:
			t.Error(err)
		}
	}
	if never == 0 || perhaps == 0 {
		t.Errorf("%d never left, %d may have", never, perhaps)
	}
}

// TestOrderlyClose: what is under way is finished, then the stream is closed.
func TestOrderlyClose(t *testing.T) {
	h := newHold()
	srv := newServer(t)
	cfg := Config{Domain: ourDomain, Address: srv.ln.Addr().String(), Secret: secret, AssertAuthenticated: true, Handle: h.handle}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	conn := srv.accept()
	conn.send(request("1", peer, ourDomain, work))
	h.next(t)
	done := ask(t, c, "b.example", "get")
	iq := conn.next()
	stop()
	eventually(t, "no new requests", func() bool {
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := c.Link(short, ourDomain, "c.example")
		return err != nil
	})
	close(h.release)
	if el := conn.next(); el.Attr("id") != "1" || el.Attr("type") != "result" {
		t.Errorf("%v", el)
	}
	conn.answer(iq, "result", "")
	if o := wait(t, done); o.err != nil {
		t.Error(o.err)
	}
	if _, err := conn.parser.Next(); err != io.EOF {
		t.Error("stream is not closed:", err)
	}
	conn.send("</stream:stream>")
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := c.Link(t.Context(), ourDomain, peer); !errors.Is(err, stream.ErrShutdown) {
		t.Error(err)
	}
}

// TestFloodOfQuestions: a server that asks without reading the answers loses
// answers, not our memory.
func TestFloodOfQuestions(t *testing.T) {
	srv := newServer(t)
	c := srv.start(func(c *Config) { c.MaxOutBytes = 64 << 10 })
	conn := srv.accept()
	ping := request("1", "u@"+peer+"/"+strings.Repeat("r", 900), ourDomain, "<ping xmlns='urn:xmpp:ping'/>")
	const most = 64 << 20
	for sent := 0; c.Snapshot().AnswersLost == 0; sent += len(ping) * 100 {
		if sent > most {
			t.Fatal("every answer is kept")
		}
		conn.send(strings.Repeat(ping, 100))
	}
}

package component

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"mailxmppd/xmpp/wire"
)

// session is one connection to the server, from handshake to close.
type session struct {
	c       *Component
	conn    net.Conn
	in      *stanzas
	out     *queue
	ctx     context.Context // of handlers
	cancel  context.CancelFunc
	node    string        // begins the ids of what is sent to our own name
	back    atomic.Int64  // of what was sent to our own name, since it was last asked
	second  bool          // another node was connected before; the reader's alone
	heard   atomic.Bool   // a stanza has come
	done    chan struct{} // closed when no answer will come any more
	written chan struct{} // closed when nothing more is written

	handlers sync.WaitGroup // added to by the reader's goroutine alone
	notify   sync.Mutex     // held around a change of a link's standing and its Up or Down; taken before mu

	mu       sync.Mutex
	links    map[string]*Link // by remote domain
	handling int              // requests of peers in hand
	holding  int              // octets of them
	asking   int              // requests of ours under way
	retired  bool             // takes no new requests, either way
	drained  chan struct{}    // closed when retired and nothing is under way
}

func (c *Component) newSession(conn net.Conn, in *stanzas) *session {
	s := &session{
		c: c, conn: conn, in: in, out: newQueue(c.cfg.MaxOutBytes), links: map[string]*Link{},
		node: newNode(), done: make(chan struct{}), written: make(chan struct{}), drained: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// run reads until the connection ends, or closes it in order when ctx ends.
func (s *session) run(ctx context.Context) error {
	s.conn.SetDeadline(time.Time{})
	s.c.counters.connected.Add(1)
	s.c.cfg.Log.Info("component ready", "local", s.c.cfg.Domain, "remote", s.conn.RemoteAddr().String())
	go s.write()
	s.handlers.Go(s.watch)
	closing := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closing)
		s.close()
	})
	err := s.read()
	s.retire()
	s.cancel()
	s.conn.Close() // nothing is gained from answers that nobody acknowledges
	s.out.end()
	<-s.written
	close(s.done)
	if !stop() {
		<-closing
	}
	s.endLinks()
	s.handlers.Wait()
	s.c.cfg.Log.Info("component closed", "local", s.c.cfg.Domain, "remote", s.conn.RemoteAddr().String(), "err", ending(err))
	return err
}

// close ends the stream once what is under way has been answered, each step
// within CloseTimeout.
func (s *session) close() {
	s.retire()
	await(s.drained, s.done, s.c.cfg.CloseTimeout)
	if s.out.try([]byte(streamEnd)) == nil {
		s.out.end()
		await(s.written, s.done, s.c.cfg.CloseTimeout)
	}
	// The server closes its side, which ends read.
	s.conn.SetReadDeadline(time.Now().Add(s.c.cfg.CloseTimeout))
}

func await(a, b <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-a:
	case <-b:
	case <-t.C:
	}
}

// retire makes the session take no new requests.
func (s *session) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.retired {
		s.retired = true
		s.checkDrained()
	}
}

// checkDrained is called with mu held after any of its terms has changed.
func (s *session) checkDrained() {
	if s.retired && s.handling == 0 && s.asking == 0 {
		select {
		case <-s.drained:
		default:
			close(s.drained)
		}
	}
}

// read takes in stanzas until the connection ends and says why it did.
func (s *session) read() error {
	for {
		el, err := s.in.next()
		if refused, ok := errors.AsType[*wire.Error](err); ok {
			// Whose it was cannot be told: it has no answer.
			s.c.counters.dropped.Add(1)
			s.c.cfg.Log.Warn("stanza dropped", "local", s.c.cfg.Domain, "err", refused)
			continue
		}
		if err != nil {
			return err
		}
		if el.Is(wire.StreamNS, "error") {
			return readServerError(el)
		}
		s.receive(el)
		if s.second {
			return &serverError{condition: "conflict", text: "another node is connected as this component"}
		}
	}
}

// write is the writer: it lives until the queue ends or the connection breaks.
func (s *session) write() {
	defer close(s.written)
	w := bufio.NewWriterSize(timed{s.conn, s.c.cfg.WriteTimeout}, piece)
	broken := false
	for {
		batch := s.out.take()
		if batch == nil {
			return
		}
		for _, e := range batch {
			if !broken {
				e.begun.Store(true)
				_, err := w.Write(e.b)
				broken = err != nil
			}
			e.from.Release(e.n)
		}
		if !broken {
			broken = w.Flush() != nil
		}
		if broken {
			s.conn.Close() // which ends the reader, and that ends the queue
		}
	}
}

// piece is how many octets are handed to the connection at once.
const piece = 64 << 10

// timed bounds the time of each piece that is written.
type timed struct {
	conn    net.Conn
	timeout time.Duration
}

func (t timed) Write(b []byte) (done int, err error) {
	for len(b) > 0 && err == nil {
		t.conn.SetWriteDeadline(time.Now().Add(t.timeout))
		var n int
		n, err = t.conn.Write(b[:min(len(b), piece)])
		done, b = done+n, b[n:]
	}
	return done, err
}

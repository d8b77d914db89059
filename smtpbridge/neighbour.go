package smtpbridge

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// neighbourServer serves programs beside us that ask in a protocol of their
// own: so many at a time, on local sockets and from trusted addresses only.
// All others are closed without a word: they have no business here, and what
// they would learn is whom we exchange mail with.
type neighbourServer struct {
	trusted []netip.Prefix
	max     int
	log     *slog.Logger
	serve   func(ctx context.Context, c *neighbourConn) // until the connection is of no more use; closed then

	ctx    context.Context // ends when connections must
	cancel context.CancelFunc

	connections, turnedAway atomic.Uint64

	mu        sync.Mutex
	stopping  chan struct{}
	listeners map[net.Listener]struct{}
	conns     map[*neighbourConn]struct{}
	wg        sync.WaitGroup // of conns
}

func newNeighbourServer(trusted []netip.Prefix, most int, log *slog.Logger, serve func(context.Context, *neighbourConn)) *neighbourServer {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &neighbourServer{
		trusted: trusted, max: most, log: log, serve: serve,
		stopping: make(chan struct{}), listeners: map[net.Listener]struct{}{}, conns: map[*neighbourConn]struct{}{},
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve takes connections from ln, which it closes, until Shutdown (nil) or
// until the listener fails for good.
func (s *neighbourServer) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	stopping := isClosed(s.stopping)
	if !stopping {
		s.listeners[ln] = struct{}{}
	}
	s.mu.Unlock()
	if stopping {
		return nil
	}
	return acceptFrom(ln, s.stopping, s.log, s.admit)
}

// admit starts to serve a connection, or closes it.
func (s *neighbourServer) admit(raw net.Conn) {
	s.connections.Add(1)
	c := &neighbourConn{Conn: raw}
	why := s.register(c)
	if why != "" {
		s.turnedAway.Add(1)
		s.log.Info("neighbour turned away", "remote", raw.RemoteAddr().String(), "reason", why)
		raw.Close()
		return
	}
	go func() {
		defer s.wg.Done()
		s.serve(s.ctx, c)
		raw.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
}

// register counts a connection in, or says why not.
func (s *neighbourServer) register(c *neighbourConn) (why string) {
	addr := addrPort(c.RemoteAddr()).Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case isClosed(s.stopping):
		return "service is shutting down"
	case addr.IsValid() && !within(addr, s.trusted): // who may use a local socket, its file says
		return "not trusted"
	case len(s.conns) >= s.max:
		return "too many connections"
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	return ""
}

// Shutdown stops accepting and ends connections that wait for a question. Those
// in the midst of something get until ctx ends; then they are cut off, and ctx's
// error is returned.
func (s *neighbourServer) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	if !isClosed(s.stopping) {
		close(s.stopping)
	}
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.conns {
		c.stop()
	}
	s.mu.Unlock()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
	}
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}

// neighbourConn is a connection that knows whether it may be ended at once.
type neighbourConn struct {
	net.Conn

	mu       sync.Mutex
	busy     bool
	stopping bool
}

// rest begins a wait for the neighbour of at most d, which stop ends; false:
// the service stops already.
func (c *neighbourConn) rest(d time.Duration) bool { return c.expect(d, false) }

// work begins a wait that stop leaves alone.
func (c *neighbourConn) work(d time.Duration) { c.expect(d, true) }

func (c *neighbourConn) expect(d time.Duration, busy bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = busy; c.stopping && !busy {
		return false
	}
	c.SetReadDeadline(time.Now().Add(d))
	return true
}

func (c *neighbourConn) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopping = true; !c.busy {
		c.SetReadDeadline(time.Unix(1, 0))
	}
}

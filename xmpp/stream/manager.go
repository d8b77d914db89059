package stream

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxPerPair bounds the live links of one pair of domains; beyond it the
// oldest goes. A peer's nodes and both sides dialling at once need some.
const maxPerPair = 8

// Manager holds the streams of this node.
type Manager struct {
	cfg      Config
	counters counters
	buffers  sync.Pool
	ctx      context.Context // of dials and negotiations; ends with Shutdown
	cancel   context.CancelFunc
	wg       sync.WaitGroup // added to under mu while not stopping

	notify sync.Mutex // held around a change of a pair's standing and its Up or Down; taken before mu

	mu        sync.Mutex
	routes    map[pair]*route
	listeners map[net.Listener]struct{}
	young     map[net.Conn]struct{} // connections in negotiation
	accepted  int                   // connections accepted and still open
	perAddr   map[netip.Addr]int    // of those, by remote address
	stopping  bool
}

// NewManager makes a manager; Shutdown ends it.
func NewManager(cfg Config) *Manager {
	m := &Manager{
		cfg: cfg.withDefaults(), routes: map[pair]*route{}, listeners: map[net.Listener]struct{}{},
		young: map[net.Conn]struct{}{}, perAddr: map[netip.Addr]int{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Live returns a link between the two domains (A-labels) that takes requests,
// whoever opened it, or nil. The newest is preferred: it was proven last, and
// an older one may be half dead.
func (m *Manager) Live(local, remote string) *Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live(pair{local, remote})
}

func (m *Manager) live(p pair) *Link {
	if r := m.routes[p]; r != nil {
		for _, l := range slices.Backward(r.links) {
			if l.usable() {
				return l
			}
		}
	}
	return nil
}

// adopt makes a negotiated link live and starts it.
func (m *Manager) adopt(l *Link) error {
	p := pair{l.binding.Local, l.binding.Remote}
	m.notify.Lock()
	defer m.notify.Unlock()
	m.mu.Lock()
	if m.stopping {
		m.mu.Unlock()
		return ErrShutdown
	}
	delete(m.young, l.conn.NetConn())
	l.ctx, l.cancel = context.WithCancel(context.Background())
	r := m.route(p)
	r.links = append(r.links, l)
	r.failures, r.notBefore, r.lastErr = 0, time.Time{}, nil
	if r.dial != nil {
		r.dial.finish(l, nil)
		r.dial = nil
	}
	first := len(r.links) == 1
	var oldest *Link
	if len(r.links) > maxPerPair {
		oldest = r.links[0]
	}
	m.wg.Add(1)
	m.mu.Unlock()
	m.counters.ready.Add(1)
	m.cfg.Log.Info("stream ready", "peer", p.remote, "local", p.local, "dir", direction(l.inbound),
		"remote", l.binding.Addr, "tls", l.binding.TLS)
	if oldest != nil {
		oldest.Close("conflict") // RFC 6120 section 4.9.3.3
	}
	if first && m.cfg.Up != nil {
		m.cfg.Up(p.local, p.remote)
	}
	l.watch()
	go func() {
		defer m.wg.Done()
		l.run()
		if l.inbound {
			m.leave(l.conn.NetConn())
		}
	}()
	return nil
}

// drop takes a link out of use. It may be called more than once.
func (m *Manager) drop(l *Link) {
	p := pair{l.binding.Local, l.binding.Remote}
	m.notify.Lock()
	defer m.notify.Unlock()
	m.mu.Lock()
	r, i := m.routes[p], -1
	if r != nil {
		i = slices.Index(r.links, l)
	}
	if i >= 0 {
		r.links = slices.Delete(r.links, i, i+1)
	}
	last := i >= 0 && len(r.links) == 0
	if last && r.idle(time.Now()) {
		delete(m.routes, p)
	}
	m.mu.Unlock()
	if last && m.cfg.Down != nil {
		m.cfg.Down(p.local, p.remote)
	}
}

// Shutdown ends listening, negotiations and dials, closes all links in order,
// and waits for that until ctx ends; then it cuts what is left. Handlers are
// waited for: their context ends with their link.
func (m *Manager) Shutdown(ctx context.Context) {
	m.mu.Lock()
	m.stopping = true
	m.cancel()
	for ln := range m.listeners {
		ln.Close()
	}
	for conn := range m.young {
		conn.Close()
	}
	links := m.all()
	m.mu.Unlock()
	for _, l := range links {
		l.Close("")
	}
	for _, l := range links {
		select {
		case <-l.done:
		case <-ctx.Done():
			l.kill(ErrClosed)
		}
	}
	m.wg.Wait()
}

// all returns every link in use; mu is held.
func (m *Manager) all() (links []*Link) {
	for _, r := range m.routes {
		links = append(links, r.links...)
	}
	return links
}

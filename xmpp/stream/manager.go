package stream

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"mailxmppd/xmpp/wire"
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
	questions map[question]chan<- *wire.Element // of ask, each channel with room for its answer
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
		young: map[net.Conn]struct{}{}, questions: map[question]chan<- *wire.Element{}, perAddr: map[netip.Addr]int{},
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Live returns a link between the two domains (A-labels) that takes requests,
// whoever opened it, or nil.
func (m *Manager) Live(local, remote string) *Link {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live(pair{local, remote})
}

func (m *Manager) live(p pair) *Link {
	if r := m.routes[p]; r != nil {
		return r.pick(false)
	}
	return nil
}

// adopt makes a negotiated link live and starts it.
func (m *Manager) adopt(l *Link) error {
	p := l.pair()
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
	group := r.group(l.way)
	others := slices.Clone(*group)
	first := l.way == bothWays && len(others) == 0
	*group = append(*group, l)
	if l.way == bothWays {
		r.found(l)
	}
	m.wg.Add(1)
	m.mu.Unlock()
	m.counters.ready.Add(1)
	m.cfg.Log.Info("stream ready", "peer", p.remote, "local", p.local, "dir", direction(l.inbound),
		"remote", l.binding.Addr, "proof", l.binding.Proof, "tls", l.binding.TLS, "stanzas", l.way.String())
	if len(others) >= maxPerPair {
		others[0].Close("conflict") // RFC 6120 section 4.9.3.3
		others = others[1:]
	}
	if l.way == bothWays && l.inbound {
		for _, old := range others {
			old.ping() // which tells those that a crash of the peer has left
		}
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
	p := l.pair()
	m.notify.Lock()
	defer m.notify.Unlock()
	m.mu.Lock()
	r, i := m.routes[p], -1
	last := false
	if r != nil {
		group := r.group(l.way)
		if i = slices.Index(*group, l); i >= 0 {
			*group = slices.Delete(*group, i, i+1)
		}
		last = i >= 0 && l.way == bothWays && len(*group) == 0
		if r.idle(time.Now()) {
			delete(m.routes, p)
		}
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
			l.kill()
		}
	}
	m.wg.Wait()
}

// all returns every link in use; mu is held.
func (m *Manager) all() (links []*Link) {
	for _, r := range m.routes {
		links = slices.Concat(links, r.links, r.inward, r.outward)
	}
	return links
}

package faults

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands before a server, cuts its connections on request, delays what
// goes through it, or swallows it.
type proxy struct {
	addr   string
	target string
	delay  time.Duration // each way
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	hole  bool   // what connects now is swallowed
	pairs []*way // those that go through
}

// way is a connection through the proxy.
type way struct {
	in, out net.Conn
	lost    atomic.Bool // nothing that comes is passed on
}

func newProxy(t *testing.T, target string, delay time.Duration) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{addr: ln.Addr().String(), target: target, delay: delay, ln: ln, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		ln.Close()
		p.cut()
		p.wg.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		in, err := p.ln.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", p.target)
		if err != nil {
			in.Close()
			continue
		}
		w := &way{in: in, out: out}
		p.mu.Lock()
		w.lost.Store(p.hole)
		p.conns[in], p.conns[out], p.pairs = true, true, append(p.pairs, w)
		p.mu.Unlock()
		p.wg.Go(func() { p.pipe(in, out, &w.lost) })
		p.wg.Go(func() { p.pipe(out, in, &w.lost) })
	}
}

// swallow has all that is sent vanish, both ways, on the connections there are
// and on new ones, while all of them stay open and the system confirms what it
// was given: no keep-alive finds out.
func (p *proxy) swallow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = true
	for _, w := range p.pairs {
		w.lost.Store(true)
	}
}

// heal lets new connections through. Those from before are forgotten, as by a
// firewall that was started anew: the server has found out, the client hears
// nothing more. It says how many the server had.
func (p *proxy) heal() (forgotten int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hole = false
	for _, w := range p.pairs {
		if w.lost.Load() && p.conns[w.out] {
			w.out.Close()
			forgotten++
		}
	}
	return forgotten
}

// cut ends all connections with a reset, whatever is under way on them, and
// says how many.
func (p *proxy) cut() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.Close()
	}
	return len(p.conns)
}

// parcel is what was read at once.
type parcel struct {
	octets []byte
	due    time.Time
}

// pipe copies one way. What is under way is bounded by the channel. The end of
// a lost connection is swallowed as well.
func (p *proxy) pipe(from, to net.Conn, lost *atomic.Bool) {
	parcels := make(chan parcel, 1024)
	p.wg.Go(func() {
		for c := range parcels {
			time.Sleep(time.Until(c.due))
			if lost.Load() {
				continue
			}
			if _, err := to.Write(c.octets); err != nil {
				from.Close() // the reader ends, and so does the channel
			}
		}
		if !lost.Load() {
			p.end(to)
		}
	})
	for {
		buf := make([]byte, 32<<10)
		n, err := from.Read(buf)
		if n > 0 {
			parcels <- parcel{buf[:n], time.Now().Add(p.delay)}
		}
		if err != nil {
			break
		}
	}
	close(parcels)
	p.end(from)
}

func (p *proxy) end(c net.Conn) {
	c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

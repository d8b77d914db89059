package resume

import (
	"net"
	"sync"
	"testing"
)

// proxy stands between two gateways and cuts their connections when so many
// octets have gone one way. It sees ciphertext, so a cut falls anywhere.
type proxy struct {
	addr   string
	target string
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
	sent  int // octets towards the target, since the last arm
	cut   int // at so many; 0: never
	cuts  int
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), target: target, ln: ln, conns: map[net.Conn]bool{}}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		ln.Close()
		p.closeAll()
		p.wg.Wait()
	})
	return p
}

// arm cuts once more, after octets towards the target; 0 only counts.
func (p *proxy) arm(octets int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent, p.cut, p.cuts = 0, octets, 0
}

// passed tells how many octets went to the target since arm, and how often it
// has cut.
func (p *proxy) passed() (octets, cuts int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent, p.cuts
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
		p.mu.Lock()
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.pipe(in, out, true) })
		p.wg.Go(func() { p.pipe(out, in, false) })
	}
}

func (p *proxy) pipe(from, to net.Conn, forth bool) {
	defer func() {
		from.Close()
		to.Close()
		p.mu.Lock()
		delete(p.conns, from)
		delete(p.conns, to)
		p.mu.Unlock()
	}()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		if forth && p.count(n) {
			p.closeAll()
			return
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// count reports whether the cut is due now.
func (p *proxy) count(n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += n
	if p.cut == 0 || p.sent < p.cut {
		return false
	}
	p.cut = 0
	p.cuts++
	return true
}

func (p *proxy) closeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

package faults

import (
	"net"
	"sync"
	"testing"
	"time"
)

// proxy stands before a server, cuts its connections on request and delays what
// goes through it.
type proxy struct {
	addr   string
	target string
	delay  time.Duration // each way
	ln     net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
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
		p.mu.Lock()
		p.conns[in], p.conns[out] = true, true
		p.mu.Unlock()
		p.wg.Go(func() { p.pipe(in, out) })
		p.wg.Go(func() { p.pipe(out, in) })
	}
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

// pipe copies one way. What is under way is bounded by the channel.
func (p *proxy) pipe(from, to net.Conn) {
	parcels := make(chan parcel, 1024)
	p.wg.Go(func() {
		for c := range parcels {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.octets); err != nil {
				from.Close() // the reader ends, and so does the channel
			}
		}
		p.end(to)
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

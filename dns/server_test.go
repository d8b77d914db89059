package dns

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testServer answers on one loopback port over UDP and TCP.
type testServer struct {
	addr string
	udp  atomic.Int32 // queries seen
	tcp  atomic.Int32
}

type handler func(w mdns.ResponseWriter, q *mdns.Msg)

func startServer(t *testing.T, handle handler) *testServer {
	t.Helper()
	pc, ln := listenBoth(t)
	s := &testServer{addr: pc.LocalAddr().String()}
	serve := func(srv *mdns.Server, count *atomic.Int32) {
		var up sync.WaitGroup
		up.Add(1)
		srv.NotifyStartedFunc = up.Done
		srv.Handler = mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
			count.Add(1)
			handle(w, q)
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			srv.ActivateAndServe()
		}()
		up.Wait()
		t.Cleanup(func() {
			srv.Shutdown()
			<-done
		})
	}
	serve(&mdns.Server{PacketConn: pc}, &s.udp)
	serve(&mdns.Server{Listener: ln}, &s.tcp)
	return s
}

// listenBoth finds a port that is free for both protocols.
func listenBoth(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 20 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return pc, ln
		}
		pc.Close()
	}
	t.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

func newResolver(t *testing.T, servers ...string) *Resolver {
	t.Helper()
	r, err := New(servers, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func overTCP(w mdns.ResponseWriter) bool { return w.RemoteAddr().Network() == "tcp" }

func rr(t *testing.T, s string) mdns.RR {
	t.Helper()
	r, err := mdns.NewRR(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// zone answers from records in presentation form; names it does not hold get
// NXDOMAIN, types it does not hold an empty answer, both with an SOA.
func zone(t *testing.T, records ...string) handler {
	var rrs []mdns.RR
	for _, s := range records {
		rrs = append(rrs, rr(t, s))
	}
	soa := rr(t, "example. 60 IN SOA ns.example. host.example. 1 2 3 4 60")
	return func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg)
		m.SetReply(q)
		known := false
		name := mdns.CanonicalName(q.Question[0].Name)
		for range 5 {
			for _, r := range rrs {
				if mdns.CanonicalName(r.Header().Name) != name {
					continue
				}
				known = true
				if c, ok := r.(*mdns.CNAME); ok {
					m.Answer = append(m.Answer, r)
					name = mdns.CanonicalName(c.Target)
					break
				}
				if r.Header().Rrtype == q.Question[0].Qtype {
					m.Answer = append(m.Answer, r)
				}
			}
		}
		m.Answer = mdns.Dedup(m.Answer, nil)
		if len(m.Answer) == 0 {
			m.Ns = []mdns.RR{soa}
		}
		if !known {
			m.Rcode = mdns.RcodeNameError
		}
		w.WriteMsg(m)
	}
}

func background(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

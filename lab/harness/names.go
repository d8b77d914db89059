package harness

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Names is a name server on a loopback port for the servers of the lab. It
// knows nothing but its records: all else does not exist.
type Names struct {
	Addr    string
	servers []*dns.Server
	running sync.WaitGroup

	mu      sync.RWMutex
	records []dns.RR
}

// NewNames starts a name server with records in the form of a zone file, the
// owners absolute.
func NewNames(records ...string) (*Names, error) {
	n := &Names{}
	if err := n.Add(records...); err != nil {
		return nil, err
	}
	udp, tcp, err := samePort()
	if err != nil {
		return nil, err
	}
	n.Addr = udp.LocalAddr().String()
	n.servers = []*dns.Server{{PacketConn: udp, Handler: n}, {Listener: tcp, Handler: n}}
	for _, s := range n.servers {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		n.running.Go(func() { s.ActivateAndServe() })
		<-up
	}
	return n, nil
}

// samePort finds a port that is free for UDP and TCP.
func samePort() (net.PacketConn, net.Listener, error) {
	var failed error
	for range 20 {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String())
		if err == nil {
			return udp, tcp, nil
		}
		failed = errors.Join(failed, err, udp.Close())
	}
	return nil, nil, failed
}

// Add takes further records.
func (n *Names) Add(records ...string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range records {
		rr, err := dns.NewRR(r)
		if err != nil {
			return fmt.Errorf("record %q: %w", r, err)
		}
		n.records = append(n.records, rr)
	}
	return nil
}

// ServeDNS answers one question.
func (n *Names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.Rcode = true, dns.RcodeNameError
	n.mu.RLock()
	for _, rr := range n.records {
		if len(q.Question) != 1 || !strings.EqualFold(rr.Header().Name, q.Question[0].Name) {
			continue
		}
		m.Rcode = dns.RcodeSuccess
		if rr.Header().Rrtype == q.Question[0].Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	n.mu.RUnlock()
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
	}
	w.WriteMsg(m)
}

// Close ends it.
func (n *Names) Close() error {
	var failed error
	for _, s := range n.servers {
		failed = errors.Join(failed, s.Shutdown())
	}
	n.running.Wait()
	return failed
}

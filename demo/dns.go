package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// zone is the one zone that the demo's DNS knows.
const zone = "example."

// nameServer answers for everything under zone, over UDP and TCP on one
// loopback port, and refuses the rest: the demo knows nothing about the world.
// Records are added before or while it serves.
type nameServer struct {
	addr string
	udp  *dns.Server
	tcp  *dns.Server
	done sync.WaitGroup

	mu      sync.RWMutex
	records map[string][]dns.RR // by lower-case owner name
}

func startNameServer() (*nameServer, error) {
	ln, pc, err := listen(true)
	if err != nil {
		return nil, fmt.Errorf("dns: %w", err)
	}
	s := &nameServer{addr: ln.Addr().String(), records: map[string][]dns.RR{}}
	s.udp = &dns.Server{PacketConn: pc, Handler: s}
	s.tcp = &dns.Server{Listener: ln, Handler: s}
	for _, server := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		s.done.Go(func() { server.ActivateAndServe() })
		<-started
	}
	return s, nil
}

// add takes records in the form of a zone file, owner names absolute.
func (s *nameServer) add(lines ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			return fmt.Errorf("dns record %q: %w", line, err)
		}
		owner := strings.ToLower(rr.Header().Name)
		s.records[owner] = append(s.records[owner], rr)
	}
	return nil
}

// addPeer makes domain known as one that takes mail over XMPP at addr (xep-draft
// section 4: SRV _xmpps-mail).
func (s *nameServer) addPeer(domain, addr string) error {
	return s.add(
		fmt.Sprintf("_xmpps-mail._tcp.%s. 60 IN SRV 0 0 %d gateway.%s.", domain, portOf(addr), domain),
		fmt.Sprintf("gateway.%s. 60 IN A 127.0.0.1", domain),
	)
}

// addLegacy makes domain known as one that takes mail by SMTP alone.
func (s *nameServer) addLegacy(domain string) error {
	return s.add(
		fmt.Sprintf("%s. 60 IN MX 10 mx.%s.", domain, domain),
		fmt.Sprintf("mx.%s. 60 IN A 127.0.0.1", domain),
	)
}

// ServeDNS answers one question (RFC 1035, with RFC 2308's negative answers).
func (s *nameServer) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	switch {
	case q.Opcode != dns.OpcodeQuery:
		m.Rcode = dns.RcodeNotImplemented
	case len(q.Question) != 1 || q.Question[0].Qclass != dns.ClassINET:
		m.Rcode = dns.RcodeFormatError
	default:
		m.RecursionAvailable = true
		s.answer(m, q.Question[0])
	}
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, opt.Do())
		size = max(size, int(opt.UDPSize()))
	}
	if _, overTCP := w.RemoteAddr().(*net.TCPAddr); overTCP {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	w.WriteMsg(m)
}

func (s *nameServer) answer(m *dns.Msg, q dns.Question) {
	name := strings.ToLower(q.Name)
	if !dns.IsSubDomain(zone, name) {
		m.Rcode = dns.RcodeRefused
		return
	}
	m.Authoritative = true
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, rr := range s.records[name] {
		if rr.Header().Rrtype == q.Qtype {
			m.Answer = append(m.Answer, rr)
		}
	}
	if len(m.Answer) > 0 {
		return
	}
	if !s.exists(name) {
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = []dns.RR{&dns.SOA{
		Hdr:     dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 1},
		Ns:      "ns." + zone,
		Mbox:    "hostmaster." + zone,
		Serial:  1,
		Refresh: 60, Retry: 60, Expire: 60, Minttl: 1,
	}}
}

// exists reports whether name owns records or stands above a name that does
// (an empty non-terminal, RFC 8020).
func (s *nameServer) exists(name string) bool {
	for owner := range s.records {
		if dns.IsSubDomain(name, owner) {
			return true
		}
	}
	return false
}

// lookupTXT asks this server over the network, as any verifier of a DKIM
// signature would.
func (s *nameServer) lookupTXT(ctx context.Context, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), dns.TypeTXT)
	answer, _, err := (&dns.Client{Net: "tcp"}).ExchangeContext(ctx, q, s.addr)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok {
			out = append(out, strings.Join(txt.Txt, ""))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no TXT record at %s", name)
	}
	return out, nil
}

func (s *nameServer) close() error {
	err := errors.Join(s.udp.Shutdown(), s.tcp.Shutdown())
	s.done.Wait()
	return err
}

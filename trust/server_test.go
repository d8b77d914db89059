package trust

import (
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"

	"mailxmppd/dns"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a DNS server on loopback. Records are in presentation form by
// owner; an owner with the word "SERVFAIL" fails, one with "SILENT" does not
// answer, one with "GARBAGE" answers octets that are no DNS.
type script struct {
	addr    string
	queries atomic.Int32
	mu      sync.Mutex
	special map[string]string
	records map[string][]mdns.RR
}

func startDNS(t testing.TB, lines ...string) *script {
	t.Helper()
	s := &script{special: map[string]string{}, records: map[string][]mdns.RR{}}
	s.add(t, lines...)
	pc, ln := listenBoth(t)
	s.addr = pc.LocalAddr().String()
	for _, srv := range []*mdns.Server{{PacketConn: pc}, {Listener: ln}} {
		srv.Handler = mdns.HandlerFunc(s.answer)
		up, done := make(chan struct{}), make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		go func() {
			defer close(done)
			srv.ActivateAndServe()
		}()
		<-up
		t.Cleanup(func() {
			srv.Shutdown()
			<-done
		})
	}
	return s
}

// listenBoth finds a port that is free for both protocols.
func listenBoth(t testing.TB) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
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

func (s *script) add(t testing.TB, lines ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, line := range lines {
		if owner, how, ok := strings.Cut(line, " "); ok && (how == "SERVFAIL" || how == "SILENT" || how == "GARBAGE") {
			s.special[mdns.Fqdn(owner)] = how
			continue
		}
		rr, err := mdns.NewRR(line)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		name := mdns.CanonicalName(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
}

func (s *script) answer(w mdns.ResponseWriter, q *mdns.Msg) {
	s.queries.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	m := new(mdns.Msg)
	m.SetReply(q)
	name := mdns.CanonicalName(q.Question[0].Name)
	how := s.special[name]
	if how == "" {
		how = s.special["."]
	}
	switch how {
	case "SILENT":
		return
	case "GARBAGE":
		w.Write([]byte("\x00\x01garbage that is no DNS message at all"))
		return
	case "SERVFAIL":
		m.Rcode = mdns.RcodeServerFailure
		w.WriteMsg(m)
		return
	}
	known := false
	for range 20 {
		next := ""
		for _, rr := range s.records[name] {
			known = true
			if c, ok := rr.(*mdns.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				next = mdns.CanonicalName(c.Target)
			} else if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		if name = next; name == "" {
			break
		}
	}
	for owner := range s.records {
		known = known || strings.HasSuffix(owner, "."+mdns.CanonicalName(q.Question[0].Name))
	}
	if !known {
		m.Rcode = mdns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		soa, _ := mdns.NewRR("example. 60 IN SOA ns.example. host.example. 1 2 3 4 60")
		m.Ns = []mdns.RR{soa}
	}
	if w.RemoteAddr().Network() == "udp" {
		m.Truncate(1232)
	}
	w.WriteMsg(m)
}

func (s *script) resolver(t testing.TB) *dns.Resolver {
	t.Helper()
	r, err := dns.New([]string{s.addr}, 500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// txt makes a TXT record of any length.
func txt(owner, text string) string {
	var b strings.Builder
	b.WriteString(owner + ". 60 IN TXT")
	for len(text) > 0 {
		n := min(len(text), 255)
		b.WriteString(` "` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, ";", `\;`).Replace(text[:n]) + `"`)
		text = text[n:]
	}
	return b.String()
}

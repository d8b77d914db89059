package peers

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"mailxmppd/dns"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
	"mailxmppd/xmpp/wire"
)

// zone is a DNS server on loopback. What it does not hold does not exist.
type zone struct {
	addr string

	mu      sync.Mutex
	records map[string][]string // by "name TYPE", data in presentation form
	how     map[string]string   // by domain, for all that is not in records: signed, servfail, silent
}

func startZone(t *testing.T) *zone {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{addr: pc.LocalAddr().String(), records: map[string][]string{}, how: map[string]string{}}
	started, done := make(chan struct{}), make(chan struct{})
	srv := &mdns.Server{PacketConn: pc, Handler: z, NotifyStartedFunc: func() { close(started) }}
	go func() {
		defer close(done)
		srv.ActivateAndServe()
	}()
	<-started
	t.Cleanup(func() {
		srv.Shutdown()
		<-done
	})
	return z
}

func (z *zone) ServeDNS(w mdns.ResponseWriter, q *mdns.Msg) {
	name, qtype := q.Question[0].Name, mdns.TypeToString[q.Question[0].Qtype]
	z.mu.Lock()
	records := z.records[name+" "+qtype]
	how := ""
	for domain, h := range z.how {
		if strings.HasSuffix(name, domain+".") {
			how = h
		}
	}
	z.mu.Unlock()
	m := new(mdns.Msg).SetReply(q)
	for _, r := range records {
		rr, err := mdns.NewRR(name + " 60 IN " + qtype + " " + r)
		if err != nil {
			panic(err) // of the test's own making
		}
		m.Answer = append(m.Answer, rr)
	}
	switch {
	case len(records) > 0:
	case how == "silent":
		return
	case how == "servfail":
		m.Rcode = mdns.RcodeServerFailure
	default:
		m.Rcode, m.AuthenticatedData = mdns.RcodeNameError, how == "signed"
	}
	w.WriteMsg(m)
}

// serve announces an address under a service of a domain.
func (z *zone) serve(service, domain, address string) {
	_, port, _ := net.SplitHostPort(address)
	z.set(service+domain+". SRV", "0 0 "+port+" host."+domain+".")
	z.set("host."+domain+". A", "127.0.0.1")
}

func (z *zone) set(key string, records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[key] = records
}

func (z *zone) fail(domain, how string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.how[domain] = how
}

func (z *zone) resolver(t *testing.T) *dns.Resolver {
	t.Helper()
	r, err := dns.New([]string{z.addr}, 500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// certificates issues for whatever domain is asked for.
type certificates struct {
	t      *testing.T
	ca     *authority
	mu     sync.Mutex
	issued map[string]*tls.Certificate
}

func newCertificates(t *testing.T, ca *authority) *certificates {
	return &certificates{t: t, ca: ca, issued: map[string]*tls.Certificate{}}
}

func (c *certificates) of(domain string) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.issued[domain] == nil {
		c.issued[domain] = c.ca.issue(c.t, domain)
	}
	return c.issued[domain], nil
}

func rootsOf(ca *authority) *x509.CertPool {
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	return roots
}

// startManager starts a real server that speaks for every domain.
func startManager(t *testing.T, cfg stream.Config) (address string) {
	t.Helper()
	cfg.CloseTimeout = time.Second
	m := stream.NewManager(cfg)
	ln := listen(t)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Serve(ctx, ln)
	}()
	t.Cleanup(func() {
		stop()
		m.Shutdown(context.Background())
		<-done
	})
	return ln.Addr().String()
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// startServer serves connections, each in a goroutine of its own, until the
// test ends.
func startServer(t *testing.T, serve func(net.Conn)) (address string) {
	t.Helper()
	ln := listen(t)
	var mu sync.Mutex
	var open []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

// chatServer is an ordinary server, as others write them: it shows features
// and lets in whom it offers EXTERNAL to, but has nothing more to say.
func chatServer(certs *certificates, features string) func(net.Conn) {
	return answeringServer(certs, features, func(*wire.Element) string { return "" })
}

// listingServer is a chat server with bidirectional streams that takes no mail
// itself and has items.
func listingServer(certs *certificates, items func(domain string) []string) func(net.Conn) {
	return answeringServer(certs, external+"<bidi xmlns='urn:xmpp:features:bidi'/>", func(query *wire.Element) string {
		domain := query.Attr("to")
		switch q := query.Children[0]; {
		case q.Name.Local != "query":
			return ""
		case strings.HasSuffix(q.Name.Space, "#info"):
			return without
		default:
			var b strings.Builder
			b.WriteString("<query xmlns='http://jabber.org/protocol/disco#items'>")
			for _, item := range items(domain) {
				b.WriteString("<item jid='" + item + "'/>")
			}
			return b.String() + "</query>"
		}
	})
}

// answeringServer is a chatServer that answers the requests of those who are
// let in.
func answeringServer(certs *certificates, features string, answer func(iq *wire.Element) string) func(net.Conn) {
	return func(raw net.Conn) {
		raw.SetDeadline(time.Now().Add(time.Minute))
		c := tls.Server(raw, &tls.Config{
			ClientAuth:     tls.RequestClientCert,
			GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return certs.of(h.ServerName) },
		})
		p := wire.NewParser(c, wire.Default())
		open := func(features string) bool {
			h, err := p.Header()
			if err != nil {
				return false
			}
			io.WriteString(c, "<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'"+
				" xmlns:db='jabber:server:dialback' version='1.0' id='s1' from='"+h.To+"' to='"+h.From+"'>"+
				"<stream:features>"+features+"</stream:features>")
			return true
		}
		if !open(features) {
			return
		}
		for {
			el, err := p.Next()
			if err != nil {
				return
			}
			if el.Name.Local == "auth" {
				p.Reset(c)
				io.WriteString(c, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>")
				if !open("") {
					return
				}
			}
			if el.Name.Local == "iq" && len(el.Children) == 1 {
				if payload := answer(el); payload != "" {
					io.WriteString(c, "<iq type='result' id='"+el.Attr("id")+"' from='"+el.Attr("to")+"' to='"+el.Attr("from")+"'>"+payload+"</iq>")
				}
			}
		}
	}
}

const (
	external = "<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><mechanism>EXTERNAL</mechanism></mechanisms>"
	dialback = "<dialback xmlns='urn:xmpp:features:dialback'/>"
)

// servers is one of each kind that a domain may have at its SRV target, by
// address.
type servers struct{ taking, other, refusing, without, dialback, oneway, silent, nobody, listing string }

func startServers(t *testing.T, ca *authority) servers {
	certs, strangers := newCertificates(t, ca), newCertificates(t, newAuthority(t))
	disco := func(local, _ string) []byte {
		c := transfer.Announced()
		if domain, service := strings.CutPrefix(local, "mail."); service {
			c.Serves = []string{domain}
		}
		info, err := c.DiscoInfo()
		if err != nil {
			t.Error(err)
		}
		return info
	}
	roots := rootsOf(ca)
	nobody := listen(t)
	nobody.Close()
	return servers{
		taking:   startManager(t, stream.Config{Certificate: certs.of, Roots: roots, DiscoInfo: disco}),
		other:    startManager(t, stream.Config{Certificate: strangers.of, Roots: roots, DiscoInfo: disco}),
		refusing: startManager(t, stream.Config{Certificate: certs.of, Roots: roots, DiscoInfo: disco, Allow: func(string) bool { return false }}),
		without:  startManager(t, stream.Config{Certificate: certs.of, Roots: roots}),
		dialback: startServer(t, chatServer(certs, dialback)),
		oneway:   startServer(t, chatServer(certs, external+dialback)),
		silent:   startServer(t, func(c net.Conn) { io.Copy(io.Discard, c) }),
		nobody:   nobody.Addr().String(),
		listing: startServer(t, listingServer(certs, func(domain string) []string {
			return []string{"conference." + domain, "mail." + domain}
		})),
	}
}

package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/dns"
	"mailxmppd/xmpp/component"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// Our domains: the chat servers find one by SRV for direct TLS, the other by
// SRV for STARTTLS.
const (
	directDomain = "direct.example"
	clearDomain  = "clear.example"
)

// streams starts a manager that serves domains, with a listener for each way
// to TLS, and returns it with their ports.
func (s *site) streams(t *testing.T, change func(*stream.Config), domains ...string) (m *stream.Manager, direct, clear int) {
	t.Helper()
	certs := map[string]*tls.Certificate{}
	for _, d := range domains {
		certFile, keyFile := s.cert(t, d)
		cert, err := tls.LoadX509KeyPair(certFile, keyFile)
		must(t, err)
		certs[d] = &cert
	}
	cfg := stream.Config{
		Certificate: func(domain string) (*tls.Certificate, error) {
			if c := certs[domain]; c != nil {
				return c, nil
			}
			return nil, fmt.Errorf("%s is not ours", domain)
		},
		Roots: s.roots(t), Log: testLog(t), Version: "lab",
		DiscoInfo: func(string, string) []byte { return []byte("<identity category='gateway' type='smtp'/>") },
		BackOff:   20 * time.Millisecond, CloseTimeout: 2 * time.Second, RequestTimeout: patience, NegotiateTimeout: patience,
		Targets: func(ctx context.Context, _, remote string) ([]stream.Target, error) {
			return s.find(ctx, remote)
		},
		Lookup: func(context.Context, string) ([]netip.Addr, error) { return nil, fmt.Errorf("no redirects here") },
	}
	if change != nil {
		change(&cfg)
	}
	m = stream.NewManager(cfg)
	served := make(chan error, 2)
	a, b := listen(t), listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { served <- m.Serve(ctx, a) }()
	go func() { served <- m.ServeStartTLS(ctx, b) }()
	t.Cleanup(func() {
		cancel()
		ending, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		m.Shutdown(ending)
		for range 2 {
			if err := <-served; err != nil {
				t.Error("serve:", err)
			}
		}
	})
	return m, portOf(a), portOf(b)
}

// find asks DNS where a chat server takes streams.
func (s *site) find(ctx context.Context, domain string) (targets []stream.Target, err error) {
	resolver, err := dns.New([]string{s.names.Addr}, patience)
	if err != nil {
		return nil, err
	}
	answer := resolver.SRV(ctx, "_xmpp-server._tcp."+domain)
	for _, r := range answer.Records {
		ip := strings.TrimSuffix(r.Target, ".") // see host
		targets = append(targets, stream.Target{Host: r.Target, Port: r.Port, Addr: fmt.Sprintf("%s:%d", ip, r.Port), StartTLS: true})
	}
	return targets, answer.Err
}

// ours starts streams for both of our domains and makes them known.
func (s *site) ours(t *testing.T, change func(*stream.Config)) *stream.Manager {
	t.Helper()
	m, direct, clear := s.streams(t, change, directDomain, clearDomain)
	host := s.host(t, "127.0.0.1")
	must(t, s.names.Add(
		fmt.Sprintf("_xmpps-server._tcp.%s. 60 IN SRV 0 0 %d %s", directDomain, direct, host),
		fmt.Sprintf("_xmpp-server._tcp.%s. 60 IN SRV 0 0 %d %s", clearDomain, clear, host),
	))
	return m
}

func (s *site) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	pem, err := os.ReadFile(s.ca.File)
	must(t, err)
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no authority in its file")
	}
	return pool
}

// patience bounds every wait; nothing depends on how long it is.
const patience = 20 * time.Second

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	return ln
}

func portOf(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// targets are where a chat server takes streams.
func (c *chatServer) targets(way string) []stream.Target {
	if way == "direct" {
		return []stream.Target{{Host: c.domain, Port: 5270, Addr: c.direct}}
	}
	return []stream.Target{{Host: c.domain, Port: 5269, Addr: c.starttls, StartTLS: true}}
}

// connect runs a component of a chat server.
func (c *chatServer) connect(t *testing.T, domain string, change func(*component.Config)) *component.Component {
	t.Helper()
	comp, _ := c.join(t, domain, change)
	return comp
}

// join is connect with a way to end it early.
func (c *chatServer) join(t *testing.T, domain string, change func(*component.Config)) (comp *component.Component, leave func()) {
	t.Helper()
	cfg := component.Config{
		Domain: domain, Address: c.component, Secret: secret, AssertAuthenticated: true,
		BackOff: 20 * time.Millisecond, RefusedBackOff: 20 * time.Millisecond, CloseTimeout: 2 * time.Second, RequestTimeout: patience,
		Log: testLog(t),
	}
	if change != nil {
		change(&cfg)
	}
	comp, err := component.New(cfg)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- comp.Run(ctx) }()
	leave = sync.OnceFunc(func() {
		cancel()
		must(t, <-ended)
	})
	t.Cleanup(leave)
	return comp, leave
}

// ask sends a request from a component to a domain and wants a result.
func ask(t *testing.T, c *component.Component, to, payload string) *wire.Element {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	l, err := c.Link(ctx, c.Domain(), to)
	must(t, err)
	el, err := l.Request(ctx, "get", []byte(payload))
	must(t, err)
	return el
}

const (
	ping  = "<ping xmlns='urn:xmpp:ping'/>"
	disco = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
)

// eventually polls a condition that nothing announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

// testLog shows what the parts log if the test fails.
func testLog(t *testing.T) *slog.Logger {
	var b lockedBuffer
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("our log:\n%s", b.String())
		}
	})
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func hasFeature(el *wire.Element, name string) bool {
	for _, c := range el.Children {
		if c.Name.Local == "feature" && c.Attr("var") == name {
			return true
		}
	}
	return false
}

func identities(el *wire.Element) string {
	var all []string
	for _, c := range el.Children {
		if c.Name.Local == "identity" {
			all = append(all, c.Attr("category")+"/"+c.Attr("type"))
		}
	}
	return strings.Join(all, " ")
}

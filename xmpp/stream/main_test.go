package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/xmpp/wire"
)

// rowBound is what one row of the tables of hostile peers may allocate in all:
// both sides with TLS and certificates, and the attack itself.
const rowBound = 6 << 20

// bounded holds what runs until the function that it returns to rowBound. Its
// time is bounded by the deadline of the connection that it plays on (newRawPeer,
// rawServer), which fails the row.
func bounded(t *testing.T) func() {
	t.Helper()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	return func() {
		var after runtime.MemStats
		runtime.ReadMemStats(&after)
		if grew := after.TotalAlloc - before.TotalAlloc; grew > rowBound {
			t.Errorf("%d octets were allocated", grew)
		}
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a manager with its listener.
type node struct {
	*Manager
	addr  string // for direct TLS
	clear string // for STARTTLS
	lock  sync.Mutex
	logs  []string // of Up and Down
}

// startNode serves the domains of the certificates. Its times are short, so
// that what waits for them is quick, but long enough for a busy machine.
func startNode(t testing.TB, ca *authority, certs map[string]*tls.Certificate, change ...func(*Config)) *node {
	n := &node{}
	cfg := Config{
		Certificate: func(domain string) (*tls.Certificate, error) {
			if c := certs[domain]; c != nil {
				return c, nil
			}
			return nil, errors.New("not our domain")
		},
		Roots:            ca.pool(),
		NegotiateTimeout: 10 * time.Second, RequestTimeout: 10 * time.Second, CloseTimeout: 2 * time.Second,
		BackOff: 20 * time.Millisecond,
		Up:      func(local, remote string) { n.log("up " + local + " " + remote) },
		Down:    func(local, remote string) { n.log("down " + local + " " + remote) },
		Handle:  echo,
	}
	for _, f := range change {
		f(&cfg)
	}
	n.Manager = NewManager(cfg)
	served := make(chan error, 2)
	direct, clear := listen(t), listen(t)
	n.addr, n.clear = direct.Addr().String(), clear.Addr().String()
	go func() { served <- n.Serve(t.Context(), direct) }()
	go func() { served <- n.ServeStartTLS(t.Context(), clear) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		n.Shutdown(ctx)
		for range 2 {
			if err := <-served; err != nil && err != ErrShutdown {
				t.Error("serve:", err)
			}
		}
	})
	return n
}

func listen(t testing.TB) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func (n *node) log(s string) {
	n.lock.Lock()
	defer n.lock.Unlock()
	n.logs = append(n.logs, s)
}

func (n *node) logged() []string {
	n.lock.Lock()
	defer n.lock.Unlock()
	return append([]string(nil), n.logs...)
}

func (n *node) target() []Target { return []Target{{Host: "test", Addr: n.addr}} }

func (n *node) clearTarget() []Target { return []Target{{Host: "test", Addr: n.clear, StartTLS: true}} }

// echo answers <echo xmlns='urn:test'> with its text.
func echo(ctx context.Context, l *Link, iq *IQ) Reply {
	if !iq.Payload.Is("urn:test", "echo") {
		return Reply{Error: &ErrorReply{Type: "cancel", Condition: "service-unavailable"}}
	}
	return Reply{Payload: echoPayload(string(iq.Payload.Text))}
}

func echoPayload(text string) []byte {
	e := wire.NewEncoder(nil)
	e.Start("echo", "urn:test")
	e.Text(text)
	e.End()
	b, _ := e.Bytes()
	return b
}

// capulet and montague are two gateways that trust the same authority.
func twoNodes(t testing.TB, change ...func(*Config)) (capulet, montague *node, ca *authority) {
	ca = newAuthority(t)
	capulet = startNode(t, ca, map[string]*tls.Certificate{"capulet.example": ca.issue("capulet.example")}, change...)
	montague = startNode(t, ca, map[string]*tls.Certificate{"montague.example": ca.issue("montague.example")}, change...)
	return
}

func mustLink(t testing.TB, from *node, local, remote string, to *node) *Link {
	t.Helper()
	l, err := from.Link(t.Context(), local, remote, to.target())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// liveAt waits for a link at the accepting side, which has it a moment after
// the connecting one.
func liveAt(t testing.TB, n *node, local, remote string) (l *Link) {
	t.Helper()
	eventually(t, "link of "+local+" with "+remote, func() bool {
		l = n.Live(local, remote)
		return l != nil
	})
	return l
}

// eventually polls a condition that nothing announces.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func waitClosed(t testing.TB, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("never: " + what)
	}
}

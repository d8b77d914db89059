package peers

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// node is a gateway's XMPP side: streams, directory, both ends of the
// protocol, and a store that takes what comes.
type node struct {
	domains []string
	addr    string // direct TLS
	clear   string // STARTTLS
	store   store.Store
	ctx     context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup
	mgr     *stream.Manager
	dir     *Directory
	sender  *transfer.Sender

	mu      sync.Mutex
	arrived []mail.ID
	certs   map[string]*tls.Certificate
	shown   map[string]string // by domain whose certificate was
}

var errNotOurs = errors.New("not our domain")

type nodeConfig struct {
	domains     []string
	peers       []Configured
	dns         DNS
	unreachable bool                           // it listens to nobody
	serves      map[string][]string            // domains, by the name of their service
	store       store.Store                    // nil for one of its own
	watch       func(*stream.Link, *stream.IQ) // sees each request before it is answered
}

// startNode starts a node for domain, with its peers' addresses.
func startNode(t *testing.T, ca *authority, domain string, peers ...Configured) *node {
	t.Helper()
	return startNodeWith(t, ca, nodeConfig{domains: []string{domain}, peers: peers, dns: &fakeDNS{}})
}

func startNodeWith(t *testing.T, ca *authority, cfg nodeConfig) *node {
	t.Helper()
	n := &node{domains: cfg.domains, certs: map[string]*tls.Certificate{}, shown: map[string]string{}}
	n.ctx, n.stop = context.WithCancel(context.Background())
	if n.store = cfg.store; n.store == nil {
		own, err := sqlite.Open(n.ctx, sqlite.Config{Path: filepath.Join(t.TempDir(), "mail.db")})
		if err != nil {
			t.Fatal(err)
		}
		n.store = own
	}
	for _, domain := range cfg.domains {
		n.certs[domain] = ca.issue(t, domain)
	}
	server := transfer.NewServer(transfer.ServerConfig{
		Receiver: n, Transfers: n.store, Services: speaker{n},
		Serves: func(local string) []string {
			if domains := cfg.serves[local]; domains != nil {
				return domains
			}
			return []string{local}
		},
	})
	services := map[string]string{}
	for name, domains := range cfg.serves {
		for _, domain := range domains {
			services[domain] = name
		}
	}
	handle := server.Handle
	if cfg.watch != nil {
		handle = func(ctx context.Context, l *stream.Link, iq *stream.IQ) stream.Reply {
			cfg.watch(l, iq)
			return server.Handle(ctx, l, iq)
		}
	}
	n.mgr = stream.NewManager(stream.Config{
		Certificate: n.certificate, Roots: rootsOf(ca),
		Handle: handle, Binary: transfer.Binary(), BackOff: time.Millisecond, CloseTimeout: time.Second,
		DiscoInfo: func(local, _ string) []byte {
			c := server.Capabilities()
			c.Serves = cfg.serves[local]
			info, err := c.DiscoInfo()
			if err != nil {
				t.Error(err)
			}
			return info
		},
		Up: func(local, remote string) { n.dir.Seen(local, remote) },
	})
	n.dir = NewDirectory(Config{Peers: cfg.peers, DNS: cfg.dns, Streams: Over(n.mgr), Store: n.store, Services: services})
	n.sender = transfer.NewSender(transfer.SenderConfig{Links: n.dir, RequestTimeout: 10 * time.Second})
	if !cfg.unreachable {
		direct, clear := listen(t), listen(t)
		n.addr, n.clear = direct.Addr().String(), clear.Addr().String()
		n.done.Go(func() { n.mgr.Serve(n.ctx, direct) })
		n.done.Go(func() { n.mgr.ServeStartTLS(n.ctx, clear) })
	}
	t.Cleanup(func() {
		n.stop()
		n.dir.Close()
		n.mgr.Shutdown(context.Background())
		n.done.Wait()
		if err := n.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// speaker is a node's directory, which is made after its server.
type speaker struct{ n *node }

func (s speaker) Speaks(ctx context.Context, local, service, domain string) *mail.Failure {
	return s.n.dir.Speaks(ctx, local, service, domain)
}

// Check and Accept make a node a transfer.Receiver: "nobody" does not exist.
func (n *node) Check(_ context.Context, _ mail.Binding, env mail.Envelope) []*mail.Failure {
	out := make([]*mail.Failure, len(env.Recipients))
	for i, r := range env.Recipients {
		if r.Address.Local == "nobody" {
			out[i] = mail.Fail(mail.NoSuchMailbox, "", nil)
		}
	}
	return out
}

func (n *node) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, _ mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	ids, _, err := n.store.Accept(ctx, k, h, store.NewMessage{Message: *m, Transfer: k.ID, Lifetime: time.Hour})
	failures := make([]*mail.Failure, len(m.Envelope.Recipients))
	for i := range failures {
		failures[i] = mail.AsFailure(err)
	}
	if err == nil && slices.Contains(ids, m.ID) { // else it had come before
		n.mu.Lock()
		n.arrived = append(n.arrived, m.ID)
		n.mu.Unlock()
	}
	return ids, failures
}

// content reads the only message that arrived.
func (n *node) content(t *testing.T, want int) [][]byte {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.arrived) != want {
		t.Fatalf("%d messages arrived, want %d", len(n.arrived), want)
	}
	var out [][]byte
	for _, id := range n.arrived {
		r, err := n.store.OpenContent(n.ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		out = append(out, b)
	}
	return out
}

func attempt(local, domain string, size int, to ...string) mail.Attempt {
	content := bytes.Repeat([]byte(".what's in a name \xff?\r\n"), size/22+1)
	content = append(fmt.Appendf(nil, "Message-ID: <%d@%s>\r\n\r\n", size, local), content...)
	s := mail.NewScanner()
	s.Write(content)
	a := mail.Attempt{ID: mail.NewID(), Content: mail.Bytes(content), Facts: s.Facts(), Local: local, Domain: domain}
	a.Envelope.Sender = mail.Address{Local: "juliet", Domain: local}
	for _, l := range to {
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{Address: mail.Address{Local: l, Domain: domain}})
	}
	a.Transfer = mail.TransferID(a.Envelope.Sender, a.Facts)
	return a
}

func contentOf(a mail.Attempt) []byte { return a.Content.(mail.Bytes) }

// TestPair carries mail over real streams: capulet can dial montague, and
// montague, who cannot dial capulet, answers mail on capulet's stream.
func TestPair(t *testing.T) {
	ca := newAuthority(t)
	montague := startNode(t, ca, "montague.example")
	capulet := startNode(t, ca, "capulet.example", Configured{Domain: "montague.example", Addrs: []string{montague.addr}})
	ctx := context.Background()

	var sent [][]byte
	for _, size := range []int{100, 60000, 70000, 5 << 20} {
		a := attempt("capulet.example", "montague.example", size, "romeo", "nobody")
		out := capulet.sender.Deliver(ctx, a)
		if !out[0].Delivered() || out[1].Failure == nil || out[1].Failure.Kind != mail.NoSuchMailbox {
			t.Fatalf("%d octets: %+v, %+v", size, out[0], out[1].Failure)
		}
		if out[0].Proof != "pkix" || out[0].TLS == "" || out[0].RemoteID == "" {
			t.Errorf("outcome lacks something: %+v", out[0])
		}
		sent = append(sent, contentOf(a))
		again := capulet.sender.Deliver(ctx, a)
		if again[0].RemoteID != out[0].RemoteID {
			t.Errorf("%d octets: a twin: %+v", size, again[0])
		}
	}
	for i, got := range montague.content(t, len(sent)) {
		if !bytes.Equal(got, sent[i]) {
			t.Errorf("message %d changed", i)
		}
	}
	eventually(t, func() bool { // by capulet's stream alone: montague has no address of it
		s, f := montague.dir.Standing(ctx, "montague.example", "capulet.example")
		return f == nil && s == mail.Peer
	})
	back := attempt("montague.example", "capulet.example", 200000, "juliet")
	if out := montague.sender.Deliver(ctx, back); !out[0].Delivered() {
		t.Fatalf("back: %v", out[0].Failure)
	}
	if got := capulet.content(t, 1); !bytes.Equal(got[0], contentOf(back)) {
		t.Error("the answer changed")
	}
	failures, err := capulet.sender.Check(ctx, "capulet.example", "montague.example", mail.Address{}, false, attempt("capulet.example", "montague.example", 1, "nobody", "romeo").Envelope.Recipients)
	if err != nil || failures[0] == nil || failures[1] != nil {
		t.Errorf("check: %v, %v", failures, err)
	}
}

// TestClaimedSender: a stream proven for mallory cannot offer capulet's mail.
func TestClaimedSender(t *testing.T) {
	ca := newAuthority(t)
	montague := startNode(t, ca, "montague.example")
	mallory := startNode(t, ca, "mallory.example", Configured{Domain: "montague.example", Addrs: []string{montague.addr}})
	link, _, err := mallory.dir.Link(context.Background(), "mallory.example", "montague.example")
	if err != nil {
		t.Fatal(err)
	}
	offer := "<offer xmlns='" + transfer.Namespace + "' tid='02a17f9f4ed31e8cb37852a92f177f94c8dd1ec36034b850948e9b7d00a9ca00' size='56'" +
		" sha-256='VscDHbyewgU6pzFxG2HEZP4Byk1u7RqkEwE+kQyPX4g=' sender='juliet@%s' hops='0'><rcpt to='romeo@montague.example'/>" +
		"<content>TWVzc2FnZS1JRDogPDFAY2FwdWxldC5leGFtcGxlPg0KDQpBcnQgdGhvdSBub3QgUm9tZW8/DQo=</content></offer>"
	_, err = link.Request(context.Background(), "set", fmt.Appendf(nil, offer, "capulet.example"))
	if se, ok := errors.AsType[*stream.StanzaError](err); !ok || se.Condition != "forbidden" {
		t.Errorf("claimed sender: %v", err)
	}
	montague.content(t, 0)
	el, err := link.Request(context.Background(), "set", fmt.Appendf(nil, offer, "mallory.example"))
	if err != nil || el.Name.Local != "accepted" {
		t.Errorf("own sender, on the same stream: %v", err)
	}
}

// cutter stands between two nodes and ends the first connection on which a
// number of octets has gone towards the receiver.
type cutter struct {
	ln    net.Listener
	after atomic.Int64 // for new connections; 0: they last
	cuts  atomic.Int32
	wg    sync.WaitGroup
}

func startCutter(t *testing.T, to string) *cutter {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{ln: ln}
	c.wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			limit := c.after.Load()
			if limit == 0 {
				limit = 1 << 40
			}
			c.wg.Go(func() { io.Copy(in, out); in.Close() })
			c.wg.Go(func() {
				if n, _ := io.CopyN(out, in, limit); n == limit {
					c.after.Store(0)
					c.cuts.Add(1)
				}
				out.Close()
				in.Close()
			})
		}
	})
	t.Cleanup(func() { c.ln.Close() })
	return c
}

// TestCutAndResume cuts the connection at growing places of a large message:
// once it has arrived, it has arrived once and unchanged.
func TestCutAndResume(t *testing.T) {
	ca := newAuthority(t)
	montague := startNode(t, ca, "montague.example")
	wire := startCutter(t, montague.addr)
	capulet := startNode(t, ca, "capulet.example", Configured{Domain: "montague.example", Addrs: []string{wire.ln.Addr().String()}})
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	var sent [][]byte
	for i, after := range []int64{20000, 300000, 700000, 1000000} {
		for l := capulet.mgr.Live("capulet.example", "montague.example"); l != nil; l = capulet.mgr.Live("capulet.example", "montague.example") {
			l.Close("")
			<-l.Done()
		}
		wire.after.Store(after)
		a := attempt("capulet.example", "montague.example", 700000+i, "romeo")
		sent = append(sent, contentOf(a))
		out := capulet.sender.Deliver(ctx, a)
		for tries := 0; !out[0].Delivered() && tries < 200; tries++ { // the dial's back-off passes
			if out[0].Failure.Class == mail.Permanent {
				t.Fatalf("cut after %d: %v", after, out[0].Failure)
			}
			a.InDoubt = out[0].Failure.Class == mail.InDoubt
			time.Sleep(5 * time.Millisecond)
			out = capulet.sender.Deliver(ctx, a)
		}
		if !out[0].Delivered() {
			t.Fatalf("cut after %d: %v", after, out[0].Failure)
		}
	}
	if n := wire.cuts.Load(); n < 3 { // the last place may be past the message's end
		t.Errorf("%d connections cut", n)
	}
	for i, got := range montague.content(t, len(sent)) {
		if !bytes.Equal(got, sent[i]) {
			t.Errorf("message %d changed", i)
		}
	}
}

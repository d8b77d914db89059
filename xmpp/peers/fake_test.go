package peers

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
	"mailxmppd/xmpp/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDNS answers from maps; a name that is in neither does not exist.
type fakeDNS struct {
	srv   map[string][]dns.SRV
	addrs map[string][]netip.Addr
	fails map[string]bool

	mu    sync.Mutex
	asked []string
}

func (f *fakeDNS) SRV(_ context.Context, name string) dns.Answer[dns.SRV] {
	f.mu.Lock()
	f.asked = append(f.asked, name)
	f.mu.Unlock()
	return answerOf(f.srv[name], f.fails[name])
}

func (f *fakeDNS) Addrs(_ context.Context, host string) dns.Answer[netip.Addr] {
	return answerOf(f.addrs[host], f.fails[host])
}

func answerOf[T any](records []T, fails bool) dns.Answer[T] {
	switch {
	case fails:
		return dns.Answer[T]{Status: dns.Failed, Err: errors.New("answered SERVFAIL")}
	case len(records) == 0:
		return dns.Answer[T]{Status: dns.NoDomain}
	}
	return dns.Answer[T]{Status: dns.Found, Records: records}
}

// fakeLink answers disco#info as told.
type fakeLink struct {
	info string // the answer's payload, "" for none
	err  error
	done chan struct{}

	mu    sync.Mutex
	asked int
}

const (
	withFeature = "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='" + transfer.Namespace + "'/></query>"
	without     = "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='urn:xmpp:ping'/></query>"
)

func newFakeLink(info string, err error) *fakeLink {
	return &fakeLink{info: info, err: err, done: make(chan struct{})}
}

func (l *fakeLink) Binding() mail.Binding { return mail.Binding{} }
func (l *fakeLink) MaxStanza() int        { return 1 << 20 }
func (l *fakeLink) Done() <-chan struct{} { return l.done }

func (l *fakeLink) Request(context.Context, string, []byte) (*wire.Element, error) {
	l.mu.Lock()
	l.asked++
	l.mu.Unlock()
	if l.err != nil || l.info == "" {
		return nil, l.err
	}
	const head = `<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='a.example' to='b.example' version='1.0'>`
	p := wire.NewParser(io.MultiReader(strings.NewReader(head), strings.NewReader(l.info)), wire.Limits{})
	if _, err := p.Header(); err != nil {
		return nil, err
	}
	return p.Next()
}

// fakeStreams dials into link, or fails with err.
type fakeStreams struct {
	mu      sync.Mutex
	live    *fakeLink
	dialled *fakeLink
	err     error
	dials   int
	targets []stream.Target
}

func (f *fakeStreams) Live(string, string) transfer.Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live == nil {
		return nil
	}
	return f.live
}

func (f *fakeStreams) Link(_ context.Context, _, _ string, targets []stream.Target) (transfer.Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dials++
	f.targets = targets
	if f.err != nil {
		return nil, f.err
	}
	f.live = f.dialled
	return f.live, nil
}

func (f *fakeStreams) set(change func(*fakeStreams)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *fakeStreams) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dials
}

// memoryStore is a store.Peers in memory.
type memoryStore struct {
	mu    sync.Mutex
	peers map[string]store.Peer
	puts  int
	err   error
}

func (s *memoryStore) Peer(_ context.Context, domain string) (store.Peer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.peers[domain]
	if s.err != nil {
		return store.Peer{}, s.err
	}
	if !ok {
		return store.Peer{}, store.ErrNotFound
	}
	return p, nil
}

func (s *memoryStore) PutPeer(_ context.Context, p store.Peer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	s.peers[p.Domain] = p
	return s.err
}

type setup struct {
	dns     *fakeDNS
	streams *fakeStreams
	store   *memoryStore
	dir     *Directory
}

func newSetup(t *testing.T, peers ...Configured) *setup {
	t.Helper()
	x := &setup{
		dns:     &fakeDNS{srv: map[string][]dns.SRV{}, addrs: map[string][]netip.Addr{}, fails: map[string]bool{}},
		streams: &fakeStreams{},
		store:   &memoryStore{peers: map[string]store.Peer{}},
	}
	x.again(peers...)
	t.Cleanup(func() { x.dir.Close() })
	return x
}

// again starts a Directory anew on the same store.
func (x *setup) again(peers ...Configured) {
	if x.dir != nil {
		x.dir.Close()
	}
	x.dir = NewDirectory(Config{Peers: peers, DNS: x.dns, Streams: x.streams, Store: x.store, Timeout: 2 * time.Second})
}

func (x *setup) service(name string) {
	x.dns.srv[name+"montague.example"] = []dns.SRV{{Port: 5270, Target: "xmpp.montague.example"}}
	x.dns.addrs["xmpp.montague.example"] = []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}
}

func (x *setup) standing(t *testing.T) mail.Standing {
	t.Helper()
	s, f := x.dir.Standing(context.Background(), "capulet.example", "montague.example")
	if f != nil {
		t.Fatalf("standing: %v", f)
	}
	return s
}

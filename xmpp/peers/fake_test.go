package peers

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
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
	srv    map[string][]dns.SRV
	addrs  map[string][]netip.Addr
	fails  map[string]bool
	secure bool // absence is signed

	mu    sync.Mutex
	asked []string
}

func (f *fakeDNS) SRV(_ context.Context, name string) dns.Answer[dns.SRV] {
	f.mu.Lock()
	f.asked = append(f.asked, name)
	f.mu.Unlock()
	return answerOf(f.srv[name], f.fails[name], f.secure)
}

func (f *fakeDNS) Addrs(_ context.Context, host string) dns.Answer[netip.Addr] {
	return answerOf(f.addrs[host], f.fails[host], f.secure)
}

func answerOf[T any](records []T, fails, secure bool) dns.Answer[T] {
	switch {
	case fails:
		return dns.Answer[T]{Status: dns.Failed, Err: errors.New("answered SERVFAIL")}
	case len(records) == 0:
		return dns.Answer[T]{Status: dns.NoDomain, Secure: secure}
	}
	return dns.Answer[T]{Status: dns.Found, Records: records}
}

// fakeLink answers disco#info as told.
type fakeLink struct {
	info    string // the answer's payload, "" for none
	items   string // the answer to disco#items; "" for an empty one
	err     error
	inbound bool
	done    chan struct{}

	mu    sync.Mutex
	addr  string // where it was dialled
	asked int
}

const (
	withFeature = "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='" + transfer.Namespace + "'/></query>"
	without     = "<query xmlns='http://jabber.org/protocol/disco#info'><feature var='urn:xmpp:ping'/></query>"
)

// withPolicy is withFeature and a form.
func withPolicy(policy string, age time.Duration, sends string) string {
	c := transfer.Announced()
	c.Policy, c.MaxAge, c.Sends = policy, age, sends
	info, _ := c.DiscoInfo()
	return "<query xmlns='http://jabber.org/protocol/disco#info'>" + string(info) + "</query>"
}

const noItems = "<query xmlns='http://jabber.org/protocol/disco#items'/>"

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func newFakeLink(info string, err error) *fakeLink {
	return &fakeLink{info: info, err: err, done: make(chan struct{})}
}

func (l *fakeLink) MaxStanza() int        { return 1 << 20 }
func (l *fakeLink) Done() <-chan struct{} { return l.done }
func (l *fakeLink) Inbound() bool         { return l.inbound }

func (l *fakeLink) Binding() mail.Binding {
	l.mu.Lock()
	defer l.mu.Unlock()
	return mail.Binding{Addr: l.addr}
}

func (l *fakeLink) Request(_ context.Context, _ string, payload []byte) (*wire.Element, error) {
	if string(payload) == itemsQuery && l.err == nil {
		return element(cmp.Or(l.items, noItems))
	}
	l.mu.Lock()
	l.asked++
	l.mu.Unlock()
	if l.err != nil || l.info == "" {
		return nil, l.err
	}
	return element(l.info)
}

func element(xml string) (*wire.Element, error) {
	const head = `<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='a.example' to='b.example' version='1.0'>`
	p := wire.NewParser(io.MultiReader(strings.NewReader(head), strings.NewReader(xml)), wire.Limits{})
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
	second  *fakeLink // what Bulk dials; nil: a second cannot be had
	err     error
	probed  string // the answer to Probe; "" for none
	dials   int
	probes  int
	targets []stream.Target
}

func (f *fakeStreams) Live(string, string) Link {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live == nil {
		return nil
	}
	return f.live
}

func (f *fakeStreams) Link(_ context.Context, _, _ string, targets []stream.Target) (Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.live != nil {
		return f.live, nil
	}
	f.dials++
	f.targets = targets
	if f.err != nil {
		return nil, f.err
	}
	f.dialled.at(targets)
	f.live = f.dialled
	return f.live, nil
}

func (l *fakeLink) at(targets []stream.Target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addr = targets[0].Addr
}

func (f *fakeStreams) Bulk(ctx context.Context, local, remote string, targets []stream.Target) (Link, error) {
	only, err := f.Link(ctx, local, remote, targets)
	if err != nil || f.second == nil || len(targets) == 0 {
		return only, err
	}
	f.second.at(targets)
	return f.second, nil
}

func (f *fakeStreams) Probe(_ context.Context, _, _ string, _ []stream.Target, payload []byte) (*wire.Element, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if string(payload) == itemsQuery {
		return element(noItems)
	}
	f.probes++
	if f.probed == "" {
		return nil, &stream.NegotiationError{Stage: stream.StageBidi}
	}
	return element(f.probed)
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

// memoryStore is a store.Peers in memory with a clock of its own.
type memoryStore struct {
	mu      sync.Mutex
	now     time.Duration
	peers   map[string]store.Peer
	written map[string]time.Duration
	puts    int
	err     error
}

func newMemoryStore() *memoryStore {
	return &memoryStore{peers: map[string]store.Peer{}, written: map[string]time.Duration{}}
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
	p.Age = s.now - s.written[domain]
	return p, nil
}

func (s *memoryStore) PutPeer(_ context.Context, p store.Peer) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	if s.err == nil {
		s.peers[p.Domain], s.written[p.Domain] = p, s.now
	}
	return s.err
}

// put stores what was known of a domain some time ago, all of it from then.
func (s *memoryStore) put(domain string, age time.Duration, learn func(k *known, now time.Time)) {
	var k known
	now := time.Now()
	learn(&k, now)
	facts, _ := k.encode(now)
	s.peers[domain] = store.Peer{Domain: domain, Facts: facts}
	s.written[domain] = s.now - age
}

func sightedAt(at service) func(*known, time.Time) {
	return func(k *known, now time.Time) { k.sight(now, transfer.Unstated(), at) }
}

func pinnedAt(at service, maxAge time.Duration) func(*known, time.Time) {
	return func(k *known, now time.Time) {
		k.sight(now, transfer.Capabilities{Policy: "enforce", MaxAge: maxAge}, at)
	}
}

func denied(k *known, now time.Time) { k.deny(now, "said no", atServer) }

type setup struct {
	dns     *fakeDNS
	streams *fakeStreams
	store   *memoryStore
	dir     *Directory
	change  func(*Config) // of the next start
}

func newSetup(t *testing.T, peers ...Configured) *setup {
	t.Helper()
	x := &setup{
		dns:     &fakeDNS{srv: map[string][]dns.SRV{}, addrs: map[string][]netip.Addr{}, fails: map[string]bool{}},
		streams: &fakeStreams{},
		store:   newMemoryStore(),
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
	cfg := Config{Peers: peers, DNS: x.dns, Streams: x.streams, Store: x.store, Validating: true, Timeout: 2 * time.Second}
	if x.change != nil {
		x.change(&cfg)
	}
	x.dir = NewDirectory(cfg)
}

// later lets time pass in the store, and all streams end.
func (x *setup) later(d time.Duration) {
	x.store.now += d
	x.streams.set(func(f *fakeStreams) { f.live = nil })
	x.again()
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

// link is what an attempt to deliver finds: "" or why not.
func (x *setup) link(t *testing.T) string {
	t.Helper()
	_, _, err := x.dir.Link(context.Background(), "capulet.example", "montague.example")
	if err == nil {
		return ""
	}
	return mail.AsFailure(err).Text
}

func capsOf(policy string, maxAge time.Duration) transfer.Capabilities {
	return transfer.Capabilities{Policy: policy, MaxAge: maxAge}
}

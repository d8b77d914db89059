package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parse reads one element.
func parse(t testing.TB, xml string) *wire.Element {
	t.Helper()
	el, err := parseElement([]byte(xml))
	if err != nil {
		t.Fatalf("parse %s: %v", xml, err)
	}
	return el
}

// parseBinary reads one element as a stream of ours does.
func parseBinary(t testing.TB, xml string) *wire.Element {
	t.Helper()
	el, err := parseWith([]byte(xml), Binary()...)
	if err != nil {
		t.Fatalf("parse %s: %v", xml, err)
	}
	return el
}

func parseElement(xml []byte) (*wire.Element, error) { return parseWith(xml) }

// parseWith is parseElement with the text of elements of these names decoded
// on the way.
func parseWith(xml []byte, binary ...wire.Name) (*wire.Element, error) {
	const head = `<stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' from='a.example' to='b.example' version='1.0'>`
	p := wire.NewParser(io.MultiReader(strings.NewReader(head), bytes.NewReader(xml)), wire.Limits{StanzaBytes: 8 << 20})
	p.DecodeInPlace(binary...)
	if _, err := p.Header(); err != nil {
		return nil, err
	}
	return p.Next()
}

// memoryStore is a store.Transfers in memory. It keeps the content of what was
// accepted, so that tests can compare it.
type memoryStore struct {
	mu       sync.Mutex
	known    map[store.TransferKey]*memoryTransfer
	turn     int64
	messages []acceptedMessage
	fail     error // of every call
}

type memoryTransfer struct {
	hash     store.ContentHash
	open     bool
	turn     int64
	content  []byte
	accepted map[mail.Address]mail.ID
}

type acceptedMessage struct {
	key     store.TransferKey
	message mail.Message
	content []byte
}

func newMemoryStore() *memoryStore {
	return &memoryStore{known: map[store.TransferKey]*memoryTransfer{}}
}

func (s *memoryStore) Lookup(_ context.Context, k store.TransferKey) (store.Transfer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.view(k), s.fail
}

func (s *memoryStore) view(k store.TransferKey) store.Transfer {
	t := s.known[k]
	if t == nil {
		return store.Transfer{}
	}
	return store.Transfer{Known: true, Hash: t.hash, Open: t.open, Next: int64(len(t.content)), Accepted: maps.Clone(t.accepted)}
}

func (s *memoryStore) begin(k store.TransferKey, h store.ContentHash) (*memoryTransfer, error) {
	if s.fail != nil {
		return nil, s.fail
	}
	t := s.known[k]
	if t == nil {
		t = &memoryTransfer{hash: h, accepted: map[mail.Address]mail.ID{}}
		s.known[k] = t
	}
	if t.hash != h {
		return nil, store.ErrConflict
	}
	return t, nil
}

func (s *memoryStore) TransferBegin(_ context.Context, k store.TransferKey, h store.ContentHash) (store.Transfer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.begin(k, h)
	if err != nil {
		return store.Transfer{}, err
	}
	s.turn++
	t.open, t.turn = true, s.turn
	v := s.view(k)
	v.Turn = t.turn
	return v, nil
}

func (s *memoryStore) Append(_ context.Context, k store.TransferKey, offset int64, p []byte) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.known[k.Name()]
	if s.fail != nil || t == nil || !t.open {
		return 0, errors.Join(s.fail, store.ErrNotFound)
	}
	if k.Turn != 0 && k.Turn != t.turn {
		return 0, store.ErrLeaseLost
	}
	if offset == int64(len(t.content)) {
		t.content = append(t.content, p...)
	}
	return int64(len(t.content)), nil
}

func (s *memoryStore) OpenTransfer(_ context.Context, k store.TransferKey) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.known[k]
	if t == nil || !t.open {
		return nil, store.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(bytes.Clone(t.content))), nil
}

func (s *memoryStore) Accept(_ context.Context, k store.TransferKey, h store.ContentHash, m store.NewMessage) ([]mail.ID, []store.Lease, error) {
	var content []byte
	if m.Content != nil {
		r, err := m.Content.Open()
		if err != nil {
			return nil, nil, err
		}
		if content, err = io.ReadAll(r); err != nil {
			return nil, nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t, err := s.begin(k.Name(), h)
	if err != nil {
		return nil, nil, err
	}
	if m.Content == nil && k.Turn != 0 && k.Turn != t.turn {
		return nil, nil, store.ErrLeaseLost
	}
	if m.Content == nil {
		content = t.content
	}
	var ids []mail.ID
	fresh := false
	for _, r := range m.Envelope.Recipients {
		if t.accepted[r.Address] == "" {
			t.accepted[r.Address] = m.ID
			fresh = true
		}
		ids = append(ids, t.accepted[r.Address])
	}
	if fresh {
		s.messages = append(s.messages, acceptedMessage{k, m.Message, content})
	}
	t.open, t.content = false, nil
	return ids, nil, nil
}

func (s *memoryStore) TransferAbort(_ context.Context, k store.TransferKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, turn := k.Name(), k.Turn
	if t := s.known[k]; t != nil && (turn == 0 || turn == t.turn) {
		t.open, t.content = false, nil
		if len(t.accepted) == 0 {
			delete(s.known, k)
		}
	}
	return nil
}

func (s *memoryStore) all() []acceptedMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]acceptedMessage(nil), s.messages...)
}

// gateway is a Receiver that judges by local part: "nobody" does not exist,
// "full" is full, "late" is refused only once the content is there.
type gateway struct {
	store store.Transfers

	mu       sync.Mutex
	checked  int
	accepted int
}

func (g *gateway) Check(_ context.Context, _ mail.Binding, env mail.Envelope) []*mail.Failure {
	g.mu.Lock()
	g.checked += len(env.Recipients)
	g.mu.Unlock()
	out := make([]*mail.Failure, len(env.Recipients))
	for i, r := range env.Recipients {
		switch r.Address.Local {
		case "nobody":
			out[i] = mail.Fail(mail.NoSuchMailbox, "", nil)
		case "full":
			out[i] = mail.Fail(mail.ResourceShort, "mailbox is full", nil).WithStatus("4.2.2")
			out[i].RetryAfter = time.Hour
		}
	}
	return out
}

func (g *gateway) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, _ mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure) {
	n := len(m.Envelope.Recipients)
	ids, failures := make([]mail.ID, n), make([]*mail.Failure, n)
	taken := *m
	taken.Envelope.Recipients = nil
	var at []int
	for i, r := range m.Envelope.Recipients {
		if r.Address.Local == "late" {
			failures[i] = mail.Fail(mail.Rejected, "content refused", nil).WithStatus("5.7.1")
			continue
		}
		taken.Envelope.Recipients = append(taken.Envelope.Recipients, r)
		at = append(at, i)
	}
	if len(at) == 0 {
		return ids, failures
	}
	got, _, err := g.store.Accept(ctx, k, h, store.NewMessage{Message: taken, Transfer: k.ID, Lifetime: time.Hour})
	for i, n := range at {
		if err != nil {
			failures[n] = storeFailure(err)
			continue
		}
		ids[n] = got[i]
	}
	g.mu.Lock()
	g.accepted++
	g.mu.Unlock()
	return ids, failures
}

// handle answers a request over a link without a bound for answers.
func (s *Server) handle(ctx context.Context, b mail.Binding, typ string, p *wire.Element) stream.Reply {
	return s.HandleBound(ctx, b, &stream.IQ{Type: typ, Payload: p})
}

// fakeLink carries requests to a Server in memory, through the real encoding
// and parsing.
type fakeLink struct {
	server    *Server
	binding   mail.Binding // as the sender sees it
	maxStanza int
	done      chan struct{}

	// before may fail a request before it is handled; after may lose its
	// answer. n counts the requests from 1.
	before, after func(n int, name string) error

	mu       sync.Mutex
	n        int
	names    []string
	inFlight int
	mostIn   int
}

func newFakeLink(s *Server) *fakeLink {
	return &fakeLink{
		server: s, maxStanza: 512 << 10, done: make(chan struct{}),
		binding: mail.Binding{Local: "capulet.example", Remote: "montague.example", Proof: "pkix", TLS: "TLS1.3 X"},
	}
}

func (l *fakeLink) Binding() mail.Binding { return l.binding }
func (l *fakeLink) MaxStanza() int        { return l.maxStanza }
func (l *fakeLink) Done() <-chan struct{} { return l.done }

func (l *fakeLink) Request(ctx context.Context, typ string, payload []byte) (*wire.Element, error) {
	iq := fmt.Sprintf("<iq type='%s' id='aaaaaaaaaaaaaaaa' from='%s' to='%s'>%s</iq>", typ, l.binding.Local, l.binding.Remote, payload)
	if len(iq) > l.maxStanza {
		return nil, fmt.Errorf("%w: stanza of %d octets", stream.ErrNotSent, len(iq))
	}
	stanza, err := parseWith([]byte(iq), Binary()...)
	if err != nil {
		return nil, err
	}
	n, name := l.enter(stanza.Children[0].Name.Local)
	defer l.leave()
	if l.before != nil {
		if err := l.before(n, name); err != nil {
			return nil, err
		}
	}
	theirs := mail.Binding{Local: l.binding.Remote, Remote: l.binding.Local, Proof: "pkix", TLS: "TLS1.3 X", Addr: "192.0.2.1:5270"}
	l.mu.Lock()
	server := l.server
	l.mu.Unlock()
	reply := server.handle(ctx, theirs, typ, stanza.Children[0])
	if l.after != nil {
		if err := l.after(n, name); err != nil {
			return nil, err
		}
	}
	return readReply(reply)
}

func (l *fakeLink) enter(name string) (int, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	l.names = append(l.names, name)
	l.inFlight++
	l.mostIn = max(l.mostIn, l.inFlight)
	return l.n, name
}

func (l *fakeLink) leave() {
	l.mu.Lock()
	l.inFlight--
	l.mu.Unlock()
}

func (l *fakeLink) count(name string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, got := range l.names {
		if got == name {
			n++
		}
	}
	return n
}

// readReply turns a handler's reply into what Request returns.
func readReply(r stream.Reply) (*wire.Element, error) {
	if r.Error != nil {
		el := &wire.Element{}
		if len(r.Error.App) > 0 {
			app, err := parseElement(r.Error.App)
			if err != nil {
				return nil, err
			}
			el.Children = []*wire.Element{app}
		}
		return nil, &stream.StanzaError{Condition: r.Error.Condition, Type: r.Error.Type, Text: r.Error.Text, Element: el}
	}
	if len(r.Payload) == 0 {
		return nil, nil
	}
	return parseElement(r.Payload)
}

// oneLink is a Links that always has the same link.
type oneLink struct {
	link      Link
	caps      Capabilities
	err       error
	forgotten int
	mu        sync.Mutex
	asked     int
	most      int              // links given out, when not 0; then there is none
	again     func(n int) Link // the link for the n-th question, from 2
}

func (o *oneLink) Forget(string, string) { o.forgotten++ }

func (o *oneLink) Link(context.Context, string, string) (Link, Capabilities, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	if o.most > 0 && o.asked > o.most {
		return nil, Capabilities{}, errors.New("no route")
	}
	if o.again != nil && o.asked > 1 {
		return o.again(o.asked), o.caps, o.err
	}
	return o.link, o.caps, o.err
}

// setup is a sender and a server with everything between them.
type setup struct {
	store   *memoryStore
	gateway *gateway
	server  *Server
	link    *fakeLink
	links   *oneLink
	sender  *Sender
}

func newSetup(adjust ...func(*ServerConfig, *SenderConfig)) *setup {
	x := &setup{store: newMemoryStore()}
	x.gateway = &gateway{store: x.store}
	sc := ServerConfig{Receiver: x.gateway, Transfers: x.store, Capabilities: Announced(), ChunkWait: 200 * time.Millisecond}
	cc := SenderConfig{RequestTimeout: 5 * time.Second}
	for _, f := range adjust {
		f(&sc, &cc)
	}
	x.server = NewServer(sc)
	x.link = newFakeLink(x.server)
	x.links = &oneLink{link: x.link, caps: x.server.Capabilities()}
	cc.Links = x.links
	x.sender = NewSender(cc)
	return x
}

// message makes an attempt with content of n octets to mailboxes of
// montague.example.
func message(n int, to ...string) mail.Attempt {
	return attemptOf(text(n), to...)
}

func attemptOf(content []byte, to ...string) mail.Attempt {
	b := mail.NewScanner()
	b.Write(content)
	a := mail.Attempt{
		ID: mail.NewID(), Number: 1, Content: mail.Bytes(content), Facts: b.Facts(),
		Domain: "montague.example", Local: "capulet.example",
		Trace: []byte("Received: by mx.capulet.example; Tue, 24 Nov 2026 10:00:00 +0000\r\n"),
	}
	a.Envelope.Sender = mail.Address{Local: "juliet", Domain: "capulet.example"}
	for _, local := range to {
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{Address: mail.Address{Local: local, Domain: "montague.example"}})
	}
	a.Transfer = mail.TransferID(a.Envelope.Sender, a.Facts)
	return a
}

// text makes n octets of mail with CRLF line ends, 8-bit octets and dots.
func text(n int) []byte {
	b := []byte("Message-ID: <x@capulet.example>\r\n\r\n")
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, ".line %d \xff\xfe what's in a name?\r\n", i)
	}
	b = b[:n]
	for i := max(0, n-2); i < n; i++ { // no CR cut from its LF
		b[i] = 'x'
	}
	if n > 2 && b[n-3] == '\r' {
		b[n-3] = 'x'
	}
	return b
}

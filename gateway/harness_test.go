package gateway

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// next is a next hop that answers as told and keeps what it took. What it
// plays are the answers of real ones: transports are tested with real ones in
// their own packages.
type next struct {
	mu       sync.Mutex
	standing mail.Standing
	live     bool
	answer   func(a mail.Attempt) []mail.Outcome // nil: all delivered
	exists   func(r mail.Address) *mail.Failure
	took     []taken
	attempts []mail.Attempt
	expected []string
	asked    []string                  // our domains in whose name Standing was asked
	during   func(ctx context.Context) // runs while an attempt does, without the lock
	held     bool                      // to XMPP
	site     string                    // the destination of all domains; "" for one each
}

type taken struct {
	attempt mail.Attempt
	content string // trace and content
	rcpts   []string
}

func (n *next) Deliver(ctx context.Context, a mail.Attempt) []mail.Outcome {
	rc, err := a.Content.Open()
	if err != nil {
		return mail.AllFailed(len(a.Envelope.Recipients), mail.AsFailure(err))
	}
	defer rc.Close()
	content, err := io.ReadAll(rc)
	if err != nil {
		return mail.AllFailed(len(a.Envelope.Recipients), mail.AsFailure(err))
	}
	n.mu.Lock()
	during := n.during
	n.mu.Unlock()
	if during != nil {
		during(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.attempts = append(n.attempts, a)
	out := make([]mail.Outcome, len(a.Envelope.Recipients))
	for i := range out {
		out[i] = mail.Outcome{Remote: a.Domain, RemoteID: "Q1"}
	}
	if n.answer != nil {
		out = n.answer(a)
	}
	t := taken{attempt: a, content: string(a.Trace) + string(content)}
	for i, o := range out {
		if o.Delivered() {
			t.rcpts = append(t.rcpts, a.Envelope.Recipients[i].Address.String())
		}
	}
	if len(t.rcpts) > 0 {
		n.took = append(n.took, t)
	}
	return out
}

func (n *next) Destination(string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.site
}

func (n *next) Verify(_ context.Context, _ mail.Address, _ bool, rcpts []mail.Recipient) ([]*mail.Failure, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*mail.Failure, len(rcpts))
	for i, r := range rcpts {
		if n.exists != nil {
			out[i] = n.exists(r.Address)
		}
	}
	return out, nil
}

func (n *next) Standing(_ context.Context, local, domain string) (mail.Standing, *mail.Failure) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, local)
	switch {
	case domain != "peer.example":
		return mail.Legacy, nil
	case n.standing == mail.Unsure:
		return mail.Unsure, mail.Fail(mail.Unreachable, "no DNS", nil)
	}
	return n.standing, nil
}

func (n *next) HeldToXMPP(context.Context, string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held
}

func (n *next) Live(_, domain string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.live && domain == "peer.example"
}

func (n *next) Check(ctx context.Context, _, _ string, sender mail.Address, utf8 bool, rcpts []mail.Recipient) ([]*mail.Failure, error) {
	return n.Verify(ctx, sender, utf8, rcpts)
}

func (n *next) Expect(_, domain string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expected = append(n.expected, domain)
}

func (n *next) deliveries() []taken {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]taken(nil), n.took...)
}

// tried counts attempts.
func (n *next) tried() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.attempts)
}

func (n *next) set(f func(*next)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(n)
}

// world is a gateway for home.example on a real store, with scripted next hops.
type world struct {
	*Gateway
	t                   *testing.T
	store               *sqlite.Store
	faulty              *faulty
	local, peer, legacy *next
	entrance            *Entrance
	stop                func(wait time.Duration) // tells Run to end and waits so long for it
	done                chan struct{}            // Run has ended
}

// grace is what attempts get when a world ends.
const grace = 500 * time.Millisecond

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	t.Parallel() // the store's flushes are most of a test's time
	return newWorldAlone(t, change)
}

// newWorldAlone is newWorld for tests that measure what the process uses.
func newWorldAlone(t *testing.T, change func(*Config)) *world {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "mail.db")})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: st, faulty: &faulty{Store: st, alive: make(chan string)}, local: &next{}, peer: &next{standing: mail.Peer}, legacy: &next{}}
	cfg := Config{
		Hostname:           "gw.home.example",
		Domains:            []Domain{{Name: "home.example", Transport: w.local, Verifier: w.local}, {Name: "second.example", Transport: w.local}},
		Store:              w.faulty,
		Peers:              w.peer,
		Legacy:             func(string) Transport { return w.legacy },
		TempDir:            t.TempDir(),
		Log:                slog.New(slog.DiscardHandler),
		CutThrough:         true,
		CutThroughDeadline: 5 * time.Second,
		CutThroughPerPeer:  4,
		Lifetime:           time.Hour,
		DelayNotice:        time.Hour,
		RetryFirst:         time.Minute,
		RetryMax:           time.Hour,
		Retention:          store.Retention{Acceptances: time.Hour, Transfers: time.Hour, Traces: time.Hour},
		Concurrency:        8,
		PerDomain:          4,
	}
	if change != nil {
		change(&cfg)
	}
	if w.Gateway, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.entrance = &Entrance{Gateway: w.Gateway, Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	ctx, stop := context.WithCancel(context.Background())
	w.done = make(chan struct{})
	go func() { w.Run(ctx, grace); close(w.done) }()
	w.stop = func(wait time.Duration) {
		stop()
		select {
		case <-w.done:
		case <-time.After(wait):
		}
	}
	t.Cleanup(func() {
		w.stop(time.Minute)
		<-w.done
		w.idle()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// idle checks that every slot, place and lease has been given back.
func (w *world) idle() {
	w.t.Helper()
	w.sched.mu.Lock()
	defer w.sched.mu.Unlock()
	if w.sched.slots != 0 || w.sched.fresh != 0 || len(w.sched.leases) != 0 {
		w.t.Errorf("%d slots (%d of new mail) and %d leases left over", w.sched.slots, w.sched.fresh, len(w.sched.leases))
	}
	for domain, d := range w.sched.dests {
		if d.runs != 0 || d.cut != 0 {
			w.t.Errorf("%s: %d runs and %d cut-through places left over", domain, d.runs, d.cut)
		}
	}
}

const sample = "From: romeo@home.example\r\nMessage-ID: <1@home.example>\r\nSubject: s\r\n\r\nbody\r\n"

func address(t *testing.T, s string) mail.Address {
	t.Helper()
	if s == "" {
		return mail.Address{}
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// message builds what an SMTP session hands over.
func (w *world) message(content, from string, to ...string) *mail.Message {
	w.t.Helper()
	buf := mail.NewBuffer(w.t.TempDir())
	buf.Write([]byte(content))
	m := &mail.Message{Content: buf, Facts: buf.Facts(), Origin: mail.Origin{Transport: "smtp", Remote: "127.0.0.1:25", Helo: "client.example", Received: time.Now()}}
	m.Envelope.Sender = address(w.t, from)
	for _, r := range to {
		m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: address(w.t, r)})
	}
	w.t.Cleanup(func() { buf.Close() })
	return m
}

func (w *world) send(m *mail.Message, perRecipient bool) []mail.Verdict {
	w.t.Helper()
	return w.entrance.Accept(w.t.Context(), mail.Client{}, m, perRecipient)
}

// until waits for a condition, for at most half a minute: other tests run beside.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not seen within 30 s: %s", what)
}

// states lists "rcpt state" of all deliveries in the store.
func (w *world) states() map[string]store.State {
	w.t.Helper()
	list, err := w.store.List(w.t.Context(), store.Filter{Closed: true})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]store.State{}
	for _, e := range list {
		out[e.Rcpt] = e.State
	}
	return out
}

func (w *world) waitState(rcpt string, want store.State) {
	w.t.Helper()
	until(w.t, rcpt+" "+string(want), func() bool { return w.states()[rcpt] == want })
}

func refuse(kind mail.Kind) mail.Outcome {
	f := mail.Fail(kind, "", nil)
	f.Remote = "peer.example"
	return mail.Outcome{Failure: f, Remote: "peer.example", Proof: "pkix"}
}

package gateway

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
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
}

type taken struct {
	attempt mail.Attempt
	content string // trace and content
	rcpts   []string
}

func (n *next) Deliver(_ context.Context, a mail.Attempt) []mail.Outcome {
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

func (n *next) Standing(_ context.Context, _, domain string) (mail.Standing, *mail.Failure) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case domain != "peer.example":
		return mail.Legacy, nil
	case n.standing == mail.Unsure:
		return mail.Unsure, mail.Fail(mail.Unreachable, "no DNS", nil)
	}
	return n.standing, nil
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
	local, peer, legacy *next
	entrance            *Entrance
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "mail.db")})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, store: st, local: &next{}, peer: &next{standing: mail.Peer}, legacy: &next{}}
	cfg := Config{
		Hostname:           "gw.home.example",
		Domains:            []Domain{{Name: "home.example", Transport: w.local, Verifier: w.local}, {Name: "second.example", Transport: w.local}},
		Store:              st,
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
	w.entrance = &Entrance{w.Gateway, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.Run(ctx, 5*time.Second); close(done) }()
	t.Cleanup(func() {
		stop()
		<-done
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
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

// until waits for a condition, for at most ten seconds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not seen within 10 s: %s", what)
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

// TestSpoolToLocal: stored, delivered with the trace in front and the content
// unchanged, content gone afterwards.
func TestSpoolToLocal(t *testing.T) {
	w := newWorld(t, nil)
	v := w.send(w.message(sample, "a@far.example", "juliet@home.example"), false)
	if v[0].Failure != nil || !strings.HasPrefix(v[0].Text, "queued as ") {
		t.Fatalf("verdict %+v", v[0])
	}
	w.waitState("juliet@home.example", store.Delivered)
	got := w.local.deliveries()
	if len(got) != 1 || !strings.HasSuffix(got[0].content, sample) || !strings.HasPrefix(got[0].content, "Received: from client.example ([127.0.0.1])\r\n") {
		t.Fatalf("delivered %+v", got)
	}
	if _, err := w.store.OpenContent(t.Context(), mail.ID(strings.TrimPrefix(v[0].Text, "queued as "))); err == nil {
		t.Error("content is still there after the last delivery was settled")
	}
}

// TestCutThrough is the table of design section 4: what the client hears, what
// is spooled and which DSN goes out, by what the peer says.
func TestCutThrough(t *testing.T) {
	ok := mail.Outcome{Remote: "peer.example", RemoteID: "Q7"}
	for _, c := range []struct {
		name    string
		answers []mail.Outcome
		lmtp    bool
		want    []string // per verdict: text or status
		states  string   // of a@ and b@ in the store, "" for none
		dsn     bool
	}{
		{"all accepted", []mail.Outcome{ok, ok}, false, []string{"accepted by peer.example as Q7"}, "", false},
		{"all refused", []mail.Outcome{refuse(mail.NoSuchMailbox), refuse(mail.NotPermitted)}, false, []string{"5.1.1"}, "", false},
		{"some refused", []mail.Outcome{ok, refuse(mail.NoSuchMailbox)}, false, []string{"accepted by peer.example as Q7"}, "delivered bounced", true},
		{"some deferred", []mail.Outcome{ok, refuse(mail.ResourceShort)}, false, []string{"queued"}, "delivered deferred", false},
		{"refused and deferred", []mail.Outcome{refuse(mail.NoSuchMailbox), refuse(mail.ResourceShort)}, false, []string{"queued"}, "bounced deferred", true},
		{"in doubt", []mail.Outcome{refuse(mail.Doubtful), refuse(mail.Doubtful)}, false, []string{"queued"}, "deferred deferred", false},
		{"lmtp mixed", []mail.Outcome{ok, refuse(mail.NoSuchMailbox)}, true, []string{"accepted by peer.example as Q7", "5.1.1"}, "", false},
		{"lmtp refused and deferred", []mail.Outcome{refuse(mail.NoSuchMailbox), refuse(mail.ResourceShort)}, true, []string{"5.1.1", "queued"}, "bounced deferred", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.peer.set(func(n *next) { n.live = true; n.answer = func(mail.Attempt) []mail.Outcome { return c.answers } })
			verdicts := w.send(w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example"), c.lmtp)
			if len(verdicts) != len(c.want) {
				t.Fatalf("%d verdicts, want %d", len(verdicts), len(c.want))
			}
			for i, v := range verdicts {
				got := v.Text
				if v.Failure != nil {
					got = v.Failure.Status()
				}
				if !strings.HasPrefix(got, c.want[i]) {
					t.Errorf("verdict %d: %q, want %q", i, got, c.want[i])
				}
			}
			if c.dsn {
				w.waitState("romeo@home.example", store.Delivered)
			}
			states := w.states()
			if got := strings.TrimSpace(string(states["a@peer.example"] + " " + states["b@peer.example"])); got != c.states {
				t.Errorf("states %q, want %q", got, c.states)
			}
			if _, dsn := states["romeo@home.example"]; dsn != c.dsn {
				t.Errorf("dsn in the store: %v, want %v", dsn, c.dsn)
			}
		})
	}
}

// TestInDoubtKeepsTransfer: what is spooled in doubt goes out under the same
// transfer id, marked, also where that id is random.
func TestInDoubtKeepsTransfer(t *testing.T) {
	w := newWorld(t, nil)
	w.peer.set(func(n *next) {
		n.live = true
		n.answer = func(a mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Doubtful)} }
	})
	w.send(w.message("Subject: no id\r\n\r\nx\r\n", "romeo@home.example", "a@peer.example"), false)
	w.peer.set(func(n *next) { n.answer = nil })
	w.PeerUp("home.example", "peer.example")
	w.waitState("a@peer.example", store.Delivered)
	first, second := w.peer.attempts[0], w.peer.attempts[1]
	if first.Transfer != second.Transfer || first.InDoubt || !second.InDoubt {
		t.Errorf("transfer %s then %s, in doubt %v then %v", first.Transfer, second.Transfer, first.InDoubt, second.InDoubt)
	}
}

// TestPeerAway: mail waits, the peer is expected, and its return delivers at
// once although the retry is a minute away.
func TestPeerAway(t *testing.T) {
	w := newWorld(t, nil)
	w.peer.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome {
			return mail.AllFailed(len(a.Envelope.Recipients), mail.Fail(mail.Unreachable, "", nil))
		}
	})
	for range 3 {
		w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
	}
	until(t, "an expected peer", func() bool { w.peer.mu.Lock(); defer w.peer.mu.Unlock(); return len(w.peer.expected) > 0 })
	w.peer.set(func(n *next) { n.answer = nil })
	w.PeerUp("home.example", "peer.example")
	until(t, "three deliveries", func() bool { return len(w.peer.deliveries()) == 3 })
}

// TestBounce: a permanent failure after the 250 comes back as a DSN that says
// who, what and why; a null reverse-path and NOTIFY=NEVER get none.
func TestBounce(t *testing.T) {
	w := newWorld(t, nil)
	w.legacy.set(func(n *next) {
		n.answer = func(a mail.Attempt) []mail.Outcome {
			f := mail.FromReply("mx.far.example", 550, "5.1.1", "no such user\r\nInjected: x")
			return []mail.Outcome{{Failure: f, Remote: "mx.far.example"}}
		}
	})
	m := w.message(sample, "romeo@home.example", "x@far.example")
	m.Envelope.Recipients[0].Original = "rfc822;x@far.example"
	m.Envelope.EnvelopeID = "E1"
	w.send(m, false)
	w.waitState("romeo@home.example", store.Delivered)
	dsn := w.local.deliveries()[0]
	for _, want := range []string{
		"Content-Type: multipart/report; report-type=delivery-status;", "Reporting-MTA: dns; gw.home.example\r\n",
		"Original-Envelope-Id: E1\r\n", "Original-Recipient: rfc822;x@far.example\r\n", "Final-Recipient: rfc822; x@far.example\r\n",
		"Action: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; mx.far.example\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user Injected: x\r\n",
		"Content-Type: text/rfc822-headers\r\n", "Subject: s\r\n", "From: Mail Delivery System <MAILER-DAEMON@home.example>\r\n",
	} {
		if !strings.Contains(dsn.content, want) {
			t.Errorf("dsn lacks %q:\n%s", want, dsn.content)
		}
	}
	if strings.Contains(dsn.content, "body\r\n") || !dsn.attempt.Envelope.Sender.IsNull() {
		t.Errorf("dsn returns the body or has a reverse-path:\n%s", dsn.content)
	}

	w.send(w.message(sample, "", "y@far.example"), false)
	never := w.message(sample, "romeo@home.example", "z@far.example")
	never.Envelope.Recipients[0].Notify = mail.NotifyNever
	w.send(never, false)
	w.waitState("y@far.example", store.Bounced)
	w.waitState("z@far.example", store.Bounced)
	if n := len(w.local.deliveries()); n != 1 {
		t.Errorf("%d DSNs, want 1", n)
	}
}

// TestReturnFull: RET=FULL returns the message as it was.
func TestReturnFull(t *testing.T) {
	w := newWorld(t, nil)
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.NoSuchMailbox)} }
	})
	m := w.message(sample, "romeo@home.example", "x@far.example")
	m.Envelope.Return = "FULL"
	w.send(m, false)
	w.waitState("romeo@home.example", store.Delivered)
	if got := w.local.deliveries()[0].content; !strings.Contains(got, "Content-Type: message/rfc822\r\n") || !strings.Contains(got, sample) {
		t.Errorf("the message is not returned whole:\n%s", got)
	}
}

// TestExpiry: out of time, one DSN that repeats the last answer.
func TestExpiry(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Lifetime = 300 * time.Millisecond; c.RetryFirst = 100 * time.Millisecond })
	w.legacy.set(func(n *next) {
		n.answer = func(mail.Attempt) []mail.Outcome {
			return []mail.Outcome{{Failure: mail.FromReply("mx.far.example", 451, "4.7.1", "greylisted")}}
		}
	})
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	w.waitState("x@far.example", store.ExpiredSt)
	w.waitState("romeo@home.example", store.Delivered)
	dsn := w.local.deliveries()
	if len(dsn) != 1 || !strings.Contains(dsn[0].content, "Status: 5.4.7") || !strings.Contains(dsn[0].content, "greylisted") {
		t.Errorf("dsns %+v", dsn)
	}
}

// TestDelayNotice: one notice, then the delivery goes on.
func TestDelayNotice(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.DelayNotice = 50 * time.Millisecond
		c.RetryFirst = 60 * time.Millisecond
		c.RetryMax = 60 * time.Millisecond
	})
	busy := func(mail.Attempt) []mail.Outcome {
		return []mail.Outcome{{Failure: mail.FromReply("mx.far.example", 450, "4.2.0", "busy")}}
	}
	w.legacy.set(func(n *next) { n.answer = busy })
	w.send(w.message(sample, "romeo@home.example", "x@far.example"), false)
	w.waitState("romeo@home.example", store.Delivered)
	before := len(w.legacy.attempts)
	until(t, "two more attempts", func() bool { w.legacy.mu.Lock(); defer w.legacy.mu.Unlock(); return len(w.legacy.attempts) >= before+2 })
	w.legacy.set(func(n *next) { n.answer = nil })
	w.waitState("x@far.example", store.Delivered)
	dsn := w.local.deliveries()
	if len(dsn) != 1 || !strings.Contains(dsn[0].content, "Action: delayed\r\nStatus: 4.2.0\r\n") || !strings.Contains(dsn[0].content, "Will-Retry-Until: ") {
		t.Errorf("notices %+v", dsn)
	}
}

// TestRecipient: who may send where, before any content.
func TestRecipient(t *testing.T) {
	w := newWorld(t, nil)
	w.local.set(func(n *next) {
		n.exists = func(a mail.Address) *mail.Failure {
			if a.Local == "nobody" {
				return mail.Fail(mail.NoSuchMailbox, "", nil)
			}
			return nil
		}
	})
	w.peer.set(func(n *next) { n.exists = w.local.exists })
	here := mail.Client{Addr: netip.MustParseAddrPort("127.0.0.1:1")}
	away := mail.Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	for _, c := range []struct {
		name, from, to, status string
		client                 mail.Client
	}{
		{"own domain from anywhere", "a@far.example", "juliet@home.example", "", away},
		{"own domain, unknown", "a@far.example", "nobody@home.example", "5.1.1", away},
		{"postmaster alone", "a@far.example", "postmaster", "", away},
		{"relaying refused", "a@far.example", "b@other.example", "5.7.1", away},
		{"own reverse-path is no permission", "romeo@home.example", "b@other.example", "5.7.1", away},
		{"relaying for a trusted client", "romeo@home.example", "b@other.example", "", here},
		{"peer", "romeo@home.example", "b@peer.example", "", here},
		{"peer, unknown", "romeo@home.example", "nobody@peer.example", "5.1.1", here},
		{"peer with a foreign sender", "a@far.example", "b@peer.example", "5.7.1", here},
		{"peer with a null sender", "", "b@peer.example", "", here},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := w.entrance.Recipient(t.Context(), c.client, mail.Envelope{Sender: address(t, c.from)}, mail.Recipient{Address: address(t, c.to)})
			got := ""
			if f != nil {
				got = f.Status()
			}
			if got != c.status {
				t.Errorf("%q, want %q (%v)", got, c.status, f)
			}
		})
	}
}

// TestForeignSenderBounces: a foreign reverse-path that reaches the queue for
// a peer never goes out over a stream.
func TestForeignSenderBounces(t *testing.T) {
	w := newWorld(t, nil)
	w.send(w.message(sample, "a@far.example", "b@peer.example"), false)
	w.waitState("b@peer.example", store.Bounced)
	if n := len(w.peer.deliveries()); n != 0 {
		t.Errorf("%d deliveries to the peer, want none", n)
	}
}

// TestLoop: too many Received fields.
func TestLoop(t *testing.T) {
	w := newWorld(t, nil)
	v := w.send(w.message(strings.Repeat("Received: from a by b\r\n", mail.MaxHops+1)+"\r\nx\r\n", "a@far.example", "juliet@home.example"), false)
	if v[0].Failure == nil || v[0].Failure.Kind != mail.Loop {
		t.Errorf("verdict %+v, want a loop", v[0])
	}
}

// TestReceiveFromPeer: durable with its acceptance, delivered once, answered
// from memory the second time.
func TestReceiveFromPeer(t *testing.T) {
	w := newWorld(t, nil)
	b := mail.Binding{Local: "home.example", Remote: "peer.example", Proof: "pkix", TLS: "TLS1.3"}
	k := store.TransferKey{Domain: "peer.example", Local: "home.example", ID: strings.Repeat("a", 64)}
	var ids []mail.ID
	for range 2 {
		m := w.message(sample, "tybalt@peer.example", "juliet@home.example")
		m.Origin = mail.Origin{Transport: "xmpp", Peer: "peer.example", Remote: "127.0.0.1:5270", Received: time.Now()}
		m.Trace = []byte("Received: from theirs\r\n")
		got, failures := w.Gateway.Accept(t.Context(), k, store.ContentHash{Size: m.Facts.Size, SHA256: m.Facts.SHA256}, b, m)
		if failures[0] != nil {
			t.Fatal(failures[0])
		}
		ids = append(ids, got[0])
	}
	if ids[0] != ids[1] {
		t.Errorf("accepted as %s, then as %s", ids[0], ids[1])
	}
	w.waitState("juliet@home.example", store.Delivered)
	got := w.local.deliveries()
	if len(got) != 1 || !strings.Contains(got[0].content, "by gw.home.example with XMPP id") || !strings.HasSuffix(got[0].content, "Received: from theirs\r\n"+sample) {
		t.Errorf("delivered %+v", got)
	}
}

// TestManyAtOnce: more messages than places; each is delivered once.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	const n = 200
	var wg sync.WaitGroup
	for range n {
		m := w.message(sample, "romeo@home.example", "x@far.example", "juliet@home.example")
		wg.Go(func() {
			if v := w.send(m, false); v[0].Failure != nil {
				t.Error(v[0].Failure)
			}
		})
	}
	wg.Wait()
	until(t, "all delivered", func() bool { return len(w.legacy.deliveries()) == n && len(w.local.deliveries()) == n })
	seen := map[mail.ID]bool{}
	for _, d := range w.legacy.deliveries() {
		if seen[d.attempt.ID] {
			t.Errorf("%s delivered twice", d.attempt.ID)
		}
		seen[d.attempt.ID] = true
	}
}

// TestLargeContentFromStore: what does not fit in memory is read back from the
// store, unchanged.
func TestLargeContentFromStore(t *testing.T) {
	w := newWorld(t, nil)
	large := "Subject: large\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n", 20_000)
	w.send(w.message(large, "romeo@home.example", "x@far.example"), false)
	until(t, "delivery", func() bool { return len(w.legacy.deliveries()) == 1 })
	if got := w.legacy.deliveries()[0].content; !bytes.HasSuffix([]byte(got), []byte(large)) {
		t.Errorf("content of %d octets changed", len(large))
	}
}

// Package crash kills gateways at named points and counts what arrives.
package crash

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/lab/harness"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/postgres"
	"mailxmppd/store/sqlite"
	"mailxmppd/store/storetest"
)

// kill is one way to die: which gateway, where, and what traffic gets it there.
type kill struct {
	point  string
	victim string // "a": the sending gateway, "b": the receiving one
	cut    bool   // cut-through instead of spooling at a
	legacy bool   // mail to a legacy domain by SMTP instead of the peer over XMPP
	large  bool   // messages that travel in chunks
}

// kills reaches every stop point there is, on each side that has it.
var kills = []kill{
	{point: "accept.received", victim: "a"},
	{point: "accept.received", victim: "a", cut: true},
	{point: "accept.handed-over", victim: "a", cut: true},
	{point: "accept.spooled", victim: "a"},
	{point: "smtp.before-reply", victim: "a"},
	{point: "smtp.before-reply", victim: "a", cut: true},
	{point: "store.put.before-commit", victim: "a"},
	{point: "store.put.after-commit", victim: "a"},
	{point: "deliver.begun", victim: "a"},
	{point: "xmpp.before-offer", victim: "a"},
	{point: "xmpp.before-offer", victim: "a", cut: true},
	{point: "xmpp.after-answer", victim: "a"},
	{point: "xmpp.after-answer", victim: "a", large: true},
	{point: "xmpp.chunk-sent", victim: "a", large: true},
	{point: "deliver.tried", victim: "a"},
	{point: "settle.before", victim: "a"},
	{point: "store.settle.before-commit", victim: "a"},
	{point: "store.settle.after-commit", victim: "a"},
	{point: "settle.after", victim: "a"},
	{point: "smtp.before-dot", victim: "a", legacy: true},
	{point: "smtp.after-reply", victim: "a", legacy: true},
	{point: "xmpp.chunk-taken", victim: "b", large: true},
	{point: "receive.before-accept", victim: "b"},
	{point: "receive.before-accept", victim: "b", cut: true, large: true},
	{point: "store.accept.before-commit", victim: "b"},
	{point: "store.accept.before-commit", victim: "b", cut: true},
	{point: "store.accept.after-commit", victim: "b"},
	{point: "store.accept.after-commit", victim: "b", cut: true, large: true},
	{point: "xmpp.after-accept", victim: "b"},
	{point: "xmpp.after-accept", victim: "b", cut: true},
	{point: "deliver.begun", victim: "b"},
	{point: "smtp.before-dot", victim: "b"},
	{point: "smtp.after-reply", victim: "b"},
	{point: "deliver.tried", victim: "b"},
	{point: "settle.before", victim: "b"},
	{point: "store.settle.before-commit", victim: "b"},
	{point: "store.settle.after-commit", victim: "b"},
}

// inFlight is how many attempts to one next hop the gateways here may have.
const inFlight = 4

func (k kill) String() string {
	name := k.point + " at " + k.victim
	for _, f := range []struct {
		on   bool
		word string
	}{{k.cut, " cut-through"}, {k.legacy, " legacy"}, {k.large, " large"}} {
		if f.on {
			name += f.word
		}
	}
	return name
}

// TestEveryPointIsKilled fails when the code has a stop point that no kill
// reaches. That a kill reaches its point is checked by TestKill.
func TestEveryPointIsKilled(t *testing.T) {
	points := sourcePoints(t)
	if len(points) == 0 {
		t.Fatal("no stop points found in the code")
	}
	for p, file := range points {
		if !slices.ContainsFunc(kills, func(k kill) bool { return k.point == p }) {
			t.Errorf("stop point %s in %s is killed by no test", p, file)
		}
	}
	for _, k := range kills {
		if _, ok := points[k.point]; !ok {
			t.Errorf("stop point %s is in no file", k.point)
		}
	}
}

// sourcePoints finds the calls of faults.Point in the module.
func sourcePoints(t *testing.T) map[string]string {
	t.Helper()
	points := map[string]string{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Point" && fmt.Sprint(sel.X) == "faults" {
					for _, name := range pointNames(call.Args[0]) {
						points[name] = path
					}
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return points
}

// pointNames reads the name of a point. Where it is put together at run time it
// is one of the stores', which have the same around each kind of commit.
func pointNames(arg ast.Expr) []string {
	if lit, ok := arg.(*ast.BasicLit); ok && lit.Kind == token.STRING {
		if name, err := strconv.Unquote(lit.Value); err == nil {
			return []string{name}
		}
	}
	var names []string
	for _, op := range []string{"put", "accept", "settle"} {
		names = append(names, "store."+op+".before-commit", "store."+op+".after-commit")
	}
	return names
}

// backend makes the stores of a pair.
type backend struct {
	name string
	url  func(dir, domain string) (url, schema string)
	open func(ctx context.Context, url, schema string) (store.Store, error)
}

func sqliteBackend() backend {
	return backend{
		name: "sqlite",
		url:  func(dir, domain string) (string, string) { return "sqlite://" + filepath.Join(dir, domain+".db"), "" },
		open: func(ctx context.Context, url, _ string) (store.Store, error) {
			return sqlite.Open(ctx, sqlite.Config{Path: strings.TrimPrefix(url, "sqlite://")})
		},
	}
}

func postgresBackend(server string) backend {
	return backend{
		name: "postgres",
		url: func(dir, domain string) (string, string) {
			return server, fmt.Sprintf("crash_%d_%s", time.Now().UnixNano(), domain[:1])
		},
		open: func(ctx context.Context, url, schema string) (store.Store, error) {
			return postgres.Open(ctx, postgres.Config{URL: url, Schema: schema, Node: "lab"})
		},
	}
}

// TestKill sends mail through a pair of gateways, kills one of them at each
// stop point, starts it again, and looks: every message that was acknowledged
// is exactly once in the receiving gateway's store, and in the final mailbox
// once, or once more for each attempt that was in flight to it.
func TestKill(t *testing.T) {
	exe, err := harness.Build(t.TempDir(), "faults")
	if err != nil {
		t.Fatal(err)
	}
	server := storetest.StartPostgres(t)
	for _, b := range []backend{sqliteBackend(), postgresBackend(server)} {
		t.Run(b.name, func(t *testing.T) {
			for _, k := range kills {
				t.Run(k.String(), func(t *testing.T) {
					t.Parallel()
					newTrial(t, exe, b, k).run()
				})
			}
		})
	}
}

// trial is one kill and what is seen of it.
type trial struct {
	*testing.T
	kill     kill
	backend  backend
	sink     *harness.Sink
	a, b     *harness.Gateway
	receiver harness.Side // whose store is judged

	mu    sync.Mutex
	sent  map[string]string // Message-ID -> transfer id
	acked map[string]bool
}

func newTrial(t *testing.T, exe string, b backend, k kill) *trial {
	dir, err := harness.ShortDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := harness.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := harness.NewSink("127.0.0.1:0", messageID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sink.Close)
	tr := &trial{T: t, kill: k, backend: b, sink: sink, sent: map[string]string{}, acked: map[string]bool{}}
	var sideA, sideB harness.Side
	sideA.Domain, sideB.Domain = "a.example", "b.example"
	sideA.Store, sideA.Schema = b.url(dir, sideA.Domain)
	sideB.Store, sideB.Schema = b.url(dir, sideB.Domain)
	tr.receiver = sideB
	pair, err := harness.NewPair(harness.Spec{
		Exe: exe, Dir: dir, CA: ca, Deliver: "lmtp://" + sink.Addr, Route: "smtp://" + sink.Addr,
		Extra: fmt.Sprintf("cut_through = %v\nrequest_timeout = \"5s\"\n[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\nper_domain = %d\n", k.cut, inFlight),
	}, sideA, sideB)
	if err != nil {
		t.Fatal(err)
	}
	tr.a, tr.b = pair.A, pair.B
	t.Cleanup(func() { tr.a.Kill(); tr.b.Kill() })
	return tr
}

// messageID finds the Message-ID of what arrived.
func messageID(content []byte) string {
	_, rest, _ := strings.Cut(string(content), "\r\nMessage-ID: ")
	id, _, _ := strings.Cut(rest, "\r\n")
	return id
}

func (tr *trial) run() {
	victim, other := tr.a, tr.b
	if tr.kill.victim == "b" {
		victim, other = tr.b, tr.a
	}
	tr.must(other.Start(tr.Context()))
	tr.must(victim.Start(tr.Context(), "MAILXMPPD_STOP_AT="+tr.kill.point+":3"))

	tr.sendUntilStopped(victim)
	tr.must(victim.Kill())
	tr.must(victim.Start(tr.Context()))
	if !tr.kill.legacy {
		tr.sendAgain()
	}
	tr.settle()
	tr.must(tr.a.Stop())
	tr.must(tr.b.Stop())
	tr.judge()
}

func (tr *trial) must(err error) {
	tr.Helper()
	if err != nil {
		tr.Fatalf("%v\nlog of a:\n%s\nlog of b:\n%s", err, tail(tr.a.Log()), tail(tr.b.Log()))
	}
}

func tail(log string) string { return log[max(0, len(log)-6000):] }

// sendUntilStopped sends from four sessions until the victim stands still.
func (tr *trial) sendUntilStopped(victim *harness.Gateway) {
	tr.Helper()
	stopped := victim.AtStopPoint()
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 25 {
				select {
				case <-done:
					return
				default:
				}
				tr.send(fmt.Sprintf("<%d.%d@a.example>", i, n), done)
			}
		})
	}
	defer wg.Wait()
	select {
	case <-stopped:
		time.Sleep(100 * time.Millisecond) // let what can still go on go on
		close(done)
	case <-time.After(60 * time.Second):
		close(done)
		tr.Errorf("stop point %s was not reached\nlog:\n%s", tr.kill.point, tail(victim.Log()))
	}
}

// content is the message with an id; large ones travel in chunks.
func (tr *trial) content(id string) []byte {
	lines := 20
	if tr.kill.large {
		lines = 6000
	}
	return []byte("From: x@a.example\r\nMessage-ID: " + id + "\r\n\r\n" + strings.Repeat(strings.Repeat("0123456789", 7)+"\r\n", lines))
}

// send sends one message in a session of its own, which ends early when the
// gateway has stopped: such a client heard nothing.
func (tr *trial) send(id string, give <-chan struct{}) {
	content := tr.content(id)
	sender := mail.Address{Local: "x", Domain: "a.example"}
	buf := mail.NewBuffer("")
	buf.Write(content)
	tr.mu.Lock()
	tr.sent[id] = mail.TransferID(sender, buf.Facts())
	tr.mu.Unlock()
	buf.Close()
	c, err := harness.Dial(tr.a.SMTP)
	if err != nil {
		return
	}
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-give:
		case <-over:
		}
		c.Close()
	}()
	to := "y@b.example"
	if tr.kill.legacy {
		to = "y@legacy.example"
	}
	if _, err := c.Send(sender.String(), []string{to}, harness.Stuff(content)); err == nil {
		tr.mu.Lock()
		tr.acked[id] = true
		tr.mu.Unlock()
	}
}

// sendAgain does what a real client does with a message that was not
// acknowledged.
func (tr *trial) sendAgain() {
	tr.Helper()
	never := make(chan struct{})
	for id := range tr.sent {
		for try := 0; !tr.acked[id]; try++ {
			if try == 50 {
				tr.Fatalf("%s is not taken after the restart\nlog of a:\n%s", id, tail(tr.a.Log()))
			}
			if tr.send(id, never); !tr.acked[id] {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}
}

// settle waits until every acknowledged message has arrived, and then until
// nothing more does.
func (tr *trial) settle() {
	tr.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for len(tr.missing()) > 0 {
		if time.Now().After(deadline) {
			tr.Fatalf("lost: %d of %d acknowledged messages, e.g. %s\nlog of a:\n%s\nlog of b:\n%s",
				len(tr.missing()), len(tr.acked), tr.missing()[0], tail(tr.a.Log()), tail(tr.b.Log()))
		}
		time.Sleep(20 * time.Millisecond)
	}
	for last, still := tr.sink.Count(), 0; still < 10; time.Sleep(50 * time.Millisecond) {
		if n := tr.sink.Count(); n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
}

func (tr *trial) missing() []string {
	got := map[string]bool{}
	for _, id := range tr.sink.Got() {
		got[id] = true
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	var out []string
	for id := range tr.acked {
		if !got[id] {
			out = append(out, id)
		}
	}
	return out
}

// judge counts twins: none in the receiving store, and in the mailbox only as
// many as attempts were in flight to it when its gateway died.
func (tr *trial) judge() {
	allowed := 0
	if tr.kill.victim == "b" || tr.kill.legacy {
		allowed = inFlight
	}
	arrived := map[string]int{}
	for _, id := range tr.sink.Got() {
		arrived[id]++
	}
	twins := 0
	for id, n := range arrived {
		twins += n - 1
		if n > 2 {
			tr.Errorf("%s arrived %d times", id, n)
		}
	}
	if twins > allowed {
		tr.Errorf("%d twins in the mailbox, at most %d attempts were in flight", twins, allowed)
	}
	if !tr.kill.legacy {
		tr.judgeStore()
	}
}

// judgeStore looks for each acknowledged message in the receiving store.
func (tr *trial) judgeStore() {
	st, err := tr.backend.open(tr.Context(), tr.receiver.Store, tr.receiver.Schema)
	tr.must(err)
	defer st.Close()
	list, err := st.List(tr.Context(), store.Filter{Closed: true, Limit: 10_000})
	tr.must(err)
	times := map[string]int{}
	for _, e := range list {
		r, err := st.Show(tr.Context(), e.ID)
		tr.must(err)
		times[r.Transfer]++
		if e.State != store.Delivered {
			tr.Errorf("%s is %s at the end", e.ID, e.State)
		}
	}
	for id := range tr.acked {
		if n := times[tr.sent[id]]; n != 1 {
			tr.Errorf("%s is %d times in the receiving store", id, n)
		}
	}
}

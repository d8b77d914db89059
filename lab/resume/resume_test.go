// Package resume cuts large messages short, at every chunk: the connection, the
// sending gateway, the receiving one. Each message must be found once, and
// unchanged, and no octet of it be taken twice, whoever has died.
package resume

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/admin"
	"mailxmppd/lab/harness"
	"mailxmppd/store/storetest"
)

// TestMain runs more cases at once than there are processors: mostly they wait
// for a gateway to try again.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

const (
	chunk   = 64 << 10
	wire    = chunk * 4 / 3 // octets of a chunk on the wire, about
	window  = 4             // what the gateways use unless told otherwise
	opening = 16 << 10      // octets of a handshake and an offer, at most
)

// chunks is how many a message has: it is cut at each of them. There are more
// with MAILXMPPD_LONG=1.
var chunks = func() int {
	if os.Getenv("MAILXMPPD_LONG") == "1" {
		return 24
	}
	return 6
}()

var serial atomic.Int64

// message makes a message of just so many chunks, with octets of its own.
func message() (content []byte, mark string) {
	id := fmt.Sprintf("<%d.%d@a.example>", time.Now().UnixNano(), serial.Add(1))
	b := []byte(head + id + "\r\n\r\n")
	for i := 0; len(b) < chunks*chunk-200; i++ {
		b = fmt.Appendf(b, ".%d %s \xff\xfe parting is such sweet sorrow\r\n", i, id)
	}
	b = append(append(b, bytes.Repeat([]byte("x"), chunks*chunk-len(b)-2)...), "\r\n"...)
	return b, markOf(b)
}

const head = "From: juliet@a.example\r\nMessage-ID: "

// markOf tells messages apart by what they were before anything was put in
// front of them.
func markOf(content []byte) string {
	i := bytes.Index(content, []byte(head))
	if i < 0 {
		return "no message of ours"
	}
	return fmt.Sprintf("%x", sha256.Sum256(content[i:]))
}

// lab is two gateways and the final mailbox.
type lab struct {
	*testing.T
	dir  string
	ca   *harness.CA
	exe  string
	sink *harness.Sink
	a, b *harness.Gateway
}

func newLab(t *testing.T, exe string) *lab {
	t.Helper()
	dir, err := harness.ShortDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l := &lab{T: t, dir: dir, exe: exe}
	if l.ca, err = harness.NewCA(dir); err != nil {
		t.Fatal(err)
	}
	if l.sink, err = harness.NewSink("127.0.0.1:0", markOf); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.sink.Close)
	return l
}

// gateway configures one; xmpp and peer are the addresses of its own streams
// and of its peer's.
func (l *lab) gateway(name, domain, store, schema, smtp, xmpp, peerDomain, peer string) *harness.Gateway {
	l.Helper()
	g, err := harness.NewGateway(harness.Spec{
		Exe: l.exe, Dir: filepath.Join(l.dir, name), CA: l.ca, Domain: domain, Store: store, Schema: schema,
		Deliver: "lmtp://" + l.sink.Addr, SMTP: smtp, XMPP: xmpp, Peers: map[string]string{peerDomain: peer},
		Extra: fmt.Sprintf("chunk = %d\ncut_through = false\nrequest_timeout = \"10s\"\n[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\n", chunk),
	})
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { g.Kill() })
	return g
}

func (l *lab) addrs(n int) []string {
	l.Helper()
	addrs, err := harness.FreeAddrs(n)
	if err != nil {
		l.Fatal(err)
	}
	return addrs
}

func (l *lab) sqlite(name string) string { return "sqlite://" + filepath.Join(l.dir, name+".db") }

func (l *lab) start(g *harness.Gateway, env ...string) {
	l.Helper()
	if err := g.Start(l.Context(), env...); err != nil {
		l.Fatal(err)
	}
}

// send hands a message to the sending gateway, which spools it.
func (l *lab) send(content []byte) {
	l.Helper()
	c, err := harness.Dial(l.a.SMTP)
	if err != nil {
		l.Fatal(err)
	}
	defer c.Close()
	if said, err := c.Send("juliet@a.example", []string{"romeo@b.example"}, harness.Stuff(content)); err != nil {
		l.Fatalf("%v %s", err, said)
	}
}

// arrivedOnce waits for a message, and then a little for a twin.
func (l *lab) arrivedOnce(mark string) {
	l.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for l.arrivals(mark) == 0 {
		if time.Now().After(deadline) {
			l.Fatalf("not arrived; the mailbox has %d\nlog of a:\n%s\nlog of b:\n%s", l.sink.Count(), tail(l.a.Log()), tail(l.b.Log()))
		}
		time.Sleep(10 * time.Millisecond)
	}
	for range 20 { // as long as an attempt that runs may take to end
		time.Sleep(10 * time.Millisecond)
	}
	if n := l.arrivals(mark); n != 1 {
		l.Errorf("arrived %d times", n)
	}
}

func (l *lab) arrivals(mark string) int {
	n := 0
	for _, got := range l.sink.Got() {
		if got == mark {
			n++
		}
	}
	return n
}

// took asks a gateway how many octets of content it has taken in chunks since
// its start, and how often it went on above offset 0.
func (l *lab) took(g *harness.Gateway) (octets, resumed int) {
	l.Helper()
	parts, err := admin.NewClient(filepath.Join(filepath.Dir(g.Config), "admin.sock")).Counters(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	n := func(name string) int {
		v, _ := parts["transfers"][name].(float64) // missing: none yet
		return int(v)
	}
	return n("chunk-octets"), n("resumed")
}

// tookOnce holds what a gateway has taken against what it should have: every
// octet that it had before counts as sent again.
func (l *lab) tookOnce(g *harness.Gateway, octets, resumed int) {
	l.Helper()
	if gotOctets, gotResumed := l.took(g); gotOctets != octets || gotResumed < resumed {
		l.Errorf("%d octets taken and %d times resumed, want %d and at least %d", gotOctets, gotResumed, octets, resumed)
	}
}

func tail(log string) string { return log[max(0, len(log)-4000):] }

func build(t *testing.T) string {
	t.Helper()
	exe, err := harness.Build(t.TempDir(), "faults")
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// TestConnectionCutAtEveryChunk: the message goes on where the receiver stands.
func TestConnectionCutAtEveryChunk(t *testing.T) {
	t.Parallel()
	l := newLab(t, build(t))
	addrs := l.addrs(4)
	p := newProxy(t, addrs[3])
	l.a = l.gateway("a", "a.example", l.sqlite("a"), "", addrs[0], addrs[1], "b.example", p.addr)
	l.b = l.gateway("b", "b.example", l.sqlite("b"), "", addrs[2], addrs[3], "a.example", addrs[1])
	l.start(l.b)
	l.start(l.a)
	for k := 1; k <= chunks; k++ {
		t.Run(fmt.Sprint("chunk ", k), func(t *testing.T) {
			l.T = t
			p.arm(k*wire - wire/2)
			content, mark := message()
			l.send(content)
			l.arrivedOnce(mark)
			octets, cuts := p.passed()
			if cuts != 1 {
				t.Errorf("cut %d times", cuts)
			}
			// What was in flight may have to be sent again, and streams have
			// to be set up again.
			if most := (chunks+window+1)*wire*11/10 + 4*opening; octets > most {
				t.Errorf("%d octets sent for a message of %d in base64, at most %d if resumed", octets, chunks*wire, most)
			}
			l.tookOnce(l.b, k*chunks*chunk, 0)
		})
	}
	if n := l.sink.Count(); n != chunks {
		t.Errorf("%d messages in the mailbox, %d sent", n, chunks)
	}
}

// TestKilledAtEveryChunk: the sender or the receiver dies when so many chunks
// have been answered or taken, and is started again.
func TestKilledAtEveryChunk(t *testing.T) {
	t.Parallel()
	exe := build(t)
	for k := 1; k <= chunks; k++ {
		for _, victim := range []string{"a", "b"} {
			t.Run(fmt.Sprintf("%s at chunk %d", victim, k), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, exe)
				addrs := l.addrs(4)
				l.a = l.gateway("a", "a.example", l.sqlite("a"), "", addrs[0], addrs[1], "b.example", addrs[3])
				l.b = l.gateway("b", "b.example", l.sqlite("b"), "", addrs[2], addrs[3], "a.example", addrs[1])
				dies, other, point := l.a, l.b, "xmpp.chunk-sent"
				if victim == "b" {
					dies, other, point = l.b, l.a, "xmpp.chunk-taken"
				}
				l.start(other)
				l.start(dies, fmt.Sprintf("MAILXMPPD_STOP_AT=%s:%d", point, k))
				content, mark := message()
				l.send(content)
				select {
				case <-dies.AtStopPoint():
				case <-time.After(60 * time.Second):
					t.Fatalf("%s was not passed %d times\n%s", point, k, tail(dies.Log()))
				}
				if err := dies.Kill(); err != nil {
					t.Fatal(err)
				}
				if l.arrivals(mark) != 0 {
					t.Fatal("arrived before it was whole")
				}
				l.start(dies)
				l.arrivedOnce(mark)
				// What was taken is still there, whoever died: the receiver's
				// store had the octets of each chunk before it said so.
				left := chunks * chunk
				if victim == "b" {
					left -= k * chunk
				}
				l.tookOnce(l.b, left, 1)
				if n := l.sink.Count(); n != 1 {
					t.Errorf("%d messages in the mailbox", n)
				}
			})
		}
	}
}

// TestAnotherNodeGoesOn: of two nodes of the receiver, on one PostgreSQL, the
// one that has the transfer dies for good.
func TestAnotherNodeGoesOn(t *testing.T) {
	t.Parallel()
	exe := build(t)
	server := storetest.StartPostgres(t)
	for k := 1; k <= chunks; k++ {
		t.Run(fmt.Sprint("chunk ", k), func(t *testing.T) {
			l := newLab(t, exe)
			addrs := l.addrs(6)
			schema := fmt.Sprint("resume_", k)
			p := newProxy(t, addrs[5])
			l.a = l.gateway("a", "a.example", l.sqlite("a"), "", addrs[0], addrs[1], "b.example", addrs[3])
			first := l.gateway("b1", "b.example", server, schema, addrs[2], addrs[3], "a.example", addrs[1])
			l.b = l.gateway("b2", "b.example", server, schema, addrs[4], addrs[5], "a.example", addrs[1])
			edit(t, l.b.Config, `node = "lab"`, `node = "lab2"`)
			edit(t, l.a.Config, `"`+addrs[3]+`"`, `"`+addrs[3]+`", "`+p.addr+`"`)
			l.start(first, fmt.Sprintf("MAILXMPPD_STOP_AT=xmpp.chunk-taken:%d", k))
			l.start(l.b)
			l.start(l.a)
			content, mark := message()
			l.send(content)
			select {
			case <-first.AtStopPoint():
			case <-time.After(60 * time.Second):
				t.Fatalf("the first node took less than %d chunks\n%s", k, tail(l.a.Log()))
			}
			if err := first.Kill(); err != nil {
				t.Fatal(err)
			}
			l.arrivedOnce(mark)
			octets, _ := p.passed()
			if most := (chunks-k+1)*wire*11/10 + 2*opening; octets > most {
				t.Errorf("%d octets went to the second node, at most %d if resumed", octets, most)
			}
			l.tookOnce(l.b, (chunks-k)*chunk, 1)
		})
	}
}

// edit replaces a text in a configuration file.
func edit(t *testing.T, file, old, by string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s has no %s", file, old)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), old, by, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

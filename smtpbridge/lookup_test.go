package smtpbridge

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"mailxmppd/mail"
)

// directory is a Standings that knows a few domains. What it is asked about
// "slow.example" it answers when its context ends.
type directory struct{ asked atomic.Int32 }

func (d *directory) Standing(ctx context.Context, domain string) (mail.Standing, *mail.Failure) {
	d.asked.Add(1)
	switch domain {
	case "peer.example", "xn--bcher-kva.example", "1und1.example":
		return mail.Peer, nil
	case "unsure.example":
		return mail.Unsure, mail.Fail(mail.Internal, "the secret reason", nil)
	case "slow.example":
		<-ctx.Done()
		return mail.Unsure, mail.Fail(mail.Internal, "", ctx.Err())
	}
	return mail.Legacy, nil
}

// startLookup serves a Lookup until the test ends.
func startLookup(t testing.TB, ln net.Listener, change func(*LookupConfig)) *Lookup {
	t.Helper()
	cfg := LookupConfig{
		Standings: &directory{}, Own: []string{"ours.example"}, Answer: "lmtp:[127.0.0.1]:24",
		Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Connections: 10,
		Timeouts: LookupTimeouts{Answer: 50 * time.Millisecond},
	}
	if change != nil {
		change(&cfg)
	}
	l, err := NewLookup(cfg)
	if err != nil {
		t.Fatal(err)
	}
	serveBeside(t, l, ln)
	return l
}

// serveBeside runs a server of a neighbour until the test ends, which none of
// its connections may outlive.
func serveBeside(t testing.TB, s interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}, ln net.Listener) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
}

func listenLoopback(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func dialBeside(t testing.TB, addr net.Addr) net.Conn {
	t.Helper()
	c, err := net.Dial(addr.Network(), addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func netstring(s string) string { return fmt.Sprintf("%d:%s,", len(s), s) }

// readNetstring reads one answer.
func readNetstring(t *testing.T, br *bufio.Reader) string {
	t.Helper()
	var n int
	if _, err := fmt.Fscanf(br, "%d:", &n); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n+1)
	if _, err := io.ReadFull(br, b); err != nil || b[n] != ',' {
		t.Fatalf("%q %v", b, err)
	}
	return string(b[:n])
}

// lookupCases are questions and their answers, the same for both protocols.
var lookupCases = []struct{ name, key, want string }{
	{"a peer", "peer.example", "OK lmtp:[127.0.0.1]:24"},
	{"in capitals", "PEER.Example", "OK lmtp:[127.0.0.1]:24"},
	{"with U-labels", "b\u00fccher.example", "OK lmtp:[127.0.0.1]:24"},
	{"begins with a digit", "1und1.example", "OK lmtp:[127.0.0.1]:24"},
	{"legacy", "legacy.example", "NOTFOUND"},
	{"below a peer", "sub.peer.example", "NOTFOUND"},
	{"our own", "ours.example", "NOTFOUND"},
	{"an address", "user@peer.example", "OK lmtp:[127.0.0.1]:24"},
	{"an odd address", "\"a@legacy.example \\\"b\"+c@peer.example", "OK lmtp:[127.0.0.1]:24"},
	{"an address at a legacy domain", "peer.example@legacy.example", "NOTFOUND"},
	{"an address of ours", "user@ours.example", "NOTFOUND"},
	{"an address at a literal", "user@[192.0.2.1]", "NOTFOUND"},
	{"an address without a domain", "user@", "NOTFOUND"},
	{"every domain below", ".peer.example", "NOTFOUND"},
	{"everything", "*", "NOTFOUND"},
	{"nothing", "", "NOTFOUND"},
	{"an address literal", "[192.0.2.1]", "NOTFOUND"},
	{"no domain", "peer..example", "NOTFOUND"},
	{"octets", "peer\xff\x00.example", "NOTFOUND"},
	{"cannot be told", "unsure.example", "TEMP cannot tell now whether unsure.example takes mail over XMPP"},
	{"cannot be told in time", "slow.example", "TEMP cannot tell now whether slow.example takes mail over XMPP"},
}

// TestLookupSocketmap asks all on one connection, as Postfix does, and as fast
// as it can.
func TestLookupSocketmap(t *testing.T) {
	ln := listenLoopback(t)
	l := startLookup(t, ln, nil)
	c := dialBeside(t, ln.Addr())
	var all strings.Builder
	for _, k := range lookupCases {
		all.WriteString(netstring("peers " + k.key))
	}
	if _, err := io.WriteString(c, all.String()); err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	for _, k := range lookupCases {
		// Postfix wants the space after the word, even where no reason follows.
		want := k.want
		if want == "NOTFOUND" {
			want = "NOTFOUND "
		}
		if got := readNetstring(t, br); got != want {
			t.Errorf("%s: got %q, want %q", k.name, got, want)
		}
	}
	got := l.Counts()
	want := LookupCounts{Connections: 1, Peer: 6, Own: 2, Legacy: 3, Unsure: 2, NoDomain: 8}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestLookupLine asks as Exim's readsocket does: it reads to the end of the
// connection.
func TestLookupLine(t *testing.T) {
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	startLookup(t, ln, nil)
	for _, k := range lookupCases {
		for _, end := range []string{"\n", "\r\n", ""} {
			if k.key == "" && end == "" {
				continue
			}
			c := dialBeside(t, ln.Addr())
			io.WriteString(c, k.key+end)
			c.(*net.UnixConn).CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || string(got) != k.want+"\n" {
				t.Errorf("%s: got %q, %v, want %q", k.name, got, err, k.want)
			}
		}
	}
}

// TestLookupMemory: what took long is not asked again for a while, what did not
// is; and a domain that comes back from being unsure is found again.
func TestLookupMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var k lookupMemory
		for i, c := range []struct {
			standing mail.Standing
			took     time.Duration
			kept     bool
		}{{mail.Legacy, 0, false}, {mail.Peer, slowLookup - 1, false}, {mail.Legacy, slowLookup, true}, {mail.Peer, slowLookup, true}, {mail.Unsure, 0, true}} {
			domain := fmt.Sprint(i, ".example")
			k.put(domain, c.standing, c.took)
			if standing, kept := k.get(domain); kept != c.kept || kept && standing != c.standing {
				t.Errorf("%+v: got %v, %v", c, standing, kept)
			}
		}
		time.Sleep(lookupKeptFor)
		if _, kept := k.get("4.example"); kept {
			t.Error("kept for ever")
		}
		for i := range 2 * lookupsKept {
			k.put(fmt.Sprint(i), mail.Unsure, 0)
		}
		if len(k.m) > lookupsKept {
			t.Errorf("%d kept", len(k.m))
		}
	})
	d := &directory{}
	l, err := NewLookup(LookupConfig{Standings: d, Answer: "a", Connections: 1})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		l.answer(t.Context(), "unsure.example")
		l.answer(t.Context(), "peer.example")
	}
	if n := d.asked.Load(); n != 4 {
		t.Errorf("asked %d times, want once about the one and three times about the other", n)
	}
}

// TestLookupOwn: with an answer for them, our own domains are found.
func TestLookupOwn(t *testing.T) {
	ln := listenLoopback(t)
	startLookup(t, ln, func(c *LookupConfig) { c.OwnAnswer = "lmtp:[127.0.0.1]:2424" })
	c := dialBeside(t, ln.Addr())
	io.WriteString(c, netstring("any ours.example"))
	if got := readNetstring(t, bufio.NewReader(c)); got != "OK lmtp:[127.0.0.1]:2424" {
		t.Errorf("got %q", got)
	}
}

// TestLookupHostile: each of these ends the connection, is counted, and was
// never taken for a question.
func TestLookupHostile(t *testing.T) {
	for name, input := range map[string]string{
		"a length beyond the bound":      "999999:peers peer.example,",
		"a length beyond every number":   "99999999999999999999999999:x,",
		"no comma":                       "18:peers peer.example;",
		"no name of a map":               netstring("peer.example"),
		"an empty name of a map":         netstring(" peer.example"),
		"an empty netstring":             "0:,",
		"a netstring that ends early":    "18:peers peer",
		"a line without end":             strings.Repeat("a", lookupBuffer+1),
		"a line too long":                strings.Repeat("a", maxLookup+3) + "\n",
		"half a netstring, then no more": "18:",
	} {
		t.Run(name, func(t *testing.T) {
			ln, d := listenLoopback(t), &directory{}
			l := startLookup(t, ln, func(c *LookupConfig) { c.Standings, c.Timeouts.Question = d, 100*time.Millisecond })
			c := dialBeside(t, ln.Addr())
			io.WriteString(c, input)
			if got, err := io.ReadAll(c); len(got) > 0 {
				t.Errorf("got %q %v", got, err)
			}
			if n := l.Counts().BrokenOff; n != 1 || d.asked.Load() != 0 {
				t.Errorf("broken off %d times, asked %d times", n, d.asked.Load())
			}
		})
	}
}

// TestLookupTurnsAway: who is not trusted, and who is one too many, hears
// nothing.
func TestLookupTurnsAway(t *testing.T) {
	for name, change := range map[string]func(*LookupConfig){
		"not trusted":  func(c *LookupConfig) { c.Trusted = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} },
		"one too many": func(c *LookupConfig) { c.Connections = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			ln := listenLoopback(t)
			l := startLookup(t, ln, change)
			first := dialBeside(t, ln.Addr())
			if name == "one too many" {
				io.WriteString(first, netstring("peers peer.example"))
				readNetstring(t, bufio.NewReader(first))
			}
			c := dialBeside(t, ln.Addr())
			io.WriteString(c, "peer.example\n")
			if got, _ := io.ReadAll(c); len(got) > 0 {
				t.Errorf("got %q", got)
			}
			if n := l.Counts().TurnedAway; n == 0 {
				t.Error("not counted")
			}
		})
	}
}

// TestLookupIdle: who asks nothing is sent away after a while.
func TestLookupIdle(t *testing.T) {
	ln := listenLoopback(t)
	startLookup(t, ln, func(c *LookupConfig) { c.Timeouts.Idle = 20 * time.Millisecond })
	if got, err := io.ReadAll(dialBeside(t, ln.Addr())); len(got) > 0 || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestLookupShutdown: a question in hand is answered, who is idle is sent away
// at once.
func TestLookupShutdown(t *testing.T) {
	ln, d := listenLoopback(t), &directory{}
	l := startLookup(t, ln, func(c *LookupConfig) { c.Standings, c.Timeouts.Answer = d, time.Second })
	idle, busy := dialBeside(t, ln.Addr()), dialBeside(t, ln.Addr())
	io.WriteString(idle, netstring("peers peer.example"))
	br := bufio.NewReader(idle)
	readNetstring(t, br)
	io.WriteString(busy, "slow.example\n")
	for d.asked.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := l.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if got, _ := io.ReadAll(br); len(got) > 0 {
		t.Errorf("idle: got %q", got)
	}
	if got, _ := io.ReadAll(busy); !strings.HasPrefix(string(got), "TEMP ") {
		t.Errorf("busy: got %q", got)
	}
}

// TestNewLookup: a mistake is found at the start.
func TestNewLookup(t *testing.T) {
	good := LookupConfig{Standings: &directory{}, Answer: "a", Connections: 1}
	for name, change := range map[string]func(*LookupConfig){
		"nobody to ask":   func(c *LookupConfig) { c.Standings = nil },
		"no answer":       func(c *LookupConfig) { c.Answer = "" },
		"two lines":       func(c *LookupConfig) { c.Answer = "a\nOK b" },
		"two lines, ours": func(c *LookupConfig) { c.OwnAnswer = "a\nOK b" },
		"too long":        func(c *LookupConfig) { c.Answer = strings.Repeat("a", maxLookupAnswer+1) },
		"no connections":  func(c *LookupConfig) { c.Connections = 0 },
	} {
		cfg := good
		change(&cfg)
		if _, err := NewLookup(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// FuzzLookup: whatever is asked, a question is bounded, and reading it takes
// no more of the input than is there.
func FuzzLookup(f *testing.F) {
	for _, k := range lookupCases {
		f.Add([]byte(netstring("peers " + k.key)))
		f.Add([]byte(k.key + "\n"))
	}
	f.Add([]byte("007:peers a,"))
	f.Add([]byte("5:"))
	f.Fuzz(func(t *testing.T, input []byte) {
		br := bufio.NewReaderSize(strings.NewReader(string(input)), lookupBuffer)
		for range len(input) + 1 {
			before := br.Buffered()
			q, err := readLookup(br)
			if err != nil {
				return
			}
			if len(q.key) > maxLookup {
				t.Fatalf("key of %d octets", len(q.key))
			}
			if q.line && strings.Contains(q.key, "\n") {
				t.Fatalf("two lines: %q", q.key)
			}
			if before > 0 && br.Buffered() == before {
				t.Fatal("nothing was read")
			}
		}
	})
}

package stream

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/xmpp/wire"
)

func mustEcho(t testing.TB, l *Link) {
	t.Helper()
	el, err := l.Request(t.Context(), "get", echoPayload("<hé\r\n>"))
	if err != nil {
		t.Fatal(err)
	}
	if !el.Is("urn:test", "echo") || string(el.Text) != "<hé\r\n>" {
		t.Fatalf("echo gave %q", el.Text)
	}
}

func TestRequestsBothWays(t *testing.T) {
	capulet, montague, _ := twoNodes(t)
	out := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	mustEcho(t, out)
	in := liveAt(t, montague, "montague.example", "capulet.example")
	mustEcho(t, in)
	b := in.Binding()
	if b.Local != "montague.example" || b.Remote != "capulet.example" || b.Proof != "pkix" || !strings.HasPrefix(b.TLS, "TLS1.3 TLS_") ||
		b.Addr == "" || !in.Inbound() || out.Inbound() {
		t.Errorf("%+v", b)
	}
	if again := mustLink(t, capulet, "capulet.example", "montague.example", montague); again != out {
		t.Error("a second connection was made")
	}
	back, err := montague.Link(t.Context(), "montague.example", "capulet.example", nil)
	if err != nil || back != in {
		t.Error("the inbound link is not used the other way:", err)
	}
	_, err = out.Request(t.Context(), "set", []byte("<unknown xmlns='urn:x'/>"))
	refusal, ok := errors.AsType[*StanzaError](err)
	if !ok || refusal.Condition != "service-unavailable" || refusal.Type != "cancel" || refusal.Element == nil {
		t.Errorf("%#v", err)
	}
}

func TestErrorReply(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.Handle = func(context.Context, *Link, *IQ) Reply {
			return Reply{Error: &ErrorReply{"wait", "resource-constraint", "later\x00 please", []byte("<app xmlns='urn:test' n='1'/>")}}
		}
	})
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	_, err := l.Request(t.Context(), "set", echoPayload("x"))
	e, ok := errors.AsType[*StanzaError](err)
	if !ok || e.Condition != "resource-constraint" || e.Type != "wait" || e.Text != "later please" || e.Element.Child("urn:test", "app").Attr("n") != "1" {
		t.Fatalf("%#v", err)
	}
}

// TestManyInFlight has 64 large requests under way each way on one
// connection, with queues far smaller than that: nobody may wait for good.
func TestManyInFlight(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) { c.MaxOutBytes = 128 << 10 })
	out := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	in := liveAt(t, montague, "montague.example", "capulet.example")
	text := strings.Repeat("QUJD", 5<<10)
	var wg sync.WaitGroup
	errs := make(chan error, 128)
	for _, l := range []*Link{out, in} {
		for i := range 64 {
			wg.Go(func() {
				for j := range 4 {
					want := fmt.Sprint(i, " ", j, text)
					el, err := l.Request(t.Context(), "set", echoPayload(want))
					if err == nil && string(el.Text) != want {
						err = errors.New("answer to another request")
					}
					if err != nil {
						errs <- err
						return
					}
				}
			})
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	if s := capulet.Snapshot(); s.RequestsSent != 256 || s.RequestsReceived != 256 || s.Live != 1 {
		t.Errorf("%+v", s)
	}
}

// TestTooManyInHand: requests beyond the slots are refused, not queued, and
// the link lives.
func TestTooManyInHand(t *testing.T) {
	release := make(chan struct{})
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.HandlerSlots = 2
		c.Handle = func(ctx context.Context, l *Link, iq *IQ) Reply {
			select {
			case <-release:
			case <-ctx.Done():
			}
			return echo(ctx, l, iq)
		}
	})
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, err := l.Request(t.Context(), "set", echoPayload("x")); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "both slots taken", func() bool { return montague.Snapshot().RequestsReceived == 2 })
	_, err := l.Request(t.Context(), "set", echoPayload("x"))
	if e, ok := errors.AsType[*StanzaError](err); !ok || e.Condition != "resource-constraint" || e.Type != "wait" {
		t.Errorf("%v", err)
	}
	close(release)
	wg.Wait()
	mustEcho(t, l)
}

// TestWaitersAreReleased cuts the connection under requests.
func TestWaitersAreReleased(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.Handle = func(ctx context.Context, _ *Link, _ *IQ) Reply {
			<-ctx.Done() // and with it the handler is released, too
			return Reply{}
		}
	})
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	const n = 16
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := l.Request(context.Background(), "set", echoPayload("x"))
			errs <- err
		}()
	}
	eventually(t, "all received", func() bool { return montague.Snapshot().RequestsReceived == n })
	liveAt(t, montague, "montague.example", "capulet.example").conn.NetConn().Close()
	for range n {
		if err := <-errs; !errors.Is(err, ErrClosed) || errors.Is(err, ErrNotSent) {
			t.Error("a request that was received:", err)
		}
	}
	waitClosed(t, "link dead", l.Done())
	if _, err := l.Request(t.Context(), "get", echoPayload("x")); !errors.Is(err, ErrNotSent) {
		t.Error("request on a dead link:", err)
	}
	eventually(t, "dropped", func() bool { return capulet.Live("capulet.example", "montague.example") == nil })
}

func TestRequestEnds(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.RequestTimeout, c.CloseTimeout = 50*time.Millisecond, 50*time.Millisecond
		c.Handle = func(ctx context.Context, _ *Link, iq *IQ) Reply {
			<-ctx.Done()
			return Reply{}
		}
	})
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	if _, err := l.Request(t.Context(), "get", echoPayload("x")); !errors.Is(err, ErrTimeout) || errors.Is(err, ErrNotSent) {
		t.Error("without an answer:", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Request(ctx, "get", echoPayload("x")); !errors.Is(err, context.Canceled) {
		t.Error("cancelled:", err)
	}
	if _, err := l.Request(t.Context(), "get", echoPayload(strings.Repeat("x", l.MaxStanza()))); !errors.Is(err, ErrNotSent) {
		t.Error("too large:", err)
	}
}

// TestLargestStanza: exactly what the peer takes goes through. The answer would
// be longer by the type's name: it is replaced by an error, or by silence where
// an error would deny what was done.
func TestLargestStanza(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.Limits = wire.Limits{StanzaBytes: 20000}
		c.RequestTimeout = 2 * time.Second
	})
	out := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	in := liveAt(t, montague, "montague.example", "capulet.example")
	for _, l := range []*Link{out, in} {
		if l.MaxStanza() != 20000 {
			t.Fatal("announced limit not taken over:", l.MaxStanza())
		}
		overhead := len(l.stanzaHead("iq", "set", newID())) + len(iqEnd) + len(echoPayload("x")) - 1
		_, err := l.Request(t.Context(), "get", echoPayload(strings.Repeat("x", 20000-overhead)))
		if e, ok := errors.AsType[*StanzaError](err); !ok || e.Condition != "resource-constraint" {
			t.Error(err)
		}
		brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if _, err := l.Request(brief, "set", echoPayload(strings.Repeat("x", 20000-overhead))); !errors.Is(err, context.DeadlineExceeded) {
			t.Error("set with too long an answer:", err)
		}
		cancel()
		longest := 20000 - overhead - len("result") + len("set")
		if el, err := l.Request(t.Context(), "set", echoPayload(strings.Repeat("x", longest))); err != nil || len(el.Text) != longest {
			t.Error(err)
		}
	}
}

// TestNeverLeft: a request that was queued behind a peer that does not read,
// when the connection dies, is told from one that may have been carried out.
func TestNeverLeft(t *testing.T) {
	capulet, _, ca := twoNodes(t)
	r := dialRaw(t, capulet, "capulet.example", ca.issue("verona.example")).ready("verona.example", "capulet.example")
	l := liveAt(t, capulet, "capulet.example", "verona.example")
	text := echoPayload(strings.Repeat("x", 256<<10))
	const n = 64
	errs := make(chan error, n)
	for range n {
		go func() {
			_, err := l.Request(context.Background(), "set", text)
			errs <- err
		}()
	}
	// The raw peer reads nothing: the first requests fill the socket.
	eventually(t, "the queue full", func() bool {
		l.out.mu.Lock()
		defer l.out.mu.Unlock()
		return len(l.out.pending) > 256<<10 && l.out.flying > 0
	})
	r.conn.NetConn().Close()
	doubt, never := 0, 0
	for range n {
		switch err := <-errs; {
		case errors.Is(err, ErrNotSent):
			never++
		case errors.Is(err, ErrClosed):
			doubt++
		default:
			t.Error(err)
		}
	}
	if doubt == 0 || never < n/2 {
		t.Errorf("%d in doubt, %d never sent", doubt, never)
	}
}

func BenchmarkRequests(b *testing.B) {
	capulet, montague, _ := twoNodes(b, func(c *Config) {
		c.Handle = func(context.Context, *Link, *IQ) Reply { return Reply{Payload: echoPayload("ok")} }
	})
	for _, size := range []int{20 << 10, 200 << 10} {
		b.Run(fmt.Sprintf("%dKB", size>>10), func(b *testing.B) {
			l := mustLink(b, capulet, "capulet.example", "montague.example", montague)
			text := strings.Repeat("A", size/3*4)
			payload := echoPayload(text)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.SetParallelism(max(1, 64/runtime.GOMAXPROCS(0)))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := l.Request(context.Background(), "set", payload); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

package gateway

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

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

// TestCutThroughLost: the stream breaks while a message is handed over. The
// peer is expected; if it is back already, the rest goes out at once.
func TestCutThroughLost(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.RetryFirst = time.Hour; c.RetryMax = time.Hour })
	lost := func(up bool) func(*next) {
		return func(n *next) {
			n.live = true
			n.during = func(context.Context) {
				if up {
					w.PeerUp("home.example", "peer.example")
				}
			}
			n.answer = func(mail.Attempt) []mail.Outcome {
				n.during, n.answer = nil, nil
				return []mail.Outcome{refuse(mail.Doubtful)}
			}
		}
	}
	w.peer.set(lost(false))
	w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
	w.peer.mu.Lock()
	if len(w.peer.expected) != 1 {
		t.Errorf("expected %v", w.peer.expected)
	}
	w.peer.mu.Unlock()
	w.PeerUp("home.example", "peer.example")
	w.waitState("a@peer.example", store.Delivered)

	w.peer.set(lost(true))
	w.send(w.message(sample, "romeo@home.example", "b@peer.example"), false)
	w.waitState("b@peer.example", store.Delivered)
}

// TestCutThroughSettleFails: undecided recipients are in the spool before the client
// hears of it, and a settlement that fails then does not keep it waiting.
func TestCutThroughSettleFails(t *testing.T) {
	w := newWorld(t, nil)
	w.faulty.order(func(f *faulty) { f.settle = errors.New("no connection") })
	w.peer.set(func(n *next) {
		n.live = true
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{{}, refuse(mail.NoSuchMailbox)} }
	})
	v := w.send(w.message(sample, "romeo@home.example", "a@peer.example", "b@peer.example"), false)
	if v[0].Failure != nil {
		t.Error(v[0].Failure)
	}
	w.faulty.order(func(f *faulty) {
		if f.settled != 1 {
			t.Errorf("settled %d times while the client waits", f.settled)
		}
	})
	if got := w.states()["b@peer.example"]; got != store.Leased {
		t.Errorf("b is %s", got)
	}
}

// TestCutThroughPlaces: no more sessions than allowed wait for one peer; the
// others are spooled.
func TestCutThroughPlaces(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.CutThroughPerPeer = 1; c.CutThroughDeadline = time.Minute })
	entered, leave := make(chan struct{}), make(chan struct{})
	var first atomic.Bool
	w.peer.set(func(n *next) {
		n.live = true
		n.during = func(context.Context) {
			if first.CompareAndSwap(false, true) {
				close(entered)
				<-leave
			}
		}
	})
	got := make(chan string)
	go func() {
		got <- w.entrance.Accept(context.Background(), mail.Client{}, w.message(sample, "romeo@home.example", "a@peer.example"), false)[0].Text
	}()
	<-entered
	if v := w.send(w.message(sample, "romeo@home.example", "b@peer.example"), false); !strings.HasPrefix(v[0].Text, "queued as ") {
		t.Errorf("second: %q", v[0].Text)
	}
	close(leave)
	if text := <-got; !strings.HasPrefix(text, "accepted by ") {
		t.Errorf("first: %q", text)
	}
}

// TestCutThroughDeadline: the client waits no longer than the deadline.
func TestCutThroughDeadline(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.CutThroughDeadline = 20 * time.Millisecond })
	w.peer.set(func(n *next) {
		n.live = true
		n.during = func(ctx context.Context) { <-ctx.Done() }
		n.answer = func(mail.Attempt) []mail.Outcome { return []mail.Outcome{refuse(mail.Doubtful)} }
	})
	v := w.send(w.message(sample, "romeo@home.example", "a@peer.example"), false)
	if !strings.HasPrefix(v[0].Text, "queued as ") {
		t.Errorf("%+v", v[0])
	}
}

// TestCutThroughOnlyWhere: setting on, stream up, one peer behind all
// recipients; else the message is spooled.
func TestCutThroughOnlyWhere(t *testing.T) {
	for _, c := range []struct {
		name     string
		on, live bool
		to       []string
		cut      bool
	}{
		{"all there", true, true, []string{"a@peer.example", "b@peer.example"}, true},
		{"off", false, true, []string{"a@peer.example"}, false},
		{"no stream", true, false, []string{"a@peer.example"}, false},
		{"another domain too", true, true, []string{"a@peer.example", "juliet@home.example"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, func(cfg *Config) { cfg.CutThrough = c.on })
			w.peer.set(func(n *next) { n.live = c.live })
			v := w.send(w.message(sample, "romeo@home.example", c.to...), false)
			if got := strings.HasPrefix(v[0].Text, "accepted by "); got != c.cut {
				t.Errorf("%+v", v[0])
			}
			until(t, "delivery", func() bool { return len(w.peer.deliveries()) == 1 })
			if got := w.peer.deliveries()[0]; !strings.HasPrefix(got.content, "Received: ") {
				t.Errorf("no trace: %+v", got)
			}
			for _, r := range w.peer.deliveries()[0].attempt.Envelope.Recipients {
				if r.Address.Domain != "peer.example" {
					t.Errorf("the peer was handed %s", r.Address)
				}
			}
		})
	}
}

// TestCutThroughTeaches: what a peer does to transfers beside the queue is known to
// the queue: it is taken for dead, and a transfer that succeeds finds it back.
func TestCutThroughTeaches(t *testing.T) {
	s := newScheduler(&Gateway{Config: Config{Concurrency: 8, PerDomain: 8, CutThroughPerPeer: 8, RetryFirst: time.Minute}})
	down := mail.Fail(mail.Unreachable, "stream lost", nil)
	cut := func(r reach, why *mail.Failure) (due bool) {
		t.Helper()
		ups, ok := s.enterCut("peer.example")
		if !ok {
			t.Fatal("no place")
		}
		return s.leaveCut("peer.example", ups, r, why)
	}
	for range initialRuns {
		if s.dest("peer.example").dead(time.Now()) || cut(unreachable, down) {
			t.Fatal("dead, or released, too early")
		}
	}
	if d := s.dest("peer.example"); !d.dead(time.Now()) || d.why != down.Text || d.limit() != 1 {
		t.Errorf("not dead: limit %d, %q", d.limit(), d.why)
	}
	if !cut(delivered, nil) {
		t.Error("what waits was not released")
	}
	if s.dest("peer.example").dead(time.Now()) {
		t.Error("still dead")
	}
	s.revive("peer.example", true) // while a transfer fails
	ups, _ := s.enterCut("peer.example")
	s.revive("peer.example", true)
	if !s.leaveCut("peer.example", ups, unreachable, down) {
		t.Error("not released although the stream came back meanwhile")
	}
}

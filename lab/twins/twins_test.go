// Package twins hands the same message over again and again, as a real Postfix
// does when it has not got its answer, and counts what comes out at the other
// gateway's mailbox.
package twins

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/lab/postfix"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is client -> Postfix -> between -> gateway a -> gateway b -> mailbox.
type lab struct {
	dir   string
	pair  *harness.Pair
	sink  *harness.Sink
	wire  *between
	mta   *postfix.Server
	sideB harness.Side
}

func newLab(t *testing.T, cut bool) *lab {
	t.Helper()
	dir, err := harness.ShortDir()
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := harness.Build(dir)
	must(t, err)
	ca, err := harness.NewCA(dir)
	must(t, err)
	l := &lab{dir: dir}
	l.sink, err = harness.NewSink("127.0.0.1:0", subject)
	must(t, err)
	t.Cleanup(l.sink.Close)
	sideA := harness.Side{Domain: "a.example", Store: "sqlite://" + filepath.Join(dir, "a.db")}
	l.sideB = harness.Side{Domain: "b.example", Store: "sqlite://" + filepath.Join(dir, "b.db")}
	l.pair, err = harness.NewPair(harness.Spec{
		Exe: exe, Dir: dir, CA: ca, Deliver: "lmtp://" + l.sink.Addr,
		Extra: fmt.Sprintf("cut_through = %v\n[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\n", cut),
	}, sideA, l.sideB)
	must(t, err)
	for _, g := range []*harness.Gateway{l.pair.B, l.pair.A} {
		t.Cleanup(func() { g.Kill() })
		must(t, g.Start(t.Context()))
	}
	l.wire = newBetween(t, l.pair.A.SMTP)
	return l
}

func (l *lab) startPostfix(t *testing.T) {
	t.Helper()
	addrs, err := harness.FreeAddrs(1)
	must(t, err)
	l.mta, err = postfix.Start(postfix.Spec{
		Listen: addrs[0], Host: "mta.a.example", Domains: []string{"b.example"}, Sink: l.wire.addr,
		Extra: "queue_run_delay = 1s\nminimal_backoff_time = 1s\nmaximal_backoff_time = 2s\nsmtp_connection_cache_on_demand = no\nsmtp_destination_concurrency_failed_cohort_limit = 100",
	})
	if errors.Is(err, postfix.ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() {
		if err := l.mta.Stop(); err != nil {
			t.Error(err)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// subject tells the messages of a test apart.
func subject(content []byte) string {
	_, rest, _ := strings.Cut(string(content), "\r\nSubject: ")
	s, _, _ := strings.Cut(rest, "\r\n")
	return s
}

func send(t *testing.T, addr, content string, to ...string) {
	t.Helper()
	c, err := harness.Dial(addr)
	must(t, err)
	defer c.Close()
	if said, err := c.Send("juliet@a.example", to, harness.Stuff([]byte(content))); err != nil {
		t.Fatalf("%v %s", err, said)
	}
}

func (l *lab) count(subject string) (n int) {
	for _, got := range l.sink.Got() {
		if got == subject {
			n++
		}
	}
	return n
}

// arrived waits until a message is there so many times, once per recipient,
// and the MTA is done with it.
func (l *lab) arrived(t *testing.T, subject string, want int, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); l.count(subject) < want || !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			log := ""
			if l.mta != nil {
				log = l.mta.Log()
			}
			t.Fatalf("%d of %d arrived; groups %q\nlog of a:\n%s\nlog of postfix:\n%s", l.count(subject), want, l.wire.seen(), l.pair.A.Log(), log)
		}
	}
}

// noTwins waits until nothing more comes, longer than a retry takes, and
// counts.
func (l *lab) noTwins(t *testing.T, want map[string]int) {
	t.Helper()
	for last, still := l.sink.Count(), 0; still < 60; time.Sleep(50 * time.Millisecond) {
		if n := l.sink.Count(); n == last {
			still++
		} else {
			last, still = n, 0
		}
	}
	for subject, n := range want {
		if got := l.count(subject); got != n {
			t.Errorf("message %q arrived %d times, want %d", subject, got, n)
		}
	}
}

// TestRetriesOfPostfixMakeNoTwins: whatever answer Postfix lost or got, each
// recipient has the message once.
func TestRetriesOfPostfixMakeNoTwins(t *testing.T) {
	three := []string{"romeo@b.example", "nurse@b.example", "tybalt@b.example"}
	for _, mode := range []string{"spooled", "cut-through"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, mode == "cut-through")
			l.startPostfix(t)
			if mode == "cut-through" { // it needs a stream that is up
				send(t, l.pair.A.SMTP, "From: juliet@a.example\r\nMessage-ID: <0@a.example>\r\nSubject: first\r\n\r\nx\r\n", three[0])
				l.arrived(t, "first", 1, func() bool { return true })
			}
			sent := map[string]int{}
			for i, c := range []struct {
				name   string
				plan   []session
				groups []string // of recipients, per message that came to the gateway
			}{
				{"undisturbed", nil, []string{"nurse romeo tybalt"}},
				{"lost 250", []session{{final: lose}}, []string{"nurse romeo tybalt", "nurse romeo tybalt"}},
				{"lost 250 three times", []session{{final: lose}, {final: lose}, {final: lose}},
					[]string{"nurse romeo tybalt", "nurse romeo tybalt", "nurse romeo tybalt", "nurse romeo tybalt"}},
				{"4xx after it was taken", []session{{final: defer4}}, []string{"nurse romeo tybalt", "nurse romeo tybalt"}},
				{"4xx for one recipient", []session{{rcpt: "nurse"}}, []string{"romeo tybalt", "nurse"}},
				{"regrouped after a lost 250", []session{{final: lose}, {rcpt: "nurse"}}, []string{"nurse romeo tybalt", "romeo tybalt", "nurse"}},
				{"regrouped, and a new one among the old", []session{{rcpt: "nurse", final: lose}},
					[]string{"romeo tybalt", "nurse romeo tybalt"}},
			} {
				t.Run(c.name, func(t *testing.T) {
					mark := fmt.Sprintf("%d", i)
					id := fmt.Sprintf("<%s@a.example>", mark)
					l.wire.disturb(slices.Clone(c.plan))
					send(t, l.mta.Addr, "From: juliet@a.example\r\nMessage-ID: "+id+"\r\nSubject: "+mark+"\r\n\r\nGood night, good night!\r\n", three...)
					l.arrived(t, mark, len(three), func() bool { return len(l.wire.seen()) == len(c.groups) })
					if got := sorted(l.wire.seen()); !slices.Equal(got, c.groups) {
						t.Errorf("postfix handed over %q, want %q", got, c.groups)
					}
					sent[mark] = len(three)
				})
			}
			l.noTwins(t, sent)
			l.judgeStore(t, 3*len(sent), mode)
		})
	}
}

// sorted orders the recipients within each group.
func sorted(groups []string) []string {
	var out []string
	for _, g := range groups {
		words := strings.Fields(g)
		slices.Sort(words)
		out = append(out, strings.Join(words, " "))
	}
	return out
}

// judgeStore looks at the receiving gateway's store: each transfer has each
// recipient once.
func (l *lab) judgeStore(t *testing.T, deliveries int, mode string) {
	t.Helper()
	if mode == "cut-through" {
		deliveries++ // the one that brought the stream up
	}
	must(t, l.pair.A.Stop())
	must(t, l.pair.B.Stop())
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: strings.TrimPrefix(l.sideB.Store, "sqlite://")})
	must(t, err)
	defer st.Close()
	list, err := st.List(t.Context(), store.Filter{Closed: true})
	must(t, err)
	times := map[string]int{}
	for _, e := range list {
		r, err := st.Show(t.Context(), e.ID)
		must(t, err)
		times[r.Transfer+" "+e.Rcpt]++
	}
	if len(times) != deliveries {
		t.Errorf("%d deliveries in the store, want %d", len(times), deliveries)
	}
	for name := range maps.Keys(times) {
		if times[name] != 1 {
			t.Errorf("%s: %d times", name, times[name])
		}
	}
}

// TestSameMessageAgain: a client that hands over the same octets again makes
// no twin, though what the gateway puts in front, in the trace, is another each
// time; one that signs anew itself has made another message, since a transfer
// id stands for its content: there are two then (xep-draft section 9.2).
func TestSameMessageAgain(t *testing.T) {
	l := newLab(t, false)
	content := func(signature, subject string) string {
		if signature != "" {
			signature = "DKIM-Signature: v=1; a=rsa-sha256; d=a.example; s=x; h=from; bh=x; t=" + signature + "; b=x\r\n"
		}
		return signature + "From: juliet@a.example\r\nMessage-ID: <" + subject + "@a.example>\r\nSubject: " + subject + "\r\n\r\nGood night!\r\n"
	}
	want := map[string]int{}
	for _, c := range []struct {
		subject    string
		signatures []string
		want       int
	}{
		{"unsigned", []string{"", "", ""}, 1},
		{"same signature", []string{"1", "1"}, 1},
		{"fresh signature", []string{"1", "2"}, 2},
	} {
		want[c.subject] = c.want
		t.Run(c.subject, func(t *testing.T) {
			for _, s := range c.signatures {
				send(t, l.pair.A.SMTP, content(s, c.subject), "romeo@b.example")
			}
			l.arrived(t, c.subject, c.want, func() bool { return true })
		})
	}
	l.noTwins(t, want)
}

package faults

import (
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/lab/harness"
)

// statementBound is what the store gives the server for a statement in the short
// form; the long one waits as long as in production.
const statementBound = "MAILXMPPD_STATEMENT=6s"

// answerBound is within what a client hears an answer while the database says
// nothing: the store's patience with a statement under way and with one before
// it, and what a busy machine adds.
const answerBound = 90 * time.Second

// TestBlackHole: what goes to the database and comes from it vanishes, while
// all connections stay open. Mail is answered 4xx within bounds, the leases of
// running attempts end, and mail flows once new connections get through,
// without a restart. Who has waited for an old one is not left waiting.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	env := []string{shortLease}
	if os.Getenv("MAILXMPPD_LONG") != "1" {
		env = append(env, statementBound)
	}
	server := startServer(t)
	p := newProxy(t, hostOf(t, server.URL), 0)
	through := strings.Replace(server.URL, p.target, p.addr, 1)
	s := newSite(t, "postgres: a black hole before it", postgresAt(through, "a.example", "hole"), postgresAt(through, "b.example", "hole"), env...)
	s.start()
	stop := s.load(20)
	s.flows(10)
	s.blow()
	p.swallow()
	longest := s.answersIn(answerBound)
	stop()
	if n := p.heal(); n == 0 {
		t.Error("no connection went through the proxy")
	}
	for _, g := range []*harness.Gateway{s.pair.A, s.pair.B} {
		s.eventually("the listener finds out", func() bool { return strings.Contains(g.Log(), `msg="store listener lost"`) })
	}
	s.recovers()
	// The same while no mail comes: what lies in the pool is mute then.
	p.swallow()
	p.heal()
	start := time.Now()
	id, err := s.peer.Make("y@b.example", 20)
	must(t, err)
	never := make(chan struct{})
	s.eventually("mail is taken", func() bool { return s.peer.Send(s.pair.A.SMTP, id, never) == nil })
	t.Logf("the longest answer took %v; over connections that were mute mail was taken after %v", longest.Round(time.Second), time.Since(start).Round(time.Second))
	s.judge()
}

// answersIn sends from several sessions at once and returns how long the
// longest answer took, all of which must be temporary refusals.
func (s *site) answersIn(bound time.Duration) (longest time.Duration) {
	s.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	never := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			id, err := s.peer.Make("y@b.example", 20)
			if err != nil {
				s.Error(err)
				return
			}
			start := time.Now()
			err = s.peer.Send(s.pair.A.SMTP, id, never)
			took := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			longest = max(longest, took)
			if err == nil || !strings.Contains(err.Error(), `answered "451 4.3.`) {
				s.Errorf("after %v: %v", took, err)
			}
		})
	}
	wg.Wait()
	if longest > bound {
		s.Errorf("an answer took %v", longest)
	}
	return longest
}

package faults

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"mailxmppd/lab/harness"
)

// pausedLease runs out while a node stands still.
const pausedLease = "MAILXMPPD_LEASE=3s"

// TestPausedNode: two nodes share a store. One stands still in the middle of an
// attempt for longer than its lease, the other takes over, and then the first
// goes on where it was: it settles nothing any more.
func TestPausedNode(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	for i, point := range []string{
		"deliver.begun", "xmpp.before-offer", "xmpp.after-answer",
		"smtp.before-dot", "smtp.after-dot", "settle.before", "store.settle.before-commit",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			what := fmt.Sprintf("paused%d", i)
			s := newSite(t, "postgres: two nodes, one paused", postgresAt(server.URL, "a.example", what), postgresAt(server.URL, "b.example", what), shortLease)
			other := s.another()
			must(t, s.pair.B.Start(t.Context(), s.env...))
			must(t, s.pair.A.Start(t.Context(), pausedLease, "MAILXMPPD_PAUSE_AT="+point+":3"))
			must(t, other.Start(t.Context(), pausedLease))
			stop := s.load(20)
			defer stop()
			select {
			case <-s.pair.A.AtStopPoint():
			case <-time.After(patience):
				t.Fatal("the point was not reached")
			}
			s.blow()
			s.eventually("it stands still", func() bool { return stands(t, s.pair.A.PID()) })
			stop()
			// All that was acknowledged, what the paused node held included,
			// is settled while that one stands still.
			if n, err := s.a.AwaitEmpty(t.Context(), patience); err != nil || n != 0 {
				t.Fatalf("%d deliveries were not taken over, %v", n, err)
			}
			before, err := s.a.Deliveries(t.Context())
			must(t, err)
			must(t, syscall.Kill(s.pair.A.PID(), syscall.SIGCONT))
			s.eventually("the node hears that it lost its lease", func() bool {
				log := s.pair.A.Log()
				return strings.Contains(log, `msg="lease lost"`) || strings.Contains(log, `msg="settlement refused`)
			})
			after, err := s.a.Deliveries(t.Context())
			must(t, err)
			for id, was := range before {
				if after[id] != was {
					t.Errorf("%s was %q, and is %q after the paused node went on", id, was, after[id])
				}
			}
			s.judge()
			must(t, other.Stop())
		})
	}
}

// another is a second node of a, with addresses of its own.
func (s *site) another() *harness.Gateway {
	s.Helper()
	addrs, err := harness.FreeAddrs(2)
	must(s, err)
	g, err := harness.NewGateway(harness.Spec{
		Exe: gateway, Dir: s.dir + "/other", CA: s.ca, Domain: "a.example", Store: s.a.Store, Schema: s.a.Schema, Node: s.a.Node + "_other",
		Deliver: "lmtp://" + s.sink.Addr, Route: "smtp://" + s.sink.Addr, SMTP: addrs[0], XMPP: addrs[1],
		Peers: map[string]string{"b.example": s.pair.B.XMPP}, Extra: fmt.Sprintf(settings, perDomain),
	})
	must(s, err)
	s.Cleanup(func() {
		if s.Failed() {
			s.Logf("log of the other node:\n%s", tail(g.Log()))
		}
		g.Kill()
	})
	return g
}

// stands reports whether a process is stopped. It says so before it is.
func stands(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, state, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(state, "T")
}

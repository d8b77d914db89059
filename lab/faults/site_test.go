package faults

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"mailxmppd/lab/harness"
)

// site is a pair of gateways under mail from a to b and from a to a legacy
// domain.
type site struct {
	*testing.T
	name   string // of the case in the table
	dir    string
	ca     *harness.CA
	sink   *harness.Sink // the mailbox behind b and the next MTA of legacy mail
	pair   *harness.Pair
	a, b   harness.Side
	env    []string // of both gateways
	peer   *harness.Traffic
	legacy *harness.Traffic
	blows  int
	most   int // attempts by SMTP and LMTP that may have been in flight at the blows
}

// perDomain is how many attempts to one domain the gateways here make at once:
// no more than these can be in flight by SMTP, and by LMTP.
const perDomain = 4

const settings = `request_timeout = "5s"
cut_through = false
[queue]
retry_first = "1s"
retry_max = "2s"
per_domain = %d
[limits]
connections_per_minute = 100000
messages_per_minute = 100000
`

// patience is for what must happen, on a busy machine.
const patience = 90 * time.Second

func newSite(t *testing.T, name string, a, b harness.Side, env ...string) *site {
	t.Helper()
	s := &site{T: t, name: name, dir: shortDir(t), a: a, b: b, env: env,
		peer: harness.NewTraffic("x@a.example", "peer"), legacy: harness.NewTraffic("x@a.example", "legacy")}
	var err error
	s.ca, err = harness.NewCA(s.dir)
	must(t, err)
	s.sink, err = harness.NewSink("127.0.0.1:0", harness.MessageID)
	must(t, err)
	t.Cleanup(s.sink.Close)
	s.pair, err = harness.NewPair(harness.Spec{
		Exe: gateway, Dir: s.dir, CA: s.ca, Deliver: "lmtp://" + s.sink.Addr, Route: "smtp://" + s.sink.Addr,
		Extra: fmt.Sprintf(settings, perDomain),
	}, a, b)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of a:\n%s\nlog of b:\n%s", tail(s.pair.A.Log()), tail(s.pair.B.Log()))
		}
		s.pair.A.Kill()
		s.pair.B.Kill()
	})
	return s
}

func tail(log string) string { return log[max(0, len(log)-5000):] }

func (s *site) start() {
	s.Helper()
	for _, g := range []*harness.Gateway{s.pair.B, s.pair.A} {
		must(s, g.Start(s.Context(), s.env...))
	}
}

// load sends from four sessions until the returned function is called. Mail to
// the peer is sent again as a client does; legacy mail without a 250 does not
// count.
func (s *site) load(lines int) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				case <-time.After(15 * time.Millisecond):
				}
				traffic, to := s.peer, "y@b.example"
				if i == 0 {
					traffic, to = s.legacy, "y@legacy.example"
				}
				id, err := traffic.Make(to, lines)
				if err != nil {
					s.Error(err)
					return
				}
				for try := 0; try < 2; try++ {
					if traffic.Send(s.pair.A.SMTP, id, done) == nil || i == 0 {
						break
					}
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// flows waits until so many messages more were acknowledged, and so many more
// have arrived.
func (s *site) flows(n int) {
	s.Helper()
	acked, arrived := len(s.peer.Acknowledged()), s.sink.Count()
	s.eventually("mail flows", func() bool {
		return len(s.peer.Acknowledged()) >= acked+n && s.sink.Count() >= arrived+n
	})
}

func (s *site) eventually(what string, holds func() bool) {
	s.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			s.Fatalf("waited in vain: %s", what)
		}
	}
}

// blow counts a blow that may have hit so many attempts at each next hop.
func (s *site) blow() {
	s.blows++
	s.most += 2 * perDomain
}

// judge waits until all mail is where it belongs, and counts.
func (s *site) judge() {
	s.Helper()
	must(s, s.peer.SendAgain(s.pair.A.SMTP, patience))
	lost := append(s.peer.Await(patience, s.sink), s.legacy.Await(patience, s.sink)...)
	for _, id := range lost[:min(len(lost), 5)] {
		s.Errorf("%s was acknowledged and did not arrive", id)
	}
	for _, side := range []harness.Side{s.a, s.b} {
		if n, err := side.AwaitEmpty(s.Context(), patience); err != nil || n != 0 {
			s.Errorf("%d deliveries are open in the end at %s, %v", n, side.Domain, err)
		}
	}
	must(s, s.pair.A.Stop())
	must(s, s.pair.B.Stop())
	stored, err := s.b.Stored(s.Context())
	must(s, err)
	if missing := s.peer.NotStored(stored); len(missing) > 0 {
		s.Errorf("%d acknowledged messages are not in the receiving store, e.g. %s", len(missing), missing[0])
	}
	c := harness.FaultCase{
		Name: s.name, Kills: s.blows, Messages: len(s.peer.Acknowledged()) + len(s.legacy.Acknowledged()), Lost: len(lost),
		TwinsXMPP: s.peer.StoredTwins(stored), TwinsSMTP: s.peer.Twins(s.sink) + s.legacy.Twins(s.sink), InFlight: s.most,
	}
	table.Add(c)
	if c.TwinsXMPP > 0 {
		s.Errorf("%d twins over XMPP", c.TwinsXMPP)
	}
	if c.TwinsSMTP > c.InFlight {
		s.Errorf("%d twins by SMTP and LMTP, at most %d attempts were in flight", c.TwinsSMTP, c.InFlight)
	}
}

// exists reports whether there is such a file.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

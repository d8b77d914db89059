package crash

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/lab/harness"
)

// campaign is one pair of gateways, under mail and killed again and again.
type campaign struct {
	*testing.T
	backend    backend
	cut        bool
	draw       *rand.Rand
	sink       *harness.Sink // the mailbox behind b and the next MTA of legacy mail
	gateways   map[string]*harness.Gateway
	sides      map[string]harness.Side
	peer       *harness.Traffic // mail from a to b
	each       *harness.Traffic // the same, handed over by LMTP, to two mailboxes
	legacy     *harness.Traffic // mail from a to a legacy domain
	refused    *harness.Traffic // mail from a to a mailbox that b's mail server refuses: the DSN goes to a
	returned   *harness.Traffic // mail from a legacy domain to one that a's refuses: the DSN goes back by SMTP
	kills      int
	atMailbox  int // attempts by LMTP at b that were in flight at a kill
	atNextHop  int // attempts by SMTP at a
	atSender   int // attempts by LMTP at a
	lastKilled string
}

// inFlight is how many attempts to one next hop the gateways here may have.
const inFlight = 4

// settings make the gateways quick to try again.
const settings = `cut_through = %v
request_timeout = "5s"
[queue]
retry_first = "1s"
retry_max = "2s"
per_domain = %d
[limits]
connections_per_minute = 100000
messages_per_minute = 100000
`

func newCampaign(t *testing.T, exe string, b backend, cut bool, draw *rand.Rand) *campaign {
	dir, err := harness.ShortDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ca, err := harness.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := harness.NewSink("127.0.0.1:0", harness.ReportedID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sink.Close)
	sink.Refuse(func(recipient string) bool { return strings.HasPrefix(recipient, "gone@") })
	sideA, sideB := b.side(dir, "a.example"), b.side(dir, "b.example")
	lmtp, err := harness.FreeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	sideA.LMTP = lmtp[0]
	pair, err := harness.NewPair(harness.Spec{
		Exe: exe, Dir: dir, CA: ca, Deliver: "lmtp://" + sink.Addr, Route: "smtp://" + sink.Addr,
		Extra: fmt.Sprintf(settings, cut, inFlight),
	}, sideA, sideB)
	if err != nil {
		t.Fatal(err)
	}
	c := &campaign{
		T: t, backend: b, cut: cut, draw: draw, sink: sink,
		gateways: map[string]*harness.Gateway{"a": pair.A, "b": pair.B},
		sides:    map[string]harness.Side{"a": sideA, "b": sideB},
		peer:     harness.NewTraffic("x@a.example", "peer"), legacy: harness.NewTraffic("x@a.example", "legacy"),
		each:    harness.NewTraffic("x@a.example", "each"),
		refused: harness.NewTraffic("x@a.example", "refused"), returned: harness.NewTraffic("s@legacy.example", "returned"),
	}
	c.each.LMTP = true
	t.Cleanup(func() { pair.A.Kill(); pair.B.Kill() })
	return c
}

// run goes through the kills, those of one gateway after those of the other: a
// gateway gets to know at its start where it is to stop.
func (c *campaign) run(kills []kill) {
	slices.SortStableFunc(kills, func(x, y kill) int { return strings.Compare(x.victim, y.victim) })
	if len(kills) == 0 {
		return
	}
	other := map[string]string{"a": "b", "b": "a"}
	c.must(c.gateways[other[kills[0].victim]].Start(c.Context()))
	for i, k := range kills {
		if i > 0 && k.victim != kills[i-1].victim {
			// The one that was killed last runs on, and the other one dies
			// where it stands, to start with its stop point.
			c.must(c.gateways[other[k.victim]].Start(c.Context()))
			c.end(k.victim)
		}
		c.once(k)
	}
	for _, name := range []string{"a", "b"} {
		if name == c.lastKilled {
			c.must(c.gateways[name].Start(c.Context()))
		}
	}
	c.judge()
}

// once starts the victim, sends until it stands still, and kills it.
func (c *campaign) once(k kill) {
	c.Helper()
	victim := c.gateways[k.victim]
	env := slices.Clone(k.env)
	if k.point != "" {
		env = append(env, fmt.Sprintf("MAILXMPPD_STOP_AT=%s:%d", k.point, 1+c.draw.IntN(4)))
	}
	c.must(victim.Start(c.Context(), env...))
	stopped := victim.AtStopPoint()
	moment := make(<-chan time.Time)
	if k.point == "" {
		moment = time.After(time.Duration(c.draw.IntN(500)) * time.Millisecond)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { c.send(k, done) })
	}
	select {
	case <-stopped:
		time.Sleep(50 * time.Millisecond) // let what can still go on go on
	case <-moment:
	case <-time.After(60 * time.Second):
		c.Errorf("stop point of %s was not reached\nlog:\n%s", k, tail(victim.Log()))
	}
	c.end(k.victim)
	close(done)
	wg.Wait()
}

// end kills a gateway and counts what it was at.
func (c *campaign) end(name string) {
	c.Helper()
	c.must(c.gateways[name].Kill())
	c.kills++
	c.lastKilled = name
	open, err := c.sides[name].InFlight(c.Context())
	c.must(err)
	if name == "b" {
		c.atMailbox += open["b.example"]
	} else {
		c.atNextHop += open["legacy.example"]
		c.atSender += open["a.example"]
	}
}

// send sends one message after another.
func (c *campaign) send(k kill, done <-chan struct{}) {
	traffic, to, lines := c.peer, "y@b.example", 20
	addr := c.gateways["a"].SMTP
	switch {
	case k.dsn && k.legacy:
		traffic, to = c.returned, "gone@a.example"
	case k.dsn:
		traffic, to = c.refused, "gone@b.example"
	case k.legacy:
		traffic, to = c.legacy, "y@legacy.example"
	case k.lmtp:
		traffic, to, addr = c.each, "y@b.example,z@b.example", c.gateways["a"].LMTP
	}
	if k.large {
		lines = 8000
	}
	for {
		select {
		case <-done:
			return
		case <-time.After(10 * time.Millisecond):
		}
		id, err := traffic.Make(to, lines)
		if err != nil {
			c.Error(err)
			return
		}
		traffic.Send(addr, id, done) // its error: it is sent again in the end, or does not count
	}
}

// judge waits until all mail is where it belongs, and counts.
func (c *campaign) judge() {
	c.must(c.peer.SendAgain(c.gateways["a"].SMTP, time.Minute))
	c.must(c.refused.SendAgain(c.gateways["a"].SMTP, time.Minute))
	c.must(c.each.SendAgain(c.gateways["a"].LMTP, time.Minute))
	lost := c.peer.Await(2*time.Minute, c.sink)
	lost = append(lost, c.each.Await(time.Minute, c.sink)...)
	lost = append(lost, c.legacy.Await(time.Minute, c.sink)...)
	unreported := append(c.refused.AwaitReports(time.Minute, c.sink), c.returned.AwaitReports(time.Minute, c.sink)...)
	for _, id := range unreported[:min(len(unreported), 5)] {
		c.Errorf("%s was acknowledged, could not be delivered, and its sender was not told", id)
	}
	for _, id := range lost[:min(len(lost), 5)] {
		c.Errorf("%s was acknowledged and did not arrive", id)
	}
	if len(lost) > 0 {
		c.Errorf("%d lost\nlog of a:\n%s\nlog of b:\n%s", len(lost), tail(c.gateways["a"].Log()), tail(c.gateways["b"].Log()))
	}
	for _, name := range []string{"a", "b"} {
		if n, err := c.sides[name].AwaitEmpty(c.Context(), time.Minute); err != nil || n != 0 {
			c.Errorf("%d deliveries are open in the end at %s, %v", n, name, err)
		}
	}
	for _, name := range []string{"a", "b"} {
		c.must(c.gateways[name].Stop())
	}
	stored, err := c.sides["b"].Stored(c.Context())
	c.must(err)
	if missing := append(c.peer.NotStored(stored), c.each.NotStored(stored)...); len(missing) > 0 {
		c.Errorf("%d acknowledged messages are not in the receiving store, e.g. %s", len(missing), missing[0])
	}
	peer := harness.FaultCase{
		Name: c.backend.name + " xmpp, lmtp", Kills: c.kills, Messages: len(c.peer.Acknowledged()), Lost: len(c.peer.Lost(c.sink)),
		TwinsXMPP: c.peer.StoredTwins(stored), TwinsSMTP: c.peer.Twins(c.sink), InFlight: c.atMailbox,
	}
	each := harness.FaultCase{
		Name: c.backend.name + " lmtp, xmpp, lmtp", Messages: len(c.each.Acknowledged()), Lost: len(c.each.Lost(c.sink)),
		TwinsXMPP: c.each.StoredTwins(stored), TwinsSMTP: c.each.Twins(c.sink), InFlight: c.atMailbox,
	}
	if c.cut {
		peer.Name = c.backend.name + " xmpp cut-through, lmtp"
		each.Name = c.backend.name + " lmtp, xmpp cut-through, lmtp"
	}
	legacy := harness.FaultCase{
		Name: c.backend.name + " smtp", Messages: len(c.legacy.Acknowledged()), Lost: len(c.legacy.Lost(c.sink)),
		TwinsSMTP: c.legacy.Twins(c.sink), InFlight: c.atNextHop,
	}
	reports := c.reports()
	c.shared(c.atMailbox, peer, each)
	c.shared(c.atNextHop, legacy, reports[1])
	for _, f := range append(reports, peer, each, legacy) {
		if f.TwinsXMPP > 0 {
			c.Errorf("%s: %d twins over XMPP", f.Name, f.TwinsXMPP)
		}
		if f.TwinsSMTP > f.InFlight {
			c.Errorf("%s: %d twins by SMTP or LMTP, %d attempts were in flight", f.Name, f.TwinsSMTP, f.InFlight)
		}
		table.Add(f)
	}
	for transfer := range maps.Keys(stored) {
		if transfer == "" {
			c.Error("a message without a transfer id is in the receiving store")
		}
	}
}

// shared holds cases that go to one next hop to the attempts that were in flight to
// it, which may have made twins of either.
func (c *campaign) shared(inFlight int, cases ...harness.FaultCase) {
	c.Helper()
	twins, names := 0, []string{}
	for _, f := range cases {
		twins, names = twins+f.TwinsSMTP, append(names, f.Name)
	}
	if twins > inFlight {
		c.Errorf("%s: %d twins by SMTP or LMTP together, %d attempts were in flight", strings.Join(names, ", and "), twins, inFlight)
	}
}

// reports is what became of the DSNs: of those to the peer, then by SMTP. One that was queued twice counts as a twin
// over XMPP, as does one that a's store has twice: neither has to do with SMTP.
func (c *campaign) reports() []harness.FaultCase {
	toPeer := harness.FaultCase{
		Name: c.backend.name + " dsn by xmpp", Messages: len(c.refused.Acknowledged()), Lost: len(c.refused.Unreported(c.sink)), InFlight: c.atSender,
	}
	toPeer.TwinsXMPP, toPeer.TwinsSMTP = c.refused.ReportTwins(c.sink)
	stored, err := c.sides["a"].Stored(c.Context())
	c.must(err)
	for transfer, n := range stored {
		if !slices.ContainsFunc([]*harness.Traffic{c.peer, c.each, c.legacy, c.refused, c.returned}, func(tr *harness.Traffic) bool { return tr.Made(transfer) }) {
			toPeer.TwinsXMPP += n - 1
		}
	}
	back := harness.FaultCase{
		Name: c.backend.name + " dsn by smtp", Messages: len(c.returned.Acknowledged()), Lost: len(c.returned.Unreported(c.sink)), InFlight: c.atNextHop,
	}
	back.TwinsXMPP, back.TwinsSMTP = c.returned.ReportTwins(c.sink)
	return []harness.FaultCase{toPeer, back}
}

func (c *campaign) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatalf("%v\nlog of a:\n%s\nlog of b:\n%s", err, tail(c.gateways["a"].Log()), tail(c.gateways["b"].Log()))
	}
}

func tail(log string) string { return log[max(0, len(log)-6000):] }

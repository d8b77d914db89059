package peers

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store/postgres"
	"mailxmppd/store/storetest"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// sightings notes over which streams each transfer came.
type sightings struct {
	mu sync.Mutex
	by map[string]map[*stream.Link]bool // by transfer id
}

func (s *sightings) watch(l *stream.Link, iq *stream.IQ) {
	s.mu.Lock()
	defer s.mu.Unlock()
	tid := iq.Payload.Attr("tid")
	if s.by[tid] == nil {
		s.by[tid] = map[*stream.Link]bool{}
	}
	s.by[tid][l] = true
}

// of returns the streams of some transfers.
func (s *sightings) of(tids ...string) map[*stream.Link]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := map[*stream.Link]bool{}
	for _, tid := range tids {
		maps.Copy(all, s.by[tid])
	}
	return all
}

// thatStream is a transfer.Links that knows one stream.
type thatStream struct{ link *stream.Link }

func (s thatStream) Link(context.Context, string, string) (transfer.Link, transfer.Capabilities, error) {
	return s.link, transfer.Announced(), nil
}

func (s thatStream) Forget(string, string) {}

// montagues are three nodes of one domain on one Postgres, and capulet, their
// peer, whom each has dialled.
type montagues struct {
	nodes   []*node
	capulet *node
	came    *sightings // at capulet
	at      []*sightings
	streams []*stream.Link // of capulet, to each node
}

func startMontagues(t *testing.T, url, schema string) *montagues {
	t.Helper()
	ca := newAuthority(t)
	m := &montagues{came: &sightings{by: map[string]map[*stream.Link]bool{}}}
	m.capulet = startNodeWith(t, ca, nodeConfig{domains: []string{"capulet.example"}, dns: &fakeDNS{}, watch: m.came.watch})
	for i := range 3 {
		shared, err := postgres.Open(t.Context(), postgres.Config{URL: url, Schema: schema, Node: fmt.Sprint("node", i), MaxConns: 4})
		if err != nil {
			t.Fatal(err)
		}
		saw := &sightings{by: map[string]map[*stream.Link]bool{}}
		n := startNodeWith(t, ca, nodeConfig{
			domains: []string{"montague.example"}, dns: &fakeDNS{}, store: shared, watch: saw.watch,
			peers: []Configured{{Domain: "capulet.example", Addrs: []string{m.capulet.addr}}},
		})
		first := attempt("montague.example", "capulet.example", 10+i, "juliet")
		if out := n.sender.Deliver(t.Context(), first); !out[0].Delivered() {
			t.Fatalf("first message of node %d: %v", i, out[0].Failure)
		}
		for l := range m.came.of(first.Transfer) {
			m.streams = append(m.streams, l)
		}
		m.nodes, m.at = append(m.nodes, n), append(m.at, saw)
	}
	if len(m.streams) != 3 || m.streams[0] == m.streams[1] || m.streams[1] == m.streams[2] || m.streams[0] == m.streams[2] {
		t.Fatalf("%d streams of three nodes", len(m.streams))
	}
	return m
}

// arrived reads what all three nodes took, from the store that they share.
func (m *montagues) arrived(t *testing.T) (all [][]byte) {
	t.Helper()
	for _, n := range m.nodes {
		n.mu.Lock()
		took := len(n.arrived)
		n.mu.Unlock()
		all = append(all, n.content(t, took)...)
	}
	return all
}

// TestThreeNodes of one domain, on one Postgres.
func TestThreeNodes(t *testing.T) {
	t.Parallel()
	url := storetest.StartPostgres(t)
	t.Run("all at once", func(t *testing.T) { answersReachTheRightNode(t, startMontagues(t, url, "all")) })
	t.Run("one message to all", func(t *testing.T) { oneMessageToThreeNodes(t, startMontagues(t, url, "one")) })
}

// answersReachTheRightNode: three nodes of one domain and their peer all
// ask each other at once. Each answer comes to the node that asked, and each
// message arrives once and unchanged.
func answersReachTheRightNode(t *testing.T, m *montagues) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const each = 8
	var wg sync.WaitGroup
	var out, in [][]byte // what capulet and the nodes must get
	tids := make([][]string, len(m.nodes))
	deliver := func(what string, s *transfer.Sender, a mail.Attempt) {
		wg.Go(func() {
			got := s.Deliver(ctx, a)
			if !got[0].Delivered() || got[1].Failure == nil || got[1].Failure.Kind != mail.NoSuchMailbox {
				t.Errorf("%s: %v, %v", what, got[0].Failure, got[1].Failure)
			}
		})
	}
	toNode := make([][]string, len(m.nodes))
	for i, n := range m.nodes {
		back := transfer.NewSender(transfer.SenderConfig{Links: thatStream{m.streams[i]}, RequestTimeout: 10 * time.Second})
		for k := range each {
			size := 1000 + 100*i + k
			if k%2 == 1 {
				size += 200_000 // in chunks, over a second stream of the node
			}
			a := attempt("montague.example", "capulet.example", size, "juliet", "nobody")
			tids[i], out = append(tids[i], a.Transfer), append(out, contentOf(a))
			deliver(fmt.Sprintf("node %d, message %d", i, k), n.sender, a)
			b := attempt("capulet.example", "montague.example", size, "romeo", "nobody")
			toNode[i], in = append(toNode[i], b.Transfer), append(in, contentOf(b))
			deliver(fmt.Sprintf("to node %d, message %d", i, k), back, b)
		}
	}
	c := attempt("capulet.example", "montague.example", 500_000, "romeo", "nobody")
	in = append(in, contentOf(c))
	deliver("to whichever node", m.capulet.sender, c)
	wg.Wait()

	seen := map[*stream.Link]int{}
	for i := range m.nodes {
		for l := range m.came.of(tids[i]...) {
			if other, taken := seen[l]; taken {
				t.Errorf("nodes %d and %d asked over one stream", other, i)
			}
			seen[l] = i
		}
		for k := range m.nodes {
			if n := len(m.at[k].of(toNode[i]...)); (n > 0) != (k == i) {
				t.Errorf("mail for node %d came over %d streams of node %d", i, n, k)
			}
		}
	}
	// An answer that comes to a node which has not asked finds nobody there.
	for i, n := range append(slices.Clone(m.nodes), m.capulet) {
		if s := n.mgr.Snapshot(); s.StrayAnswers != 0 || s.AnswersLost != 0 {
			t.Errorf("node %d: %+v", i, s)
		}
	}
	sameContents(t, "capulet", m.capulet.content(t, len(out)+3)[3:], out)
	sameContents(t, "montague", m.arrived(t), in)
}

// oneMessageToThreeNodes: the peer hands the same message to all nodes at once,
// as may happen after cuts. All of them answer, and it arrives once.
func oneMessageToThreeNodes(t *testing.T, m *montagues) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var sent [][]byte
	for _, size := range []int{3000, 400_000} {
		a := attempt("capulet.example", "montague.example", size, "romeo")
		sent = append(sent, contentOf(a))
		ids := make([]string, len(m.streams))
		var wg sync.WaitGroup
		for i, l := range m.streams {
			s := transfer.NewSender(transfer.SenderConfig{Links: thatStream{l}, RequestTimeout: 10 * time.Second})
			wg.Go(func() {
				// The nodes take the transfer from each other: whoever lost it
				// tries again, as a queue does.
				for out := s.Deliver(ctx, a); ; out = s.Deliver(ctx, a) {
					if out[0].Delivered() {
						ids[i] = out[0].RemoteID
						return
					}
					if out[0].Failure.Class == mail.Permanent || ctx.Err() != nil {
						t.Errorf("%d octets to node %d: %v", size, i, out[0].Failure)
						return
					}
					time.Sleep(time.Duration(i) * 50 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		if ids[0] == "" || ids[0] != ids[1] || ids[1] != ids[2] {
			t.Errorf("%d octets: taken as %q", size, ids)
		}
		for i := range m.nodes {
			if n := len(m.at[i].of(a.Transfer)); n == 0 {
				t.Errorf("%d octets: node %d was not asked", size, i)
			}
		}
	}
	sameContents(t, "montague", m.arrived(t), sent)
}

// sameContents: all that was sent is there once, in any order, and nothing
// else.
func sameContents(t *testing.T, who string, got, sent [][]byte) {
	t.Helper()
	slices.SortFunc(got, bytes.Compare)
	slices.SortFunc(sent, bytes.Compare)
	if !slices.EqualFunc(got, sent, bytes.Equal) {
		t.Errorf("%s got %d messages, %d were sent, or some changed", who, len(got), len(sent))
	}
}

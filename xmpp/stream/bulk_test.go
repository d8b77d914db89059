package stream

import (
	"context"
	"sync"
	"testing"
	"time"
)

// TestBulk: the second stream is dialled when it is first asked for, by one
// dial for all who ask, and both sides agree which is which.
func TestBulk(t *testing.T) {
	capulet, montague, _ := twoNodes(t)
	small := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	liveAt(t, montague, "montague.example", "capulet.example")
	var wg sync.WaitGroup
	bulk := make([]*Link, 16)
	for i := range bulk {
		wg.Go(func() {
			var err error
			if bulk[i], err = capulet.Bulk(t.Context(), "capulet.example", "montague.example", montague.target()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, l := range bulk {
		if l == nil || l != bulk[0] || l == small {
			t.Fatal("not one second link:", l == small)
		}
	}
	if s := capulet.Snapshot(); s.Dialled != 2 || s.Live != 2 {
		t.Errorf("%+v", s)
	}
	if l := capulet.Live("capulet.example", "montague.example"); l != small {
		t.Error("small requests go over the other link")
	}
	mustEcho(t, bulk[0])
	mustEcho(t, small)

	theirs, err := montague.Bulk(t.Context(), "montague.example", "capulet.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "two links there", func() bool { // once the older has answered
		theirs, _ = montague.Bulk(t.Context(), "montague.example", "capulet.example", nil)
		return theirs != montague.Live("montague.example", "capulet.example")
	})
	if theirs.Binding().Addr != bulk[0].conn.LocalAddr().String() {
		t.Error("the younger link is not the one for bulk")
	}
	if got := montague.logged(); len(got) != 1 {
		t.Error("the second link is told as a change:", got)
	}

	// What is left serves both, until a second comes again.
	small.Close("")
	waitClosed(t, "small one closed", small.Done())
	if l := capulet.Live("capulet.example", "montague.example"); l != bulk[0] {
		t.Error("the link left does not serve")
	}
	again, err := capulet.Bulk(t.Context(), "capulet.example", "montague.example", montague.target())
	if err != nil || again == bulk[0] {
		t.Fatal("no new second link", err)
	}
}

// TestBulkFallsBack: where no second link can be had, the only one serves, and
// the way to it is not tried each time.
func TestBulkFallsBack(t *testing.T) {
	capulet, montague, _ := twoNodes(t, func(c *Config) { c.BackOff = time.Hour })
	only := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	for _, targets := range [][]Target{{{Addr: closedAddr(t)}}, {{Addr: closedAddr(t)}}, nil} {
		l, err := capulet.Bulk(t.Context(), "capulet.example", "montague.example", targets)
		if err != nil || l != only {
			t.Fatal(l, err)
		}
	}
	if s := capulet.Snapshot(); s.Dialled != 2 || s.DialFailures != 1 {
		t.Errorf("%+v", s)
	}
	if _, err := capulet.Bulk(t.Context(), "capulet.example", "verona.example", nil); err == nil {
		t.Error("a link from nowhere")
	}
	// A second dial that hangs holds nobody longer than it wants to wait.
	silent := listen(t)
	defer silent.Close()
	other, peer, _ := twoNodes(t)
	only = mustLink(t, other, "capulet.example", "montague.example", peer)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	l, err := other.Bulk(ctx, "capulet.example", "montague.example", []Target{{Addr: silent.Addr().String()}})
	if err != nil || l != only {
		t.Fatal(l, err)
	}
}

// TestHalfDeadLinks: when the peer comes anew, a link that has yet to answer a
// ping is not chosen before one that needs none.
func TestHalfDeadLinks(t *testing.T) {
	capulet, connect := mallory(t)
	first := connect()
	old := liveAt(t, capulet, "capulet.example", "mallory.example")
	connect()
	eventually(t, "two links", func() bool { return capulet.Snapshot().Live == 2 })
	if el := first.next(); !el.Children[0].Is(nsPing, "ping") {
		t.Fatal("the older link is not asked for life")
	}
	if l := capulet.Live("capulet.example", "mallory.example"); l == old {
		t.Error("a doubtful link is preferred")
	}
	first.send("<iq type='result' id='x'" + addressed + "/>")
	eventually(t, "the older again", func() bool { return capulet.Live("capulet.example", "mallory.example") == old })
}

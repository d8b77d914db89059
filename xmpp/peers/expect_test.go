package peers

import (
	"fmt"
	"testing"
)

func TestExpectRedials(t *testing.T) {
	t.Parallel()
	x := newSetup(t, Configured{Domain: "montague.example", Addrs: []string{"192.0.2.9:5270"}})
	x.streams.err = errTLS
	for range 10 { // one goroutine for the pair
		x.dir.Expect("capulet.example", "montague.example")
	}
	eventually(t, func() bool { return x.streams.count() == 1 })
	x.streams.set(func(f *fakeStreams) { f.err, f.dialled = nil, newFakeLink(withFeature, nil) })
	eventually(t, func() bool {
		x.dir.waiting.mu.Lock()
		defer x.dir.waiting.mu.Unlock()
		return len(x.dir.waiting.until) == 0
	})
	if x.streams.Live("", "") == nil || x.streams.count() != 2 {
		t.Errorf("dialled %d times, live %v", x.streams.count(), x.streams.Live("", ""))
	}
}

func TestExpectIsBounded(t *testing.T) {
	x := newSetup(t)
	x.dir.waiting.max = 5
	for i := range 50 {
		x.dir.Expect("capulet.example", fmt.Sprintf("d%d.example", i))
	}
	x.dir.waiting.mu.Lock()
	n := len(x.dir.waiting.until)
	x.dir.waiting.mu.Unlock()
	if n != 5 {
		t.Errorf("%d waiting", n)
	}
	x.dir.Close() // goleak finds who does not end
	x.dir.Expect("capulet.example", "late.example")
	x.dir.Seen("capulet.example", "late.example")
}

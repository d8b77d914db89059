package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// heapRoom is how much garbage may lie about before it is collected, in octets,
// where the live heap is smaller than that: a gateway holds a few MB, and by
// Go's own rule (as much garbage as there is live heap) collects many times a
// second when it carries mail, which cost a tenth of its CPU, and the stacks of
// its goroutines were halved and grown again each time.
const heapRoom = 8 << 20

// collectLessOften lets garbage grow to heapRoom until stop is called. GOGC, if
// the operator has set it, counts instead.
func collectLessOften() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	var mu sync.Mutex
	stopped := false
	var afterNext func(struct{})
	look := func() (before int) {
		before = debug.SetGCPercent(percentFor(liveHeap()))
		runtime.AddCleanup(new([64]byte), afterNext, struct{}{}) // garbage: found by the next collection
		return before
	}
	afterNext = func(struct{}) {
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			look()
		}
	}
	before := look()
	return func() {
		mu.Lock()
		defer mu.Unlock()
		stopped = true
		debug.SetGCPercent(before)
	}
}

// leastHeap is what a heap is taken for that is smaller. A heap that grows fast
// has the percentage of the smaller one that it was until it is looked at: in a
// storm of retries a higher one let the process exceed 100 MB.
const leastHeap = 2 << 20

// percentFor is the GOGC with which a live heap of so many octets has room for
// heapRoom of garbage, never less than Go's own.
func percentFor(live uint64) int { return max(100, int(heapRoom*100/max(live, leastHeap))) }

// liveHeap is what the last collection left.
func liveHeap() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}

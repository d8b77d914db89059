package main

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

// gcPercent is the GOGC in force.
func gcPercent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// TestCollectLessOften: garbage has room beside a small heap and no more than
// Go's own beside a large one, also when that has become small again.
func TestCollectLessOften(t *testing.T) {
	before := gcPercent()
	t.Setenv("GOGC", "")
	stop := collectLessOften()
	settles := func(what string, ok func(percent uint64) bool) {
		t.Helper()
		deadline := time.Now().Add(10 * time.Second)
		for runtime.GC(); !ok(gcPercent()); runtime.GC() {
			if time.Now().After(deadline) {
				t.Errorf("%s: GOGC is %d", what, gcPercent())
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	small := func(p uint64) bool { return p > 100 && p <= 400 }
	for range 2 {
		settles("a small heap", small)
		large := make([]byte, 4*heapRoom)
		settles("a large one", func(p uint64) bool { return p == 100 })
		runtime.KeepAlive(large)
	}
	stop()
	runtime.GC()
	if got := gcPercent(); got != before {
		t.Errorf("GOGC is %d after the end, was %d", got, before)
	}

	t.Setenv("GOGC", "100")
	defer collectLessOften()()
	runtime.GC()
	if got := gcPercent(); got != before {
		t.Errorf("GOGC is %d, not the operator's", got)
	}
}

// TestPercentFor: there is room for 8 MiB of garbage, or for as much as there
// is heap.
func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 1 << 10: 400, 2 << 20: 400, 4 << 20: 200, 8 << 20: 100, 1 << 40: 100} {
		if got := percentFor(live); got != want {
			t.Errorf("%d octets: %d, want %d", live, got, want)
		}
	}
}

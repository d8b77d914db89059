package main

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process uses now. Memory is in octets.
type Usage struct {
	CPU         time.Duration // since it started
	Heap, Stack int64         // in use by the heap, and by goroutines' stacks
	RSS         int64
}

// Usage tells what this process uses; with collect, after garbage has been
// collected and freed pages have gone back to the kernel, so that what the
// pools and the allocator keep for later counts on no side.
func (s *Side) Usage(collect bool, u *Usage) error {
	if collect {
		debug.FreeOSMemory()
		debug.FreeOSMemory() // a pool keeps its items over one collection
	}
	*u = memoryInUse()
	u.CPU = ownCPU()
	return nil
}

// memoryInUse reads without stopping anything.
func memoryInUse() Usage {
	s := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, // in use for objects and free within their spans
		{Name: "/memory/classes/heap/stacks:bytes"},
	}
	metrics.Read(s)
	return Usage{
		Heap:  int64(s[0].Value.Uint64() + s[1].Value.Uint64()),
		Stack: int64(s[2].Value.Uint64()),
		RSS:   residentSet(),
	}
}

// residentSet reads the resident pages from /proc/self/statm (proc(5)), 0 where
// there is none.
func residentSet() int64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(f[1], 10, 64)
	return pages * int64(os.Getpagesize())
}

// watch follows the memory of this process.
type watch struct {
	stop, stopped chan struct{}
	peak          Usage
}

// watchEvery is how often memory is looked at.
const watchEvery = 10 * time.Millisecond

// Watch starts to follow this process's memory.
func (s *Side) Watch(struct{}, *struct{}) error {
	w := &watch{stop: make(chan struct{}), stopped: make(chan struct{})}
	s.watch = w
	go func() {
		defer close(w.stopped)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			u := memoryInUse()
			w.peak.Heap = max(w.peak.Heap, u.Heap)
			w.peak.Stack = max(w.peak.Stack, u.Stack)
			w.peak.RSS = max(w.peak.RSS, u.RSS)
			select {
			case <-tick.C:
			case <-w.stop:
				return
			}
		}
	}()
	return nil
}

// Watched ends that and tells the highest values seen.
func (s *Side) Watched(_ struct{}, peak *Usage) error {
	if s.watch == nil {
		return errors.New("memory is not being watched")
	}
	close(s.watch.stop)
	<-s.watch.stopped
	*peak, s.watch = s.watch.peak, nil
	return nil
}

// idleParams and largeParams say what the memory cases did.
type idleParams struct {
	What    string  `json:"what"`
	Streams int     `json:"streams"`
	Hold    float64 `json:"hold_s"`
}

type largeParams struct {
	What string `json:"what"`
	Size int    `json:"size"`
}

const kilobyte = 1 << 10

// benchIdle holds idle streams and tells what one costs on either side.
func benchIdle(dir string, p legParams) (*benchCase, error) {
	l, err := startLeg(LegSetup{Kind: overStreams, Dir: dir, Pairs: p.Streams})
	if err != nil {
		return nil, err
	}
	defer l.stop()
	before, after := [2]Usage{}, [2]Usage{}
	if before[0], before[1], err = l.usage(true); err != nil {
		return nil, err
	}
	if err := l.connect(); err != nil {
		return nil, err
	}
	time.Sleep(p.Hold)
	for _, side := range []*legProcess{l.sending, l.receiving} {
		var live int
		if err := side.call("Live", struct{}{}, &live); err != nil {
			return nil, err
		}
		if live != p.Streams {
			return nil, fmt.Errorf("%d of %d idle streams are left after %v", live, p.Streams, p.Hold)
		}
	}
	asItStands := [2]Usage{}
	if asItStands[0], asItStands[1], err = l.usage(false); err != nil {
		return nil, err
	}
	if after[0], after[1], err = l.usage(true); err != nil {
		return nil, err
	}
	c := &benchCase{Params: idleParams{"idle streams", p.Streams, p.Hold.Seconds()}, Ratio: map[string]*float64{}}
	for i, name := range []string{"sending side", "receiving side"} {
		each := func(v int64) spread { return spreadOf([]float64{float64(v) / kilobyte / float64(p.Streams)}) }
		c.Runs = append(c.Runs, benchRun{name, 1, map[string]spread{
			"heap_kb_per_stream":            each(after[i].Heap - before[i].Heap),
			"stack_kb_per_stream":           each(after[i].Stack - before[i].Stack),
			"rss_kb_per_stream":             each(after[i].RSS - before[i].RSS),
			"rss_uncollected_kb_per_stream": each(asItStands[i].RSS - before[i].RSS),
		}})
	}
	return c, nil
}

// benchLarge sends one large message at a time and tells by how much the
// memory of either side grows at its peak.
func benchLarge(dir string, p legParams) (*benchCase, error) {
	l, err := startLeg(LegSetup{Kind: overStreams, Dir: dir, Pairs: 1})
	if err != nil {
		return nil, err
	}
	defer l.stop()
	if err := l.connect(); err != nil {
		return nil, err
	}
	size := p.LargeMB << 20
	if err := l.sending.call("Load", size, &struct{}{}); err != nil {
		return nil, err
	}
	sides, names := []*legProcess{l.sending, l.receiving}, []string{"sending side", "receiving side"}
	grown := [2]map[string][]float64{{}, {}}
	for range p.Reps {
		var before [2]Usage
		if before[0], before[1], err = l.usage(true); err != nil {
			return nil, err
		}
		if err := l.both("Watch", struct{}{}); err != nil {
			return nil, err
		}
		var took time.Duration
		if err := l.sending.call("Send", LegLoad{Messages: 1, InFlight: 1}, &took); err != nil {
			return nil, err
		}
		for i, side := range sides {
			var peak Usage
			if err := side.call("Watched", struct{}{}, &peak); err != nil {
				return nil, err
			}
			note := func(name string, v int64) { grown[i][name] = append(grown[i][name], float64(v)/(1<<20)) }
			note("extra_heap_mb", peak.Heap-before[i].Heap)
			note("extra_rss_mb", peak.RSS-before[i].RSS)
		}
	}
	c := &benchCase{Params: largeParams{"one large message", size}, Ratio: map[string]*float64{}}
	for i, name := range names {
		run := benchRun{name, p.Reps, map[string]spread{}}
		for metric, values := range grown[i] {
			run.Metrics[metric] = spreadOf(values)
		}
		c.Runs = append(c.Runs, run)
	}
	return c, nil
}

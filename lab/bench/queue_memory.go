package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"mailxmppd/lab/harness"
)

// processMemory is what a process has in memory now and had at most, in MB of
// a million octets (VmRSS and VmHWM of proc(5)).
func processMemory(pid int) (now, most float64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kb, err := strconv.ParseFloat(f[1], 64)
		switch {
		case f[0] != "VmRSS:" && f[0] != "VmHWM:":
		case err != nil:
			return 0, 0, err
		case f[0] == "VmRSS:":
			now = kb * 1024 / 1e6
		default:
			most = kb * 1024 / 1e6
		}
	}
	return now, most, nil
}

// heapWatch reads the largest heap from what GODEBUG=gctrace=1 has a gateway
// say of each collection: its size at the start, at the end, and what lives.
type heapWatch struct {
	quit, done chan struct{}
	most       float64
}

const heapPoll = 250 * time.Millisecond // the log keeps its last lines only

func watchHeap(g *harness.Gateway) *heapWatch {
	w := &heapWatch{quit: make(chan struct{}), done: make(chan struct{})}
	sizes := regexp.MustCompile(`\b(\d+)->(\d+)->\d+ MB`)
	look := func() {
		for _, m := range sizes.FindAllStringSubmatch(g.Log(), -1) {
			for _, size := range m[1:] {
				if mib, err := strconv.ParseFloat(size, 64); err == nil {
					w.most = max(w.most, mib*(1<<20)/1e6)
				}
			}
		}
	}
	go func() {
		defer close(w.done)
		tick := time.NewTicker(heapPoll)
		defer tick.Stop()
		for {
			look()
			select {
			case <-tick.C:
			case <-w.quit:
				look()
				return
			}
		}
	}()
	return w
}

// stop ends the watch and returns the largest heap in MB, 0 where there was no
// collection.
func (w *heapWatch) stop() float64 {
	close(w.quit)
	<-w.done
	return w.most
}

package peers

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	firstPause   = time.Second
	longestPause = time.Minute
	// expectFor is how long one Expect keeps a domain dialled: longer than the
	// longest time between two attempts of a delivery, which renew it.
	expectFor = 6 * time.Hour
	maxNoting = 32
)

// waiting counts what runs in the background, so that it is bounded and ends.
type waiting struct {
	max    int
	noting chan struct{} // one token for each Seen being looked into

	mu     sync.Mutex
	closed bool
	until  map[pair]time.Time // of the pairs being dialled
}

// enter starts or prolongs the waiting for a pair.
func (w *waiting) enter(p pair, start func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.until[p]
	if w.closed || !ok && len(w.until) >= w.max {
		return
	}
	w.until[p] = time.Now().Add(expectFor)
	if !ok {
		start()
	}
}

func (w *waiting) lasts(p pair) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Before(w.until[p])
}

func (w *waiting) leave(p pair) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.until, p)
}

// note starts looking into one Seen, if there is room.
func (w *waiting) note(start func()) {
	w.run(func() {
		select {
		case w.noting <- struct{}{}:
			start()
		default:
		}
	})
}

func (w *waiting) noted() { <-w.noting }

// run calls start, which must not block, unless everything is closed.
func (w *waiting) run(start func()) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	start()
	return true
}

// close lets nothing new begin.
func (w *waiting) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
}

// jitter spreads a pause over half to all of it, so that many gateways do not
// dial a peer that is back at the same instant.
func jitter(pause time.Duration) time.Duration {
	return pause/2 + rand.N(pause/2)
}

package transfer

import (
	"context"
	"sync"
)

// window counts the chunks in flight and keeps what came of them.
type window struct {
	free   chan struct{}
	flying sync.WaitGroup
	stop   context.CancelFunc // releases the chunks in flight

	mu     sync.Mutex
	at     int64 // the least offset that the peer has told where it was behind; else the size
	behind bool
	err    error // the first
}

// enter waits for room; false when there is no use in sending on.
func (w *window) enter(ctx context.Context) bool {
	select {
	case w.free <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err == nil && !w.behind
}

// leave enters what came of the chunk that ended at an offset.
func (w *window) leave(end, stands int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && w.err == nil:
		w.err = err
		w.stop()
	case err == nil && stands < end:
		w.behind = true
		w.at = min(w.at, stands)
	}
	<-w.free
}

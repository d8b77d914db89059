package proof

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errBusy   = errors.New("too many lookups at once")
	errClosed = errors.New("shutting down")
)

// flights run one lookup per key at a time, shared by all who ask meanwhile,
// and a bounded number in all. A lookup goes on when those who wait for it
// have left, until its own time is over: the next to ask profits.
type flights[T any] struct {
	max     int
	timeout time.Duration
	ctx     context.Context // ends with close
	cancel  context.CancelFunc
	shed    atomic.Int64

	mu      sync.Mutex
	wg      sync.WaitGroup
	running map[string]*flight[T]
}

type flight[T any] struct {
	done  chan struct{}
	value T // once done
}

func newFlights[T any](max int, timeout time.Duration) *flights[T] {
	f := &flights[T]{max: max, timeout: timeout, running: map[string]*flight[T]{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *flights[T]) do(ctx context.Context, key string, lookup func(context.Context) T) (T, error) {
	var none T
	fl, err := f.join(key, lookup)
	if err != nil {
		return none, err
	}
	select {
	case <-fl.done:
		return fl.value, nil
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

func (f *flights[T]) join(key string, lookup func(context.Context) T) (*flight[T], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.running[key]; fl != nil {
		return fl, nil
	}
	if f.ctx.Err() != nil {
		return nil, errClosed
	}
	if len(f.running) >= f.max {
		f.shed.Add(1)
		return nil, errBusy
	}
	fl := &flight[T]{done: make(chan struct{})}
	f.running[key] = fl
	f.wg.Go(func() {
		ctx, cancel := context.WithTimeout(f.ctx, f.timeout)
		defer cancel()
		fl.value = lookup(ctx)
		f.mu.Lock()
		delete(f.running, key)
		f.mu.Unlock()
		close(fl.done)
	})
	return fl, nil
}

func (f *flights[T]) close() {
	f.mu.Lock()
	f.cancel()
	f.mu.Unlock()
	f.wg.Wait()
}

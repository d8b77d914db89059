package component

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

var (
	errEnded = errors.New("connection to the server is closing")
	errFull  = errors.New("queue to the server is full")
)

// queue is what waits to be written: whole stanzas, bounded in octets for each
// of those who put them in, so that none keeps another out.
type queue struct {
	most                      int64 // octets of requests
	requests, answers, reader *semaphore.Weighted

	mu      sync.Mutex
	waiting []*entry
	ended   bool
	wake    chan struct{} // holds one token for the writer
}

// entry is a stanza in the queue.
type entry struct {
	b     []byte
	from  *semaphore.Weighted
	n     int64       // octets taken from it
	begun atomic.Bool // may have left, in part at least
}

func newQueue(most int) *queue {
	n := int64(most)
	return &queue{
		most: n, requests: semaphore.NewWeighted(n), answers: semaphore.NewWeighted(n / 4), reader: semaphore.NewWeighted(n / 4),
		wake: make(chan struct{}, 1),
	}
}

// request puts in a request of ours once there is room.
func (q *queue) request(ctx context.Context, b []byte) (*entry, error) {
	return q.put(ctx, q.requests, q.most, b)
}

// answer puts in what a handler answers once there is room.
func (q *queue) answer(ctx context.Context, b []byte) error {
	_, err := q.put(ctx, q.answers, q.most/4, b)
	return err
}

// try puts in what the reader answers by itself, if there is room at once.
func (q *queue) try(b []byte) error {
	n := min(int64(len(b)), q.most/4)
	if !q.reader.TryAcquire(n) {
		return errFull
	}
	return q.add(&entry{b: b, from: q.reader, n: n})
}

func (q *queue) put(ctx context.Context, from *semaphore.Weighted, most int64, b []byte) (*entry, error) {
	e := &entry{b: b, from: from, n: min(int64(len(b)), most)} // a stanza beyond the bound goes through alone
	if err := from.Acquire(ctx, e.n); err != nil {
		return nil, context.Cause(ctx)
	}
	return e, q.add(e)
}

func (q *queue) add(e *entry) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		e.from.Release(e.n)
		return errEnded
	}
	q.waiting = append(q.waiting, e)
	q.signal()
	return nil
}

// end takes nothing more in.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take waits for something to write; nil once the queue has ended and is empty.
func (q *queue) take() []*entry {
	for {
		q.mu.Lock()
		batch, ended := q.waiting, q.ended
		q.waiting = nil
		q.mu.Unlock()
		if len(batch) > 0 || ended {
			return batch
		}
		<-q.wake
	}
}

package stream

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
)

// TestOutboxIsFair: what waits for room gets it in the order of coming, so
// that a large stanza is not kept out by small ones that would still fit.
func TestOutboxIsFair(t *testing.T) {
	o := newOutbox(&sync.Pool{})
	if _, _, err := o.try(100, make([]byte, 60)); err != nil {
		t.Fatal(err)
	}
	large, small := bytes.Repeat([]byte("L"), 90), bytes.Repeat([]byte("s"), 30)
	results := make(chan int64, 2)
	put := func(b []byte) {
		at, err := o.wait(t.Context(), o.requests, 100, b)
		if err != nil {
			t.Error(err)
		}
		results <- at
	}
	go put(large)
	eventually(t, "the large one first in line", func() bool { return len(o.requests) == 1 })
	go put(small)
	drain := func(want int) []byte {
		batch, last := o.take(nil)
		if len(batch) != want || last {
			t.Fatalf("batch of %d octets, last %v", len(batch), last)
		}
		o.leaving(want)
		o.left(want)
		return batch
	}
	drain(60)
	if at := <-results; at != 60 {
		t.Fatal("first in at", at)
	}
	if b := drain(90); b[0] != 'L' {
		t.Fatal("the small one overtook")
	}
	if at := <-results; at != 150 {
		t.Fatal("second in at", at)
	}
	drain(30)
}

func TestOutboxEnds(t *testing.T) {
	o := newOutbox(&sync.Pool{})
	o.try(10, []byte("0123456789"))
	errs := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := o.wait(context.Background(), o.answers, 10, []byte("x"))
			errs <- err
		}()
	}
	o.end([]byte("</a>"))
	o.end([]byte("twice"))
	for range 2 {
		if err := <-errs; err != errEnded {
			t.Error(err)
		}
	}
	if batch, last := o.take(nil); string(batch) != "0123456789</a>" || !last {
		t.Errorf("%q %v", batch, last)
	}

	o = newOutbox(&sync.Pool{})
	at, _, _ := o.try(10, []byte("first"))
	batch, _ := o.take(nil)
	o.leaving(len(batch))
	second, _, _ := o.try(10, []byte("later"))
	if o.neverLeft(second) {
		t.Error("told too early")
	}
	o.kill()
	if o.neverLeft(at) || !o.neverLeft(second) {
		t.Error("what was under way is not told from what never left")
	}
	if batch, _ := o.take(nil); batch != nil {
		t.Errorf("%q after the end", batch)
	}
	if _, _, err := o.try(10, []byte("x")); err != errEnded {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	full := newOutbox(&sync.Pool{})
	full.try(1, []byte("x"))
	if _, err := full.wait(ctx, full.requests, 1, []byte("x")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

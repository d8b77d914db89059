package stream

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// TestTextsAreReleased sends long requests side by side. Each handler finds
// its text unchanged to its end, although those before gave theirs back, and
// a text that a handler has kept stays as it was.
func TestTextsAreReleased(t *testing.T) {
	want := func(n string) string { return strings.Repeat(fmt.Sprintf("%8s", n), 5000) }
	var mu sync.Mutex
	kept := map[string][]byte{}
	capulet, montague, _ := twoNodes(t, func(c *Config) {
		c.Handle = func(_ context.Context, _ *Link, iq *IQ) Reply {
			text := iq.Payload.Text
			n := strings.TrimSpace(string(text[:8]))
			for range 3 {
				if string(text) != want(n) {
					return Reply{Payload: echoPayload("changed")}
				}
			}
			if strings.HasSuffix(n, "0") {
				iq.Payload.Text = nil
				mu.Lock()
				kept[n] = text
				mu.Unlock()
			}
			return Reply{Payload: echoPayload(n)}
		}
	})
	l := mustLink(t, capulet, "capulet.example", "montague.example", montague)
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 20 {
				n := fmt.Sprint(worker*100 + i)
				el, err := l.Request(t.Context(), "set", echoPayload(want(n)))
				if err != nil || string(el.Text) != n {
					t.Errorf("request %s: %v", n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if len(kept) != 16 {
		t.Errorf("%d texts kept", len(kept))
	}
	for n, text := range kept {
		if string(text) != want(n) {
			t.Errorf("kept text of request %s changed", n)
		}
	}
}

package gateway

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// TestWaitingCostsNothing: 100,000 waiting deliveries to 1,000 domains, or a tenth
// of them in the short form, take no goroutine and no memory of the gateway, and
// new mail goes past them.
func TestWaitingCostsNothing(t *testing.T) {
	w := newWorldAlone(t, nil)
	send := func(n int) {
		for i := range n {
			rcpt := fmt.Sprintf("x%d@live.example", i)
			w.send(w.message(sample, "romeo@home.example", rcpt), false)
		}
	}
	used := func() (heap uint64, goroutines int) {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, runtime.NumGoroutine()
	}
	send(1)
	until(t, "the first delivery", func() bool { return len(w.legacy.deliveries()) == 1 })
	before, goroutines := used()
	messages, rcpts := 10, 1000
	if os.Getenv("MAILXMPPD_LONG") != "" {
		messages = 100
	}
	for i := range messages {
		m := w.message(sample, "romeo@home.example")
		m.ID = mail.NewID()
		first := make([]store.First, rcpts)
		for j := range rcpts {
			m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: mail.Address{Local: "x", Domain: fmt.Sprintf("d%d.example", j)}})
			first[j].Delay = time.Hour
			if i == 0 && j < 50 {
				first[j].Delay = 0 // some are due, and come to be known
			}
		}
		if _, err := w.store.PutMessage(t.Context(), store.NewMessage{Message: *m, Lifetime: 24 * time.Hour, First: first}); err != nil {
			t.Fatal(err)
		}
	}
	send(50)
	until(t, "new mail and what was due", func() bool { return len(w.legacy.deliveries()) == 101 })
	w.sched.mu.Lock()
	known := len(w.sched.dests) + len(w.sched.sites) + len(w.sched.turns) + len(w.sched.leases)
	w.sched.mu.Unlock()
	if after, now := used(); after > before+8<<20 || now > goroutines+w.Concurrency+10 || known > 200 {
		t.Errorf("%d octets and %d goroutines with %d waiting, %d and %d without; %d things remembered", after, now, messages*rcpts, before, goroutines, known)
	}
}

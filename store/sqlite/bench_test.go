package sqlite

import (
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// BenchmarkSpool is what one spooled message of 10 KB costs the store: put
// with its lease, then settled, both durable, from 16 callers. It reports
// messages a second and CPU time a message.
func BenchmarkSpool(b *testing.B) {
	s := open(b, filepath.Join(b.TempDir(), "mail.db"))
	defer s.Close()
	const callers = 16
	content := make([]byte, 10<<10)
	for i := range content {
		content[i] = byte('a' + i%26)
	}
	m := store.NewMessage{Lifetime: 5 * 24 * time.Hour, Lease: store.Own{Domains: []string{"montague.example"}, For: time.Hour}}
	m.Content = mail.Bytes(content)
	m.Envelope = mail.Envelope{
		Sender:     mail.Address{Local: "juliet", Domain: "capulet.example"},
		Recipients: []mail.Recipient{{Address: mail.Address{Local: "romeo", Domain: "montague.example"}}},
	}
	m.Trace = make([]byte, 200)
	m.Origin = mail.Origin{Transport: "smtp", Remote: "192.0.2.1:25", TLS: "TLS1.3 TLS_AES_128_GCM_SHA256"}
	done := store.Result{State: store.Delivered, Outcome: mail.Outcome{
		Remote: "montague.example", RemoteID: "01JZZZZZZZZZZZZZZZZZZZZZZZ", Text: "accepted", Proof: "pkix", TLS: "TLS1.3 TLS_AES_128_GCM_SHA256"}}
	work := make(chan bool)
	var wg sync.WaitGroup
	cpu := cpuTime(b)
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			for range work {
				m := m
				m.ID = mail.NewID()
				m.Transfer = mail.TransferID(m.Envelope.Sender, m.Facts)
				leases, err := s.PutMessage(b.Context(), m)
				if err == nil {
					err = s.Settle(b.Context(), store.Settlement{Lease: leases[0], Results: []store.Result{done}})
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	for range b.N {
		work <- true
	}
	close(work)
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/msg")
}

// cpuTime is what this process has used so far.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

package postgres

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// BenchmarkPutSettle is a message's whole life on the common path, by 16
// callers at once: 10 KB stored with a born lease, delivered, settled.
func BenchmarkPutSettle(b *testing.B) {
	benchLife(b, func(ctx context.Context, s *Store, m store.NewMessage) ([]store.Lease, error) {
		return s.PutMessage(ctx, m)
	})
}

// BenchmarkAcceptSettle is the same for mail from a peer.
func BenchmarkAcceptSettle(b *testing.B) {
	benchLife(b, func(ctx context.Context, s *Store, m store.NewMessage) ([]store.Lease, error) {
		k := store.TransferKey{Domain: "capulet.example", Local: "montague.example", ID: m.Transfer}
		_, leases, err := s.Accept(ctx, k, store.ContentHash{Size: m.Facts.Size}, m)
		return leases, err
	})
}

func benchLife(b *testing.B, take func(context.Context, *Store, store.NewMessage) ([]store.Lease, error)) {
	s := node(b, newSchema(), "bench")
	ctx := context.Background()
	template := newMessage(b, 10<<10, "romeo@montague.example")
	template.Lease = store.Own{Domains: []string{"montague.example"}, For: time.Minute}
	var seq atomic.Int64
	own, db := ownCPU(), serverCPU(b)
	b.SetParallelism(8) // times GOMAXPROCS
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m := template
			m.ID = mail.NewID()
			m.Transfer = strconv.FormatInt(seq.Add(1), 16)
			leases, err := take(ctx, s, m)
			if err != nil {
				b.Error(err)
				return
			}
			if err := s.Settle(ctx, store.Settlement{Lease: leases[0], Results: []store.Result{{State: store.Delivered}}}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	n := float64(b.N)
	b.ReportMetric(n/b.Elapsed().Seconds(), "msgs/s")
	b.ReportMetric((ownCPU()-own).Seconds()*1000/n, "own-cpu-ms/msg")
	b.ReportMetric((serverCPU(b)-db).Seconds()*1000/n, "db-cpu-ms/msg")
}

func ownCPU() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// serverCPU adds up the processor time of the server and its children that
// still run.
func serverCPU(b *testing.B) time.Duration {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		b.Fatal(err)
	}
	var ticks int64
	for _, e := range entries {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // not a process, or gone
		}
		_, rest, ok := strings.Cut(string(stat), ") ")
		f := strings.Fields(rest)
		if !ok || len(f) < 13 || f[1] != strconv.Itoa(server.PID) && !strings.HasPrefix(string(stat), strconv.Itoa(server.PID)+" ") {
			continue
		}
		for _, v := range f[11:13] { // utime, stime
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			ticks += n
		}
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ
}

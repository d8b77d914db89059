package transfer

import (
	"context"
	"testing"

	"mailxmppd/mail"
)

// BenchmarkDeliver carries a message through encoding, parsing, judging and
// hashing, without a network and without a disk.
func BenchmarkDeliver(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"inline 10 KB", 10 << 10}, {"inline 60 KB", 60 << 10}, {"chunks 5 MB", 5 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			x := newSetup()
			a := message(c.size, "romeo")
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			for b.Loop() {
				x.store.mu.Lock()
				clear(x.store.known)
				x.store.messages = nil
				x.store.mu.Unlock()
				a.Transfer = mail.TransferID(a.Envelope.Sender, mail.Facts{})
				if out := x.sender.Deliver(context.Background(), a); !out[0].Delivered() {
					b.Fatal(out[0].Failure)
				}
			}
		})
	}
}

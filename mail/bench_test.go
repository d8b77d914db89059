package mail

import (
	"strings"
	"testing"
)

// BenchmarkFacts is what a look at content costs besides its hash.
func BenchmarkFacts(b *testing.B) {
	content := []byte("From: a@b\r\n\r\n" + strings.Repeat(strings.Repeat("x", 64)+"\r\n", 3000))
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		var s factScanner
		s.write(content)
		if s.end(); s.bareLineEnd() {
			b.Fatal("bare line end")
		}
	}
}

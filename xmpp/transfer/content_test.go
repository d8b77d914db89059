package transfer

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"mailxmppd/mail"
)

// bareReference says octet by octet what mail.Scanner finds with fewer looks.
func bareReference(p []byte) bool {
	for i, c := range p {
		if c == '\r' && (i+1 == len(p) || p[i+1] != '\n') || c == '\n' && (i == 0 || p[i-1] != '\r') {
			return true
		}
	}
	return false
}

func TestBareLineEnds(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 2))
	bare := 0
	for range 20000 {
		p := make([]byte, draw.IntN(9))
		for i := range p {
			p[i] = "\r\n\r\na"[draw.IntN(5)]
		}
		if draw.IntN(2) == 0 {
			p = bytes.ReplaceAll(bytes.ReplaceAll(p, []byte{'\r'}, nil), []byte{'\n'}, []byte("\r\n"))
		}
		s := mail.NewScanner()
		for rest := p; len(rest) > 0; {
			n := 1 + draw.IntN(len(rest))
			s.Write(rest[:n])
			rest = rest[n:]
		}
		want := bareReference(p)
		if want {
			bare++
		}
		if s.BareLineEnd() != want {
			t.Fatalf("%q: bare %v, want %v", p, s.BareLineEnd(), want)
		}
	}
	if bare < 1000 || bare > 19000 {
		t.Errorf("the draw is lopsided: %d of 20,000 bare", bare)
	}
}

func TestScannerFacts(t *testing.T) {
	content := text(70000)
	s := mail.NewScanner()
	for p := range bytes.Lines(content) {
		s.Write(p[:len(p)/2])
		s.Facts() // looking on the way changes nothing
		s.Write(p[len(p)/2:])
	}
	b := mail.NewBuffer(t.TempDir())
	defer b.Close()
	if _, err := b.Write(content); err != nil {
		t.Fatal(err)
	}
	if s.Facts() != b.Facts() {
		t.Errorf("facts %+v, want %+v", s.Facts(), b.Facts())
	}
}

package dkim

import (
	"bytes"
	"crypto/sha256"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

// TestCanonicalField: the examples of RFC 6376 section 3.4.5, and others.
func TestCanonicalField(t *testing.T) {
	for _, c := range []struct{ in, relaxed string }{
		{"A: X\r\n", "a:X\r\n"},
		{"B : Y\t\r\n\tZ  \r\n", "b:Y Z\r\n"},
		{"Subject:\r\n", "subject:\r\n"},
		{"Subject:   \r\n", "subject:\r\n"},
		{"X:a\r\n b", "x:a b\r\n"},
		{"X:\t:a : b\r\n", "x::a : b\r\n"},
	} {
		if got := Relaxed.CanonicalField(c.in); got != c.relaxed {
			t.Errorf("relaxed %q is %q, want %q", c.in, got, c.relaxed)
		}
		if got := Simple.CanonicalField(c.in); got != c.in {
			t.Errorf("simple %q is %q", c.in, got)
		}
	}
}

// bodies are bodies with their two forms; the first is the example of RFC 6376
// section 3.4.5.
var bodies = []struct{ in, simple, relaxed string }{
	{" C \r\nD \t E\r\n\r\n\r\n", " C \r\nD \t E\r\n", " C\r\nD E\r\n"},
	{"", "\r\n", ""},
	{"\r\n", "\r\n", ""},
	{"\r\n\r\n\r\n", "\r\n", ""},
	{" \t\r\n", " \t\r\n", ""},
	{"a", "a\r\n", "a\r\n"},
	{"a\r\n  ", "a\r\n  \r\n", "a\r\n"},
	{"a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"},
	{"a\r\n\r\n\r\n\r\n\r\nb\r\n", "a\r\n\r\n\r\n\r\n\r\nb\r\n", "a\r\n\r\n\r\n\r\n\r\nb\r\n"},
	{"a  b\t\tc \r\n \r\n", "a  b\t\tc \r\n \r\n", "a b c\r\n"},
	{"\r\n\r\na", "\r\n\r\na\r\n", "\r\n\r\na\r\n"},
	{"a\r", "a\r\r\n", "a\r\r\n"},
	{"a\rb\nc\r\n", "a\rb\nc\r\n", "a\rb\nc\r\n"},
	{"a\r\r\n", "a\r\r\n", "a\r\r\n"},
	{strings.Repeat("x ", 3000) + "\r\n", strings.Repeat("x ", 3000) + "\r\n", strings.TrimSuffix(strings.Repeat("x ", 3000), " ") + "\r\n"},
	{strings.Repeat("y", 5000), strings.Repeat("y", 5000) + "\r\n", strings.Repeat("y", 5000) + "\r\n"},
	{"z\r\n" + strings.Repeat("\r\n", 2000) + "z", "z\r\n" + strings.Repeat("\r\n", 2000) + "z\r\n", "z\r\n" + strings.Repeat("\r\n", 2000) + "z\r\n"},
}

func TestBody(t *testing.T) {
	for _, c := range bodies {
		for how, r := range map[string]io.Reader{
			"at once":       strings.NewReader(c.in),
			"byte by byte":  iotest.OneByteReader(strings.NewReader(c.in)),
			"in two halves": io.MultiReader(strings.NewReader(c.in[:len(c.in)/2]), strings.NewReader(c.in[len(c.in)/2:])),
		} {
			b := NewBody(Simple, Relaxed)
			io.Copy(struct{ io.Writer }{b}, r)
			for form, want := range map[Canonicalization]string{Simple: c.simple, Relaxed: c.relaxed} {
				sum := sha256.Sum256([]byte(want))
				if !bytes.Equal(b.Sum(form), sum[:]) {
					t.Errorf("%.40q, %s: %s is not %.40q", c.in, how, form, want)
				}
			}
		}
	}
}

// TestBodyOfEmptyLines: neither time nor memory grows faster than a body that
// is made to be held back.
func TestBodyOfEmptyLines(t *testing.T) {
	b := NewBody(Simple, Relaxed)
	piece := []byte(strings.Repeat("\r\n", 16<<10))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 25 << 20 / len(piece) {
		b.Write(piece)
	}
	b.Write([]byte("x"))
	b.Sum(Simple)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d octets allocated for 25 MB of empty lines", n)
	}
}

// FuzzBody: the forms do not depend on how the body comes, and are those of a
// plain reading of RFC 6376 section 3.4.
func FuzzBody(f *testing.F) {
	for _, c := range bodies {
		f.Add(c.in, 3)
	}
	f.Fuzz(func(t *testing.T, in string, split int) {
		split = max(0, min(split, len(in)))
		b := NewBody(Simple, Relaxed)
		b.Write([]byte(in[:split]))
		b.Write([]byte(in[split:]))
		for form, want := range map[Canonicalization]string{Simple: plainSimple(in), Relaxed: plainRelaxed(in)} {
			sum := sha256.Sum256([]byte(want))
			if !bytes.Equal(b.Sum(form), sum[:]) {
				t.Fatalf("%q at %d: %s is not %q", in, split, form, want)
			}
		}
	})
}

func plainSimple(in string) string {
	for strings.HasSuffix(in, "\r\n") {
		in = strings.TrimSuffix(in, "\r\n")
	}
	return in + "\r\n"
}

func plainRelaxed(in string) string {
	lines := strings.Split(in, "\r\n")
	for i, l := range lines {
		var b strings.Builder
		for j := 0; j < len(l); j++ {
			if l[j] == ' ' || l[j] == '\t' {
				if j == 0 || l[j-1] != ' ' && l[j-1] != '\t' {
					b.WriteByte(' ')
				}
				continue
			}
			b.WriteByte(l[j])
		}
		lines[i] = strings.TrimSuffix(b.String(), " ")
	}
	for len(lines) > 0 && lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 {
		return ""
	}
	return strings.Join(lines, "\r\n") + "\r\n"
}

package smtpbridge

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"mailxmppd/mail"
)

// pieces is a reader that returns its pieces one by one.
type pieces [][]byte

func (p *pieces) Read(b []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	if (*p)[0] = (*p)[0][n:]; len((*p)[0]) == 0 {
		*p = (*p)[1:]
	}
	return n, nil
}

// readContent runs a dotReader over a source and returns the content and what
// is left in the input and the source.
func readContentOf(src io.Reader, bufSize int, limits ServerLimits) (content, rest string, err error) {
	in := newSessionInput(src, make([]byte, bufSize), nil)
	var out bytes.Buffer
	n, err := newDotReader(in, limits, false).WriteTo(&out)
	if err == nil && n != int64(out.Len()) {
		return "", "", fmt.Errorf("returned %d, wrote %d", n, out.Len())
	}
	left, _ := io.ReadAll(src)
	return out.String(), string(in.buf[in.r:in.w]) + string(left), err
}

func TestDotReader(t *testing.T) {
	const bare = "bare CR or LF"
	tests := []struct {
		wire, content string
		rest          string
		refused       string // text of the refusal, or "EOF" where no end was found
	}{
		{".\r\n", "", "", ""},
		{"\r\n.\r\n", "\r\n", "", ""},
		{"a\r\n.\r\n", "a\r\n", "", ""},
		{"a\r\n.\r\nNOOP\r\n", "a\r\n", "NOOP\r\n", ""},
		{"a\r\n.\r\n.\r\n", "a\r\n", ".\r\n", ""},
		{"..\r\n.\r\n", ".\r\n", "", ""},
		{"...\r\n.\r\n", "..\r\n", "", ""},
		{".a\r\n.\r\n", "a\r\n", "", ""},
		{"a.\r\nb\r\n.\r\n", "a.\r\nb\r\n", "", ""},
		{"\r\n\r\n..\r\n..x\r\n.\r\n", "\r\n\r\n.\r\n.x\r\n", "", ""},
		{"\x00\xff\r\n.\r\n", "\x00\xff\r\n", "", ""},
		{"", "", "", "EOF"},
		{"a\r\n.", "", "", "EOF"},
		{"a\r\n.\r", "", "", "EOF"},
		{"a\n.\n", "", "", "EOF"},
		{"a\n.\r\n", "", "", "EOF"},
		{"a\r\n.\n", "", "", "EOF"},
		{"a\r.\r", "", "", "EOF"},
		{"a\r.\r\n", "", "", "EOF"},
		{".\n.\r\n", "", "", "EOF"},
		{".\r.\r\n", "", "", "EOF"},
		{"a\n.\nb\r\n.\r\nc", "", "c", bare},
		{"a\n.\r\nb\r\n.\r\nc", "", "c", bare},
		{"a\r\n.\nb\r\n.\r\nc", "", "c", bare},
		{"a\r.\rb\r\n.\r\nc", "", "c", bare},
		{"a\r\r\n.\r\nc", "", "c", bare},
		{".\r\r\n.\r\nc", "", "c", bare},
		{"a\r\n.\r\r\nb\r\n.\r\nc", "", "c", bare},
		{"\n\r\n.\r\nc", "", "c", bare},
		{"\n.\r\n\r\n.\r\nc", "", "c", bare},
		{"\r\n\r.\r\n\r\n.\r\nc", "", "c", bare},
		{".\n\r\n.\r\nc", "", "c", bare},
		{"a\rb\r\n.\r\nc", "", "c", bare},
	}
	for _, test := range tests {
		check := func(how string, src io.Reader, size int) {
			content, rest, err := readContentOf(src, size, DefaultLimits())
			refused, isRefused := errors.AsType[*refusedContent](err)
			switch {
			case test.refused == "EOF":
				if err != io.ErrUnexpectedEOF {
					t.Errorf("%q, %s: error %v", test.wire, how, err)
				}
				return
			case test.refused != "":
				if !isRefused || !strings.HasPrefix(refused.reply.text, test.refused) {
					t.Errorf("%q, %s: error %v", test.wire, how, err)
				}
			case err != nil || content != test.content:
				t.Errorf("%q, %s: content %q, %v, want %q", test.wire, how, content, err, test.content)
			}
			if rest != test.rest {
				t.Errorf("%q, %s: %q is left, want %q", test.wire, how, rest, test.rest)
			}
		}
		check("whole", strings.NewReader(test.wire), inputLarge)
		check("octet by octet", iotest.OneByteReader(strings.NewReader(test.wire)), inputLarge)
		check("one octet of buffer", strings.NewReader(test.wire), 1)
		for i := 1; i < len(test.wire); i++ {
			check(fmt.Sprintf("split at %d", i), &pieces{[]byte(test.wire[:i]), []byte(test.wire[i:])}, inputLarge)
		}
	}
}

func TestDotReaderLimits(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxSize, limits.ContentLine = 300_000, 2000
	limits.HeaderLines, limits.HeaderBytes, limits.HeaderField = 20, 10_000, 5000
	end := "\r\n.\r\n"
	line := "X: " + strings.Repeat("x", 990) + "\r\n"
	tests := []struct {
		name, wire string
		want       string // of the reply; "" for accepted, "endless"
	}{
		{"size at the limit", "\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 299) + strings.Repeat("x", 996) + end, ""},
		{"size beyond the limit", "\r\n" + strings.Repeat(strings.Repeat("x", 998)+"\r\n", 299) + strings.Repeat("x", 997) + end, "552 5.3.4"},
		{"endless", strings.Repeat(strings.Repeat("x", 998)+"\r\n", 800), "endless"},
		{"endless line", strings.Repeat("x", 800_000), "endless"},
		{"line at the limit", "\r\n" + strings.Repeat("x", 2000) + end, ""},
		{"line beyond the limit", "\r\n" + strings.Repeat("x", 2001) + end, "554 5.6.0 line"},
		{"dots do not count", "\r\n." + strings.Repeat(".", 2000) + end, ""},
		{"header lines at the limit", strings.Repeat("X: y\r\n", 20) + end, ""},
		{"header lines beyond the limit", strings.Repeat("X: y\r\n", 21) + end, "554 5.6.0 header"},
		{"folded lines beyond the limit", "X: y\r\n" + strings.Repeat(" y\r\n", 20) + end, "554 5.6.0 header"},
		{"body lines do not count", "X: y\r\n\r\n" + strings.Repeat("X: y\r\n", 50) + end, ""},
		{"no header at all", "Dear friend\r\n" + strings.Repeat("X: y\r\n", 50) + end, ""},
		{"header at the limit", strings.Repeat(line, 10) + "X: " + strings.Repeat("x", 45) + "\r\n" + end, ""},
		{"header beyond the limit", strings.Repeat(line, 10) + "X: " + strings.Repeat("x", 46) + "\r\n" + end, "552 5.6.0 header of"},
		{"field beyond the limit", line + strings.Repeat("\t"+line, 5) + end, "552 5.6.0 header field"},
	}
	for _, test := range tests {
		for _, size := range []int{inputLarge, 100, 7} {
			_, _, err := readContentOf(strings.NewReader(test.wire), size, limits)
			refused, isRefused := errors.AsType[*refusedContent](err)
			switch {
			case test.want == "" && err != nil, test.want == "endless" && err != errEndless:
				t.Errorf("%s: %v", test.name, err)
			case test.want != "" && test.want != "endless" && (!isRefused || !strings.HasPrefix(string(refused.reply.appendTo(nil)), test.want)):
				t.Errorf("%s: %v, want %s", test.name, err, test.want)
			}
		}
	}
}

func TestDotReaderWithoutLimitOverflow(t *testing.T) {
	limits := DefaultLimits()
	limits.MaxSize = 1<<63 - 1
	if content, _, err := readContentOf(strings.NewReader("x\r\n.\r\n"), 100, limits); content != "x\r\n" || err != nil {
		t.Errorf("%q, %v", content, err)
	}
}

// failingSink has room for some octets.
type failingSink struct {
	room int
	err  error
}

func (s *failingSink) Write(p []byte) (int, error) {
	if s.room -= len(p); s.room < 0 {
		return 0, s.err
	}
	return len(p), nil
}

func TestDotReaderReadsOnAfterTheSinkFailed(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("temporary content file: %w", syscall.ENOSPC), "452 4.3.1"},
		{errors.New("a secret"), "451 4.3.0 temporary local problem"},
	} {
		in := newSessionInput(strings.NewReader(strings.Repeat("x\r\n", 1000)+".\r\nNOOP\r\n"), make([]byte, 100), nil)
		_, err := newDotReader(in, DefaultLimits(), false).WriteTo(&failingSink{500, test.err})
		refused, ok := errors.AsType[*refusedContent](err)
		if !ok || !strings.HasPrefix(string(refused.reply.appendTo(nil)), test.want) {
			t.Errorf("%v, want %s", err, test.want)
		}
		if line, err := in.line(100); string(line) != "NOOP" || err != nil {
			t.Errorf("next line %q, %v", line, err)
		}
	}
}

// referenceContent is the plainest reading of RFC 5321 section 4.5.2: find the
// end, cut into lines at CRLF, take a dot from the start of each.
func referenceContent(wire []byte) (content []byte, rest []byte, bare, ended bool) {
	all := append([]byte("\r\n"), wire...)
	body, rest, ended := bytes.Cut(all, []byte("\r\n.\r\n"))
	if !ended {
		return nil, nil, false, false
	}
	var out []byte
	for _, line := range bytes.Split(body, []byte("\r\n"))[1:] {
		if bytes.ContainsAny(line, "\r\n") {
			bare = true
		}
		out = append(append(out, bytes.TrimPrefix(line, []byte("."))...), "\r\n"...)
	}
	return out, rest, bare, true
}

func FuzzDotReader(f *testing.F) {
	for _, seed := range []string{".\r\n", "a\r\n.\r\nb", "..\r\n.\r\n", "a\n.\nb\r\n.\r\n", ".\r\r\n.\r\n", "\r\n\r\n.\r\n\r\n.\r\n", "\r\r\n.\r\n", ".\r"} {
		f.Add([]byte(seed), uint8(3))
	}
	f.Fuzz(func(t *testing.T, wire []byte, size uint8) {
		want, wantRest, bare, ended := referenceContent(wire)
		content, rest, err := readContentOf(bytes.NewReader(wire), int(size)+1, DefaultLimits())
		if !ended {
			if err != io.ErrUnexpectedEOF {
				t.Fatalf("no end in %q: %q, %v", wire, content, err)
			}
			return
		}
		if _, refused := errors.AsType[*refusedContent](err); refused != bare || !refused && err != nil {
			t.Fatalf("%q: %v, bare line ends %v", wire, err, bare)
		}
		if !bare && content != string(want) {
			t.Fatalf("%q: content %q, want %q", wire, content, want)
		}
		if rest != string(wantRest) {
			t.Fatalf("%q: %q is left, want %q", wire, rest, wantRest)
		}
	})
}

// benchmarkContent is 1 MB of lines of 76 octets, a few of which begin with a
// dot.
func benchmarkContent() []byte {
	var b bytes.Buffer
	b.WriteString("Subject: x\r\n\r\n")
	for i := 0; b.Len() < 1<<20; i++ {
		if i%100 == 0 {
			b.WriteString("..")
		}
		b.WriteString(strings.Repeat("x", 74) + "\r\n")
	}
	b.WriteString(".\r\n")
	return b.Bytes()
}

// BenchmarkDotReader copies into nothing, into a hash, and into the Buffer that
// sessions use.
func BenchmarkDotReader(b *testing.B) {
	wire := benchmarkContent()
	limits := DefaultLimits()
	buf := make([]byte, inputLarge)
	for name, sink := range map[string]func() io.Writer{
		"discard": func() io.Writer { return io.Discard },
		"sha256":  func() io.Writer { return sha256.New() },
		"buffer":  func() io.Writer { return mail.NewBuffer(b.TempDir()) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(wire)))
			b.ReportAllocs()
			for b.Loop() {
				w := sink()
				if _, err := newDotReader(newSessionInput(bytes.NewReader(wire), buf, nil), limits, false).WriteTo(w); err != nil {
					b.Fatal(err)
				}
				if c, ok := w.(io.Closer); ok {
					c.Close()
				}
			}
		})
	}
}

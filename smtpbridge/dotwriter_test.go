package smtpbridge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

// stuff writes content as the client does, cut into pieces of the given size.
func stuff(content string, piece int) (string, error) {
	var out bytes.Buffer
	d := &dotWriter{w: &out}
	for len(content) > 0 {
		n := min(piece, len(content))
		if _, err := d.Write([]byte(content[:n])); err != nil {
			return out.String(), err
		}
		content = content[n:]
	}
	if err := d.finishLine(); err != nil {
		return out.String(), err
	}
	out.Write(finalDot)
	return out.String(), nil
}

// unstuff is the plainest reader of RFC 5321 section 4.5.2 there is.
func unstuff(r io.Reader) (string, error) {
	br := bufio.NewReader(r)
	var out strings.Builder
	for {
		line, err := br.ReadString('\n')
		if err != nil {
			return out.String(), err
		}
		if line == ".\r\n" {
			return out.String(), nil
		}
		out.WriteString(strings.TrimPrefix(line, "."))
	}
}

func TestDotWriter(t *testing.T) {
	for _, c := range []struct{ name, content, want string }{
		{"empty", "", ".\r\n"},
		{"a line", "a\r\n", "a\r\n.\r\n"},
		{"no last line end", "a", "a\r\n.\r\n"},
		{"an empty line", "\r\n", "\r\n.\r\n"},
		{"a dot", ".\r\n", "..\r\n.\r\n"},
		{"a dot without line end", ".", "..\r\n.\r\n"},
		{"two dots", "..\r\n", "...\r\n.\r\n"},
		{"dots among others", "a\r\n.b\r\nc.\r\n.\r\n\r\n", "a\r\n..b\r\nc.\r\n..\r\n\r\n.\r\n"},
		{"what looks like the end", "a\r\n.\r\nQUIT\r\n", "a\r\n..\r\nQUIT\r\n.\r\n"},
		{"octets", "\x00\xff\r\n.\xfe", "\x00\xff\r\n..\xfe\r\n.\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for piece := 1; piece <= len(c.content)+1; piece++ {
				if got, err := stuff(c.content, piece); err != nil || got != c.want {
					t.Errorf("in pieces of %d: %q, %v; want %q", piece, got, err, c.want)
				}
			}
		})
	}
}

// TestDotWriterRefusesBareLineEnds: nothing that could be taken for an end of
// content gets out.
func TestDotWriterRefusesBareLineEnds(t *testing.T) {
	for _, content := range []string{
		"\n", "\r", "a\nb\r\n", "a\rb\r\n", "a\r", "a\n", "\n.\n", "a\r\n.\n", "a\n.\r\n", "a\r.\r\n", "a\r\r\n", "a\r\n\n", "\r\n\r",
		"fine\r\n.\r.\r\n",
	} {
		for piece := 1; piece <= len(content); piece++ {
			got, err := stuff(content, piece)
			if !errors.Is(err, errNotCRLF) {
				t.Errorf("%q in pieces of %d: error %v", content, piece, err)
			}
			if rest := strings.ReplaceAll(got, "\r\n", ""); strings.ContainsAny(rest, "\r\n") {
				t.Errorf("%q in pieces of %d: wrote %q", content, piece, got)
			}
		}
	}
}

func FuzzDotWriter(f *testing.F) {
	for _, s := range []string{"", "a\r\n", ".\r\n.", "\r\n.\r\n", "a\n.\n", "a\r.\r", "..a\r\n\r\n", "\r"} {
		f.Add(s, 1)
		f.Add(s, 3)
	}
	f.Fuzz(func(t *testing.T, content string, piece int) {
		piece = max(1, piece%1024)
		sent, err := stuff(content, piece)
		bare := strings.ReplaceAll(content, "\r\n", "")
		if strings.ContainsAny(bare, "\r\n") {
			if !errors.Is(err, errNotCRLF) {
				t.Fatalf("%q was sent as %q", content, sent)
			}
			return
		}
		if err != nil {
			t.Fatalf("%q: %v", content, err)
		}
		want := content
		if want != "" && !strings.HasSuffix(want, "\r\n") {
			want += "\r\n"
		}
		// What follows the end must be left alone: the reader stops exactly there.
		r := strings.NewReader(sent)
		got, err := unstuff(r)
		if err != nil || got != want {
			t.Fatalf("%q came out as %q, %v", content, got, err)
		}
		if strings.Count(sent, "\r\n.\r\n") > 1 || r.Len() != 0 {
			t.Fatalf("%q: more than one end in %q", content, sent)
		}
	})
}

func BenchmarkDotWriter(b *testing.B) {
	line := "a line of ordinary length, as they are in most messages that people do write\r\n"
	content := []byte(strings.Repeat(line, 1000) + ".dots\r\n")
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	w := bufio.NewWriterSize(io.Discard, writeBuffer)
	for b.Loop() {
		d := dotWriter{w: w}
		if _, err := d.Write(content); err != nil {
			b.Fatal(err)
		}
		if err := d.finishLine(); err != nil {
			b.Fatal(err)
		}
	}
}

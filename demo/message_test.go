package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWithCRLF(t *testing.T) {
	for _, tt := range []struct{ name, in, want, err string }{
		{"crlf stays", "a: b\r\n\r\nc\r\n", "a: b\r\n\r\nc\r\n", ""},
		{"lf is converted", "a: b\n\nc\n", "a: b\r\n\r\nc\r\n", ""},
		{"last crlf is added", "a: b\r\n\r\nc", "a: b\r\n\r\nc\r\n", ""},
		{"last lf is added", "a: b\n\nc", "a: b\r\n\r\nc\r\n", ""},
		{"one line without end", "c", "c\r\n", ""},
		{"empty file", "", "\r\n", ""},
		{"empty body", "a: b\n\n", "a: b\r\n\r\n", ""},
		{"octets stay", "\x00\xff\xfe.\x80\n", "\x00\xff\xfe.\x80\r\n", ""},
		{"crlf, then lf", "a\r\nb\n", "", "mixed line ends: line 2"},
		{"lf, then crlf", "a\nb\nc\r\n", "", "mixed line ends: line 3"},
		{"bare cr", "a\rb\r\n", "", "line 1 holds a CR without LF"},
		{"cr cr lf", "a\r\r\n", "", "line 1 holds a CR without LF"},
		{"cr at the end", "a\n\r", "", "line 2 holds a CR without LF"},
	} {
		got, err := withCRLF([]byte(tt.in))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: error %v, want %q", tt.name, err, tt.err)
			}
			continue
		}
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %q, %v; want %q", tt.name, got, err, tt.want)
		}
	}
}

func FuzzWithCRLF(f *testing.F) {
	for _, s := range []string{"", "a", "a\nb", "a\r\nb", "a\r\nb\n", "\r", "\n\n", "\r\n\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		out, err := withCRLF(in)
		if !bytes.Equal(in, before) {
			t.Fatal("input was changed")
		}
		if err != nil {
			return
		}
		rest := bytes.ReplaceAll(out, []byte("\r\n"), nil)
		if bytes.ContainsAny(rest, "\r\n") || !bytes.HasSuffix(out, []byte("\r\n")) {
			t.Fatalf("%q became %q", in, out)
		}
		if !bytes.Equal(rest, bytes.ReplaceAll(bytes.ReplaceAll(in, []byte("\r\n"), nil), []byte("\n"), nil)) {
			t.Fatalf("%q became %q: other octets than line ends changed", in, out)
		}
	})
}

func TestUTF8Header(t *testing.T) {
	for _, tt := range []struct {
		content string
		want    bool
	}{
		{"Subject: plain\r\n\r\nb\xc3\xa9\r\n", false},
		{"Subject: \xc3\xa9\r\n\r\nb\r\n", true},
		{"Subject: \xe9\r\n\r\nb\r\n", false},
		{"\r\nSubject: \xc3\xa9\r\n\r\n", false},
		{"no end \xc3\xa9\r\n", true},
	} {
		if got := (letter{content: []byte(tt.content)}).utf8Header(); got != tt.want {
			t.Errorf("%q: %v", tt.content, got)
		}
	}
}

func TestReadLetterErrors(t *testing.T) {
	dir := t.TempDir()
	mixed, huge := filepath.Join(dir, "mixed.eml"), filepath.Join(dir, "huge.eml")
	if err := os.WriteFile(mixed, []byte("a\r\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, maxLetter+1); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{mixed: "mixed line ends", huge: "more than the gateways take", filepath.Join(dir, "none"): "no such file"} {
		if _, err := readLetter(file); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

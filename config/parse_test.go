package config

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"
)

// Whatever a file holds, the answer is a configuration or problems whose lines
// are in the file and whose words fit one line.
func FuzzParse(f *testing.F) {
	for _, file := range mustGlob(f, "testdata/config/bad-*.toml") {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(minimal))
	f.Add([]byte("peer = [{domain = \"a.example\"}, {domain.x = 1}]\n\"\\n\" = 1\n[[domain.name]]\n"))
	base := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := parse("f.toml", base, data)
		if (cfg == nil) == (err == nil) {
			t.Fatal("neither a configuration nor an error, or both")
		}
		if err == nil {
			return
		}
		problems, ok := errors.AsType[*Errors](err)
		if !ok || len(problems.List) == 0 {
			t.Fatalf("wrong kind of error: %v", err)
		}
		last := 0
		for _, p := range problems.List {
			if p.Line < max(1, last) || p.Line > 1+bytes.Count(data, []byte("\n")) {
				t.Errorf("line %d after %d of %d", p.Line, last, 1+bytes.Count(data, []byte("\n")))
			}
			last = p.Line
			if strings.ContainsAny(p.String(), "\r\n") {
				t.Errorf("more than a line: %q", p)
			}
		}
	})
}

func TestLineIndex(t *testing.T) {
	got := indexLines([]byte(`top = 1
[a]
b.c = 2
"quoted key" = 3
list = [
  "x", # with a comment
  # and a line of it
  "y",
]
[[t]]
[[t]]
k = 1
[t.sub]
k = 2
[[t.deep]]
k = 3
[i]
in = { x = 1, y = [ { z = 1 } ] }
`))
	want := map[string]int{
		"top": 1, "a": 2, "a.b.c": 3, "a.quoted key": 4, "a.list": 5, "a.list[0]": 6, "a.list[1]": 8,
		"t[0]": 10, "t[1]": 11, "t[1].k": 12, "t[1].sub": 13, "t[1].sub.k": 14, "t[1].deep[0]": 15, "t[1].deep[0].k": 16,
		"i": 17, "i.in": 18, "i.in.x": 18, "i.in.y": 18, "i.in.y[0].z": 18,
	}
	for path, line := range want {
		if got[path] != line {
			t.Errorf("%s: line %d, want %d", path, got[path], line)
		}
	}
	for path := range maps.Keys(got) {
		if want[path] == 0 && path != "i.in.y[0]" {
			t.Errorf("%s: found in line %d, but is not there", path, got[path])
		}
	}
}

func TestSuggestions(t *testing.T) {
	known := []string{"address", "listen", "max_inline", "tls"}
	for key, want := range map[string]string{
		"adress": "address", "addresss": "address", "addrses": "address", "addresx": "address",
		"max-inline": "max_inline", "Listen": "listen", "tsl": "tls", "frobnicate": "", "": "", "listeners": "",
	} {
		got := suggest(key, known)
		if want == "" && got != "" || want != "" && !strings.Contains(got, `"`+want+`"`) {
			t.Errorf("%q: got %q, want %q", key, got, want)
		}
	}
}

// Package corpus sends real messages along every path and compares octets.
package corpus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"mailxmppd/lab/harness"
)

const corpus = "../../.cache/spam-assassin/data"

// every is the share of the corpus that an ordinary run takes: each 30th of
// 6,046 messages.
const every = 30

// arrival is an entry of the demo's index.json.
type arrival struct {
	File          string `json:"file"`
	Path          string `json:"path"`
	Source        string `json:"source"`
	ContentOffset int    `json:"content_offset"`
	Identical     bool   `json:"identical"`
}

// TestRealMessages sends real messages, with CRLF line ends, through the demo
// network and compares what each final mailbox holds: each message once along
// each path, its octets unchanged behind the prepended header fields.
func TestRealMessages(t *testing.T) {
	sources := pick(t)
	exe, err := harness.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	args := []string{"demo", "--json", "--out", out}
	for _, s := range sources {
		args = append(args, "--message", s)
	}
	if log, err := exec.Command(exe, args...).CombinedOutput(); err != nil {
		t.Fatalf("demo: %v\n%s", err, log[max(0, len(log)-4000):])
	}
	compare(t, out, sources)
}

// pick writes the messages of this run as files with CRLF line ends.
func pick(t *testing.T) []string {
	files, err := filepath.Glob(filepath.Join(corpus, "*", "*.txt"))
	if err != nil || len(files) == 0 {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip("the corpus is not there")
		}
		t.Fatalf("no messages in %s (%v); scripts/corpus fetches them", corpus, err)
	}
	slices.Sort(files)
	dir := t.TempDir()
	var picked []string
	for i, f := range files {
		if i%every != 0 && os.Getenv("MAILXMPPD_LONG") == "" {
			continue
		}
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		// A few files mix line ends, which happened to them on their way
		// into the corpus.
		for _, end := range []string{"\r\n", "\r"} {
			raw = bytes.ReplaceAll(raw, []byte(end), []byte("\n"))
		}
		name := filepath.Join(dir, fmt.Sprintf("%04d.eml", i))
		if err := os.WriteFile(name, bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		picked = append(picked, name)
	}
	if len(picked) < 200 {
		t.Fatalf("only %d messages picked", len(picked))
	}
	return picked
}

// compare looks at the octets itself and takes nobody's word.
func compare(t *testing.T, out string, sources []string) {
	index, err := os.ReadFile(filepath.Join(out, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var arrivals []arrival
	if err := json.Unmarshal(index, &arrivals); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for _, a := range arrivals {
		got, err := os.ReadFile(filepath.Join(out, a.File))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(a.Source)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasSuffix(want, []byte("\r\n")) {
			want = append(want, "\r\n"...) // which DATA adds (RFC 5321 section 4.1.1.4)
		}
		if a.ContentOffset > len(got) || !bytes.Equal(got[a.ContentOffset:], want) || !a.Identical {
			t.Errorf("%s by %s: what arrived differs from what was sent", a.Source, a.Path)
		}
		seen[a.Source+" "+a.Path]++
	}
	for _, s := range sources {
		for _, path := range []string{"xmpp-ab", "xmpp-ba", "smtp-legacy", "queued"} {
			if n := seen[s+" "+path]; n != 1 {
				t.Errorf("%s arrived %d times by %s", s, n, path)
			}
		}
	}
}

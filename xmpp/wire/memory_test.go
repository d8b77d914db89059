package wire

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// endless is a peer that never stops; it counts what was read of it.
type endless struct {
	start string
	fill  string
	n     int
}

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, e.start)
	e.start = e.start[n:]
	for n < len(p) {
		n += copy(p[n:], e.fill)
	}
	e.n += n
	return n, nil
}

// TestMemoryIsBounded gives the parser input without end in every place that
// could hold some.
func TestMemoryIsBounded(t *testing.T) {
	l := Default()
	for _, tt := range []struct {
		name, start, fill string
		read, alloc       int
	}{
		{"name", "<", "a", 32 << 10, 128 << 10},
		{"attribute name", "<iq ", "a", 32 << 10, 128 << 10},
		{"attribute value", "<iq a='", "a", 64 << 10, 256 << 10},
		{"space in a tag", "<iq", " ", l.StanzaBytes + 32<<10, 128 << 10},
		{"attributes", "<iq a='1'", " b='2'", 32 << 10, 128 << 10},
		{"space between stanzas", "", "\n", l.Whitespace + 32<<10, 128 << 10},
		{"reference", "<iq>&", "a", 32 << 10, 128 << 10},
		{"text", "<iq>", "a", l.StanzaBytes + 32<<10, 4 * l.StanzaBytes},
		{"brackets", "<iq>", "]", l.StanzaBytes + 32<<10, 8 * l.StanzaBytes},
		{"elements", "<iq>", "<a/>", l.StanzaBytes, 4 << 20},
		{"depth", "<iq>", "<a>", 32 << 10, 128 << 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := &endless{start: header + tt.start, fill: tt.fill}
			p := NewParser(src, l)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := p.Header()
			if err == nil {
				_, err = p.Next()
			}
			runtime.ReadMemStats(&after)
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Fatal(err)
			}
			if src.n > tt.read {
				t.Errorf("%d octets were read", src.n)
			}
			if grew := int(after.TotalAlloc - before.TotalAlloc); grew > tt.alloc {
				t.Errorf("%d octets were allocated", grew)
			}
		})
	}
}

// TestElementsOwnTheirMemory: a stanza stays as it is while the next are read.
func TestElementsOwnTheirMemory(t *testing.T) {
	var in strings.Builder
	in.WriteString(header)
	for i := range 200 {
		fmt.Fprintf(&in, "<iq id='%d'><a>%s</a></iq>", i, strings.Repeat(string(rune('a'+i%26)), 50*i))
	}
	in.WriteString(footer)
	_, got, err := readAll(strings.NewReader(in.String()), Default())
	if err != nil || len(got) != 200 {
		t.Fatal(len(got), err)
	}
	for i, e := range got {
		text := strings.Repeat(string(rune('a'+i%26)), 50*i)
		if e.Attr("id") != fmt.Sprint(i) || string(e.Child("jabber:server", "a").Text) != text {
			t.Fatalf("stanza %d has changed", i)
		}
	}
}

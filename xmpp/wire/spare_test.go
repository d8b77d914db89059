package wire

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
)

// TestRelease gives texts back while the parser goes on, and finds those that
// are still held unchanged.
func TestRelease(t *testing.T) {
	var in strings.Builder
	in.WriteString(header)
	const stanzas = 200
	want := func(i int) string { return strings.Repeat(fmt.Sprintf("%08d", i), 2000+i%7*1000) }
	for i := range stanzas {
		fmt.Fprintf(&in, "<iq><a>%s</a><b>x</b></iq>", want(i))
	}
	p := NewParser(strings.NewReader(in.String()), Default())
	if _, err := p.Header(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range stanzas {
		e, err := p.Next()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if string(e.Children[0].Text) != want(i) || string(e.Children[1].Text) != "x" {
				t.Errorf("stanza %d is not what was sent", i)
			}
			p.Release(e)
			if e.Children[0].Text != nil {
				t.Errorf("stanza %d still has its text", i)
			}
		})
	}
}

// TestTextRoom holds that a short text after a long one takes no more memory
// than it is worth: a peer is charged for the octets that it sends.
func TestTextRoom(t *testing.T) {
	long, short := strings.Repeat("a", 400<<10), strings.Repeat("b", 2<<10)
	in := header + "<iq><a>" + long + "</a></iq>" + strings.Repeat("<iq><a>"+short+"</a></iq>", 3)
	p := NewParser(io.MultiReader(strings.NewReader(in)), Default())
	if _, err := p.Header(); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{long, short, short, short} {
		e, err := p.Next()
		if err != nil {
			t.Fatal(err)
		}
		text := e.Children[0].Text
		if string(text) != want {
			t.Fatalf("stanza %d: %d octets", i, len(text))
		}
		if cap(text) >= minSpare && cap(text) > 4*len(text) {
			t.Errorf("stanza %d holds %d octets for %d", i, cap(text), len(text))
		}
	}
}

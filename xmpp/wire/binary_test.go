package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
)

// decodedLikeText reads a stream twice, with the text of its elements "a"
// decoded on the way and without, whole and in pieces, and compares what
// Base64 makes of it.
func decodedLikeText(t *testing.T, in string) {
	t.Helper()
	limits := Limits{StanzaBytes: 64 << 10, Elements: 64}
	read := func(r io.Reader, names ...Name) (all []*Element, err error) {
		p := NewParser(r, limits)
		p.DecodeInPlace(names...)
		if _, err = p.Header(); err != nil {
			return nil, err
		}
		for {
			e, err := p.Next()
			if err != nil {
				return all, err
			}
			all = append(all, e)
		}
	}
	whole := func() io.Reader { return strings.NewReader(header + in + footer) }
	as, asErr := read(whole())
	for name, r := range map[string]io.Reader{"whole": whole(), "in pieces": &dribble{in: []byte(header + in + footer)}} {
		got, err := read(r, Name{"jabber:server", "a"})
		var refused, textRefused *Error
		if errors.As(err, &refused) != errors.As(asErr, &textRefused) || refused != nil && *refused != *textRefused || len(got) != len(as) {
			t.Fatalf("%s: %d, %v; as text: %d, %v", name, len(got), err, len(as), asErr)
		}
		for i := range got {
			sameBase64(t, got[i], as[i].clone())
		}
	}
}

// clone is deep as far as texts go.
func (e *Element) clone() *Element {
	c := *e
	c.Text, c.Children = bytes.Clone(e.Text), nil
	for _, child := range e.Children {
		c.Children = append(c.Children, child.clone())
	}
	return &c
}

func sameBase64(t *testing.T, got, want *Element) {
	t.Helper()
	if got.Name != want.Name || len(got.Children) != len(want.Children) || got.Size != want.Size {
		t.Fatalf("%v with %d children, want %v with %d", got.Name, len(got.Children), want.Name, len(want.Children))
	}
	for i := range got.Children {
		sameBase64(t, got.Children[i], want.Children[i])
	}
	if !got.decoded && !bytes.Equal(got.Text, want.Text) {
		t.Fatalf("text %q, want %q", got.Text, want.Text)
	}
	b, err := got.Base64()
	as, asErr := want.Base64()
	if (err != nil) != (asErr != nil) || !bytes.Equal(b, as) {
		t.Fatalf("%q, %v; as text %q, %v", b, err, as, asErr)
	}
}

var inPlace = []string{
	"<a/>", "<a></a>", "<a>QQ==</a>", "<a>QUI=</a>", "<a>QUJD</a>", "<a>QUJDR</a>", "<a>QR==</a>", "<a>=</a>",
	"<a>QUJDREVGR0hJSktMQUJDREVGR0hJSktM</a>", "<a>QUJDREVGR0hJSktMQUJDREVGR0hJSktMQQ==</a>",
	"<a>QUJDREVGR0hJSktMQUJDREVGR0hJSktM\n</a>", "<a> QUJD</a>", "<a>QUJDREVGR0hJSktM&#65;UJD</a>", "<a>&amp;</a>",
	"<a>QUJDREVGR0hJSktM<![CDATA[QUJD]]></a>", "<a><![CDATA[QUJD]]>QUJD</a>", "<a>QUJDREVGR0hJSktM<b/></a>",
	"<a>QUJDREVGR0hJSktM<b/>QUJD</a>", "<a>QQ==<b/>QUJD</a>", "<a><b/>QUJD</a>", "<a>QUJD<a>QUJD</a>QQ==</a>",
	"<a>QUJDREVGR0hJSktM]]></a>", "<a>QUJD]]</a>", "<a>QUJD\x01</a>", "<a>QUJDREVGR0hJSktM\xff</a>", "<a>QUJD<!-- --></a>", "<a>QUJD</b>",
	"<b>QUJD</b>", "<a xmlns='urn:other'>QUJD</a>", "<a>QUJDREVGR0hJSktMQUJDREVGR0hJSktM", "<b><a>QUJD</a><a>QUJD</a></b>",
	"<a>" + strings.Repeat("QUJD", 20000) + "</a>", // longer than the limit
	"<a>" + strings.Repeat("QUJD", 10000) + "</a><a>" + strings.Repeat("+/aZ", 9999) + "Q===</a>",
}

func TestDecodeInPlace(t *testing.T) {
	for _, in := range inPlace {
		decodedLikeText(t, in)
	}
	for n := range 200 {
		decodedLikeText(t, "<a>"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("Verona"), n)[:n])+"</a>")
	}
	p := NewParser(strings.NewReader(header+"<a>QUJD</a>"), Default())
	p.DecodeInPlace(Name{"jabber:server", "a"})
	if _, err := p.Header(); err != nil {
		t.Fatal(err)
	}
	if e, err := p.Next(); err != nil || string(e.Text) != "ABC" {
		t.Errorf("%q, %v: not decoded on the way", e.Text, err)
	}
}

func FuzzDecodeInPlace(f *testing.F) {
	for _, in := range inPlace {
		f.Add(in)
	}
	f.Fuzz(decodedLikeText)
}

// TestDecodeInPlaceRoom: many texts that turn out not to be base64, after a long
// one, take no more than what they are worth.
func TestDecodeInPlaceRoom(t *testing.T) {
	long := "<iq><a>" + strings.Repeat("QUJD", 96<<10) + "</a></iq>"
	const many = 2000
	in := header + long + "<iq>" + strings.Repeat("<a>QUJD&#65;</a>", many) + "</iq>" + strings.Repeat(" ", 1<<10)
	p := NewParser(strings.NewReader(in), Default())
	p.DecodeInPlace(Name{"jabber:server", "a"})
	if _, err := p.Header(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Next(); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	e, err := p.Next()
	runtime.ReadMemStats(&after)
	if err != nil || len(e.Children) != many || string(e.Children[many-1].Text) != "QUJDA" {
		t.Fatal(err)
	}
	// Under the race detector a pool loses what it is given now and then.
	if grew := after.TotalAlloc - before.TotalAlloc; grew > many*uint64(len(long))/2 {
		t.Errorf("%d octets were allocated for a stanza of %d", grew, e.Size)
	}
}

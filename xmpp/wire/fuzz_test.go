package wire

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

// reencode writes a parsed element with the encoder, attributes of foreign
// namespaces left out: the encoder has no prefixes.
func reencode(e *Encoder, el *Element, parent string) {
	e.Start(el.Name.Local, el.Name.Space)
	if el.Name.Space == "" && parent != "" {
		e.Attr("xmlns", "")
	}
	for _, a := range el.Attrs {
		if a.Name.Space == "" {
			e.Attr(a.Name.Local, a.Value)
		}
	}
	e.Text(string(el.Text))
	for _, c := range el.Children {
		reencode(e, c, el.Name.Space)
	}
	e.End()
}

func FuzzParser(f *testing.F) {
	for _, tt := range accepted {
		f.Add(tt.in)
	}
	for _, tt := range refused {
		if len(tt.in) < 1000 {
			f.Add(tt.in)
		}
	}
	f.Fuzz(func(t *testing.T, in string) {
		limits := PreAuth()
		_, whole, err := readAll(strings.NewReader(header+in+footer), limits)
		_, pieces, err2 := readAll(&dribble{in: []byte(header + in + footer)}, limits)
		if (err == nil) != (err2 == nil) || len(whole) != len(pieces) {
			t.Fatalf("whole: %d, %v; in pieces: %d, %v", len(whole), err, len(pieces), err2)
		}
		for i, el := range whole {
			if canon(el) != canon(pieces[i]) {
				t.Fatalf("%s\n%s", canon(el), canon(pieces[i]))
			}
			if hasForeign(el) {
				continue
			}
			e := NewEncoder([]byte(header))
			reencode(e, el, "jabber:server")
			b, err := e.Bytes()
			if err != nil {
				t.Fatal("what was parsed cannot be encoded:", err)
			}
			_, again, err := readAll(bytes.NewReader(append(b, footer...)), Default())
			if err != nil || len(again) != 1 || canon(again[0]) != canon(el) {
				t.Fatalf("round trip: %v\n%s\n%s", err, canon(el), b)
			}
		}
	})
}

// hasForeign reports what reencode does not write: prefixed attributes, and
// namespaces, which are constants to the encoder, that would need escapes.
func hasForeign(el *Element) bool {
	if strings.ContainsAny(el.Name.Space, "&<>'\t\r\n") {
		return true
	}
	for _, a := range el.Attrs {
		if a.Name.Space != "" {
			return true
		}
	}
	for _, c := range el.Children {
		if hasForeign(c) {
			return true
		}
	}
	return false
}

// dribble gives out 1, 2, 3, 1, 2, 3 ... octets a read.
type dribble struct {
	in []byte
	n  int
}

func (d *dribble) Read(p []byte) (int, error) {
	d.n++
	n := copy(p[:min(len(p), 1+d.n%3)], d.in)
	d.in = d.in[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func FuzzHeader(f *testing.F) {
	f.Add(header)
	f.Add("<?xml version='1.0' encoding='UTF-8' standalone='no' ?>\n" + header)
	f.Add("\ufeff" + header)
	f.Fuzz(func(t *testing.T, in string) {
		h, err := NewParser(strings.NewReader(in), PreAuth()).Header()
		h2, err2 := NewParser(&dribble{in: []byte(in)}, PreAuth()).Header()
		if (err == nil) != (err2 == nil) || err == nil && *h != *h2 {
			t.Fatalf("whole: %v, %v; in pieces: %v, %v", h, err, h2, err2)
		}
	})
}

// FuzzEncoder: any value comes back as it was, or is refused.
func FuzzEncoder(f *testing.F) {
	f.Add("a", "b")
	f.Add("]]>\r\n\t<&'\"", "\x00")
	f.Fuzz(func(t *testing.T, value, text string) {
		e := NewEncoder([]byte(header))
		e.Start("iq", "jabber:client")
		e.Attr("v", value)
		e.Start("x", "")
		e.Text(text)
		e.End()
		e.End()
		b, err := e.Bytes()
		if err != nil {
			return
		}
		_, got, err := readAll(bytes.NewReader(append(b, footer...)), Limits{AttributeBytes: 1 << 20})
		if err != nil || len(got) != 1 || got[0].Attr("v") != value || string(got[0].Children[0].Text) != text {
			t.Fatalf("%v: %s", err, b)
		}
	})
}

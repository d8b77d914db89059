package wire

import (
	"bytes"
	"encoding/base64"
	"slices"
)

// Content comes as base64, and is most of what a stream carries. What it
// stands for is decoded straight out of the window: to find the text's end
// first, and to copy it, would cost half as much again.

// DecodeInPlace names elements whose text is base64: Element.Base64 has what
// it stands for without another pass. It changes nothing else.
func (p *Parser) DecodeInPlace(names ...Name) { p.binary = names }

// Base64 returns what the text of e stands for in base64, in the memory of the
// text, which must not be used after it. White space and stray bits are
// refused as by DecodeBase64.
func (e *Element) Base64() ([]byte, error) {
	if e.decoded {
		return e.Text, nil
	}
	return DecodeBase64(e.Text[:0], e.Text)
}

// tailOctets is enough of the window for the last digits of a text, whatever
// decodeDigits left, and its end.
const tailOctets = 24

// digits reads the text of e up to its "<" as base64, if it is nothing else
// and the first text of e. Otherwise, what was read of it is text again, the
// rest is still to be read, and the one who looks at it finds the mistake.
func (p *Parser) digits(e *Element) error {
	e.decoded = true
	for {
		w := p.window()
		if cap(e.Text)-len(e.Text) < tailOctets {
			p.grow(e, min(len(w)/4*3, 1024)+tailOctets)
			e.Text = slices.Grow(e.Text, tailOctets)
		}
		n := len(e.Text)
		in, done := decodeDigits(e.Text[n:cap(e.Text)], w)
		e.Text = e.Text[:n+done]
		if err := p.advance(in); err != nil {
			return err
		}
		w = p.window()
		if len(w) >= tailOctets && cap(e.Text)-len(e.Text) < tailOctets {
			continue // it was the room that did not suffice
		}
		if len(w) >= tailOctets || bytes.IndexByte(w, '<') >= 0 {
			break
		}
		if err := p.more(); err != nil {
			return err
		}
	}
	w := p.window()
	end := bytes.IndexByte(w[:min(len(w), tailOctets)], '<')
	if end >= 0 {
		if whole, err := DecodeBase64(e.Text, w[:end]); err == nil {
			e.Text = whole
			return p.advance(end)
		}
	}
	p.undecode(e)
	return nil
}

// undecode makes the text of e what it was on the wire. The room that was made
// for a long one is given back: elements that only begin like base64 would else
// take as much again each.
func (p *Parser) undecode(e *Element) {
	e.decoded = false
	room := e.Text
	e.Text = base64.StdEncoding.AppendEncode(nil, room)
	if cap(room) >= minSpare {
		p.spare.Put(&room)
	}
}

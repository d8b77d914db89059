package wire

import (
	"bytes"
	"slices"
	"unicode/utf8"
)

// text reads character data into e up to the next "<" (XML 1.0 section 2.4).
func (p *Parser) text(e *Element) error {
	switch {
	case e.decoded: // and a child came between, or there is no more
		if c, err := p.peek(); err != nil || c == '<' {
			return err
		}
		p.undecode(e)
	case len(e.Text) == 0 && slices.Contains(p.binary, e.Name):
		if err := p.digits(e); err != nil {
			return err
		}
	}
	brackets := 0 // "]" right before the current position
	for {
		c, err := p.peek()
		if err != nil {
			return err
		}
		switch {
		case c == '<':
			return nil
		case c == '>' && brackets >= 2:
			return refuse(NotWellFormed, "\"]]>\" in text")
		case c == ']':
			brackets++
			e.Text = append(e.Text, c)
			err = p.advance(1)
		case c == '&':
			brackets = 0
			err = p.reference(e)
		default:
			brackets = 0
			err = p.characters(e, c)
		}
		if err != nil {
			return err
		}
	}
}

// characters reads what text and CDATA sections have in common: a run of
// plain characters, a line end, or one character beyond ASCII.
func (p *Parser) characters(e *Element, c byte) error {
	switch {
	case isPlain(c):
		n := plainRun(p.window())
		p.grow(e, n)
		e.Text = append(e.Text, p.buf[p.pos:p.pos+n]...)
		return p.advance(n)
	case c == '\r':
		return p.lineEnd(e)
	case c == '\n' || c == '\t':
		e.Text = append(e.Text, c)
		return p.advance(1)
	case c >= utf8.RuneSelf:
		for !utf8.FullRune(p.window()) {
			if err := p.more(); err != nil {
				return err
			}
		}
		_, size, err := decodeChar(p.window())
		if err != nil {
			return err
		}
		e.Text = append(e.Text, p.buf[p.pos:p.pos+size]...)
		return p.advance(size)
	}
	return refuse(NotWellFormed, "character not allowed in XML")
}

// lineEnd turns CR LF and CR into LF (XML 1.0 section 2.11).
func (p *Parser) lineEnd(e *Element) error {
	if err := p.need(2); err != nil {
		return err
	}
	n := 1
	if p.buf[p.pos+1] == '\n' {
		n = 2
	}
	e.Text = append(e.Text, '\n')
	return p.advance(n)
}

func (p *Parser) reference(e *Element) error {
	for {
		r, size, err := cutReference(p.window())
		if err != nil {
			return err
		}
		if size > 0 {
			e.Text = utf8.AppendRune(e.Text, r)
			return p.advance(size)
		}
		if err := p.more(); err != nil {
			return err
		}
	}
}

// grow makes room for n octets of text. Long text doubles, and starts with
// what the last long text needed: stanzas of a transfer resemble each other.
func (p *Parser) grow(e *Element, n int) {
	need := len(e.Text) + n
	if need <= cap(e.Text) || need < 1024 {
		return
	}
	n = max(need, 2*cap(e.Text), p.lastText+tailOctets)
	var room []byte
	if n >= minSpare {
		if b, ok := p.spare.Get().(*[]byte); ok && cap(*b) >= need {
			room = (*b)[:0]
		}
	}
	if room == nil {
		room = make([]byte, 0, n)
	}
	e.Text = append(room, e.Text...)
}

// endText ends the text of an element. One that stayed far shorter than the
// last long one gives the room for that back: what a stanza takes in memory
// stays in proportion to its size.
func (p *Parser) endText(e *Element) {
	if len(e.Text) >= minBuffer {
		p.lastText = len(e.Text)
	}
	if room := e.Text; cap(room) >= minSpare && len(room) < cap(room)/4 {
		e.Text = append([]byte(nil), room...)
		p.spare.Put(&room)
	}
}

// minSpare is the least capacity that is worth keeping.
const minSpare = 16 << 10

// Release gives back the long texts of an element and its children, for those
// to come: a transfer brings one after the other, and to collect them as
// garbage costs as much as to parse them. Nobody may use them any more. Safe
// for concurrent use with the parser.
func (p *Parser) Release(e *Element) {
	if room := e.Text; cap(room) >= minSpare {
		e.Text = nil
		p.spare.Put(&room)
	}
	for _, c := range e.Children {
		p.Release(c)
	}
}

// section reads a CDATA section (XML 1.0 section 2.7) from behind "<!".
// Comments and the document type are restricted XML (RFC 6120 section 11.1).
func (p *Parser) section(e *Element) error {
	const open = "[CDATA["
	c, err := p.peek()
	switch {
	case err != nil:
		return err
	case c != '[':
		return refuse(RestrictedXML, "comment or document type")
	}
	for i := range len(open) {
		if err := p.expect(open[i]); err != nil {
			return err
		}
	}
	for {
		c, err := p.peek()
		if err != nil {
			return err
		}
		switch {
		case c == ']':
			if err := p.need(3); err != nil {
				return err
			}
			if bytes.HasPrefix(p.window(), []byte("]]>")) {
				return p.advance(3)
			}
			fallthrough
		case c == '<' || c == '&':
			e.Text = append(e.Text, c)
			err = p.advance(1)
		default:
			err = p.characters(e, c)
		}
		if err != nil {
			return err
		}
	}
}

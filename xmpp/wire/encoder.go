package wire

import (
	"errors"
	"strconv"
	"unicode/utf8"
)

// Encoder builds XML by appending to one buffer. Names and namespaces are the
// program's constants and are written as they are; values are escaped. The
// first mistake (a character that XML cannot carry, tags that do not match)
// is kept and returned by Bytes. Not safe for concurrent use.
type Encoder struct {
	buf   []byte
	open  []openTag
	inTag bool // the start tag written last still lacks its ">"
	err   error
}

type openTag struct{ local, space string }

// NewEncoder makes an encoder that appends to buf, which may be nil.
func NewEncoder(buf []byte) *Encoder { return &Encoder{buf: buf} }

// Start opens an element. The namespace is declared as the default one where
// it differs from the parent's; "" means the parent's.
func (e *Encoder) Start(local, space string) {
	e.closeTag()
	parent := ""
	if n := len(e.open); n > 0 {
		parent = e.open[n-1].space
	}
	e.buf = append(e.buf, '<')
	e.buf = append(e.buf, local...)
	e.inTag = true
	if space == "" {
		space = parent
	} else if space != parent {
		e.Attr("xmlns", space)
	}
	e.open = append(e.open, openTag{local, space})
}

// Attr adds an attribute to the element just opened.
func (e *Encoder) Attr(name, value string) {
	if !e.inTag {
		e.fail("attribute outside a start tag")
		return
	}
	e.buf = append(e.buf, ' ')
	e.buf = append(e.buf, name...)
	e.buf = append(e.buf, '=', '\'')
	e.escape(value, true)
	e.buf = append(e.buf, '\'')
}

// AttrInt adds a decimal attribute.
func (e *Encoder) AttrInt(name string, value int64) { e.Attr(name, strconv.FormatInt(value, 10)) }

// Text adds character data.
func (e *Encoder) Text(s string) {
	e.closeTag()
	e.escape(s, false)
}

// Raw adds XML that is encoded already; it must be balanced and declare the
// namespaces it uses.
func (e *Encoder) Raw(b []byte) {
	if len(b) == 0 {
		return
	}
	e.closeTag()
	e.buf = append(e.buf, b...)
}

// Base64 adds p as base64 (RFC 4648 section 4) without line breaks, straight
// into the buffer. One call encodes one whole value.
func (e *Encoder) Base64(p []byte) {
	e.closeTag()
	e.buf = appendBase64(e.buf, p)
}

// End closes the element opened last.
func (e *Encoder) End() {
	n := len(e.open)
	if n == 0 {
		e.fail("end without a start")
		return
	}
	tag := e.open[n-1]
	e.open = e.open[:n-1]
	if e.inTag {
		e.inTag = false
		e.buf = append(e.buf, '/', '>')
		return
	}
	e.buf = append(e.buf, '<', '/')
	e.buf = append(e.buf, tag.local...)
	e.buf = append(e.buf, '>')
}

// Len returns the octets in the buffer so far, those that NewEncoder got
// included.
func (e *Encoder) Len() int { return len(e.buf) }

// Bytes returns the buffer, or the first mistake. The buffer is the
// encoder's until the encoder is no longer used.
func (e *Encoder) Bytes() ([]byte, error) {
	if e.err == nil && len(e.open) > 0 {
		e.fail("element left open")
	}
	if e.err != nil {
		return nil, e.err
	}
	return e.buf, nil
}

func (e *Encoder) closeTag() {
	if e.inTag {
		e.buf = append(e.buf, '>')
		e.inTag = false
	}
}

func (e *Encoder) fail(text string) {
	if e.err == nil {
		e.err = errors.New("encode XML: " + text)
	}
}

// escape appends s. White space that a parser would normalise away is written
// as character references (XML 1.0 sections 2.11 and 3.3.3).
func (e *Encoder) escape(s string, attribute bool) {
	done := 0
	for i := 0; i < len(s); {
		c := s[i]
		size, ref := 1, ""
		switch {
		case c == '&':
			ref = "&amp;"
		case c == '<':
			ref = "&lt;"
		case c == '>':
			ref = "&gt;"
		case c == '\'' && attribute:
			ref = "&apos;"
		case c == '\r':
			ref = "&#xD;"
		case c == '\t' || c == '\n':
			if attribute {
				ref = "&#x" + string("0123456789A"[c]) + ";"
			}
		case c < ' ':
			e.fail("character not allowed in XML")
			return
		case c >= utf8.RuneSelf:
			var r rune
			r, size = utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 || !isChar(r) {
				e.fail("character not allowed in XML")
				return
			}
		}
		if ref != "" {
			e.buf = append(e.buf, s[done:i]...)
			e.buf = append(e.buf, ref...)
			done = i + size
		}
		i += size
	}
	e.buf = append(e.buf, s[done:]...)
}

// AppendAttr appends " name='value'" to a tag under way in b.
func AppendAttr(b []byte, name, value string) ([]byte, error) {
	e := Encoder{buf: b, inTag: true}
	e.Attr(name, value)
	return e.buf, e.err
}

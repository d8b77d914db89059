package wire

import (
	"io"
	"sync"
)

// StreamNS qualifies the stream's own elements (RFC 6120 section 4.8.1).
const StreamNS = "http://etherx.jabber.org/streams"

// Header is the opening tag of a stream (RFC 6120 section 4.7).
type Header struct {
	From, To, ID, Version, Lang string // "" if absent
	Content                     string // the content namespace: the default one
}

// Parser reads one direction of a stream. Not safe for concurrent use. The
// first error is final: every later call returns it, until Reset.
type Parser struct {
	input
	limits   Limits
	used     int // octets of the current top-level element consumed
	names    names
	binary   []Name // of elements whose text is decoded
	scope    scope
	attrs    []rawAttr // of the tag being read
	open     []openElement
	slab     []Element // elements of the current stanza not handed out yet
	root     string    // the stream element's name as written
	lastText int       // octets of the last long text
	spare    sync.Pool // of *[]byte: texts that were released
	err      error
}

type openElement struct {
	*Element
	raw   string
	scope int // declarations in force outside it
}

// NewParser makes a parser; zero limits stand for those of Default.
func NewParser(r io.Reader, l Limits) *Parser {
	p := &Parser{limits: l.withDefaults()}
	p.r = r
	p.names = names{map[string]qname{}, map[string]string{}}
	return p
}

// SetLimits applies to what is read from now on.
func (p *Parser) SetLimits(l Limits) { p.limits = l.withDefaults() }

// Reset makes the parser ready for a new stream header, read from r: the
// stream restarts after STARTTLS and SASL (RFC 6120 section 4.3.3). White
// space that was read ahead is dropped; anything else that the peer sent
// before it may send again is a policy violation, and lost.
func (p *Parser) Reset(r io.Reader) error {
	p.scope, p.open, p.root = p.scope[:0], p.open[:0], ""
	p.err = p.restart(r)
	return p.err
}

// Header reads the XML declaration, if there is one, and the stream's opening
// tag. White space before it is skipped: it may be a keepalive of the stream
// before the restart.
func (p *Parser) Header() (*Header, error) {
	if p.err != nil {
		return nil, p.err
	}
	h, err := p.header()
	p.err = err
	return h, err
}

func (p *Parser) header() (*Header, error) {
	if err := p.between(NotWellFormed); err != nil {
		return nil, err
	}
	if err := p.need(2); err != nil {
		return nil, err
	}
	if p.buf[p.pos+1] == '?' {
		if err := p.advance(2); err != nil {
			return nil, err
		}
		if err := p.declaration(); err != nil {
			return nil, err
		}
		if err := p.between(NotWellFormed); err != nil {
			return nil, err
		}
	}
	if err := p.advance(1); err != nil {
		return nil, err
	}
	if c, err := p.peek(); err != nil || c == '!' || c == '?' {
		if err == nil {
			err = refuse(RestrictedXML, "comment, document type or processing instruction")
		}
		return nil, err
	}
	raw, attrs, empty, err := p.startTag()
	if err != nil {
		return nil, err
	}
	name, kept, err := p.expand(raw, attrs)
	switch {
	case err != nil:
		return nil, err
	case name.Space != StreamNS:
		return nil, refuse(InvalidNamespace, "stream element in another namespace")
	case name.Local != "stream" || empty:
		return nil, refuse(BadFormat, "not a stream element")
	case raw.prefix == "":
		// RFC 6120 section 4.8.3: the default namespace is the content's.
		return nil, refuse(BadNamespacePrefix, "stream element without a prefix")
	}
	p.root = raw.raw
	content, _ := p.scope.resolve("") // cannot fail: no prefix
	h := &Header{Content: content}
	e := Element{Attrs: kept}
	h.From, h.To, h.ID, h.Version = e.Attr("from"), e.Attr("to"), e.Attr("id"), e.Attr("version")
	for _, a := range kept {
		if a.Name == (Name{xmlNS, "lang"}) {
			h.Lang = a.Value
		}
	}
	return h, nil
}

// Next reads the next top-level element, whole. io.EOF means that the peer
// closed the stream; white space between elements is skipped.
func (p *Parser) Next() (*Element, error) {
	if p.err != nil {
		return nil, p.err
	}
	e, err := p.next()
	p.err = err
	return e, err
}

func (p *Parser) next() (*Element, error) {
	if err := p.between(BadFormat); err != nil {
		return nil, err
	}
	if err := p.advance(1); err != nil {
		return nil, err
	}
	c, err := p.peek()
	switch {
	case err != nil:
		return nil, err
	case c == '!' || c == '?':
		return nil, refuse(RestrictedXML, "comment, document type or processing instruction")
	case c == '/':
		if err := p.advance(1); err != nil {
			return nil, err
		}
		if err := p.endTag(p.root); err != nil {
			return nil, err
		}
		return nil, io.EOF
	}
	p.slab = nil
	top, err := p.element()
	if err != nil {
		return nil, err
	}
	top.Size = p.used
	p.slab = nil
	return top, nil
}

// between skips white space outside the elements, bounded by its own limit,
// up to a "<", where the count of the next top-level element starts.
func (p *Parser) between(otherwise string) error {
	for skipped := 0; ; skipped++ {
		c, err := p.peek()
		switch {
		case err != nil:
			return err
		case c == '<':
			p.used = 0
			return nil
		case c == 0 || c >= 0xFE: // UTF-16 or UTF-32, with or without a mark
			return refuse(UnsupportedEncoding, "not UTF-8")
		case !isSpace(c):
			return refuse(otherwise, "text outside the elements")
		case skipped == p.limits.Whitespace:
			return refuse(PolicyViolation, "too much white space")
		}
		p.pos++
	}
}

// advance consumes n octets of the window.
func (p *Parser) advance(n int) error {
	p.pos += n
	p.used += n
	if p.used > p.limits.StanzaBytes {
		return refuse(PolicyViolation, "stanza too large") // XEP-0478 section 3
	}
	return nil
}

// element reads a top-level element from behind its "<".
func (p *Parser) element() (*Element, error) {
	p.open = p.open[:0]
	count := 0
	top, err := p.begin(&count)
	for err == nil && len(p.open) > 0 {
		err = p.content(&count)
	}
	return top, err
}

// content reads text and one piece of markup inside the innermost element.
func (p *Parser) content(count *int) error {
	e := &p.open[len(p.open)-1]
	if err := p.text(e.Element); err != nil {
		return err
	}
	if err := p.advance(1); err != nil {
		return err
	}
	c, err := p.peek()
	if err != nil {
		return err
	}
	switch c {
	case '/':
		if err := p.advance(1); err != nil {
			return err
		}
		if err := p.endTag(e.raw); err != nil {
			return err
		}
		p.endText(e.Element)
		p.scope = p.scope[:e.scope]
		p.open = p.open[:len(p.open)-1]
		return nil
	case '!':
		if err := p.advance(1); err != nil {
			return err
		}
		if e.decoded {
			p.undecode(e.Element)
		}
		return p.section(e.Element)
	case '?':
		return refuse(RestrictedXML, "processing instruction")
	}
	child, err := p.begin(count)
	if err == nil {
		e.Children = append(e.Children, child)
	}
	return err
}

// begin reads a start tag and opens its element, unless it is empty.
func (p *Parser) begin(count *int) (*Element, error) {
	*count++
	if *count > p.limits.Elements {
		return nil, refuse(PolicyViolation, "too many elements")
	}
	if len(p.open) == p.limits.Depth {
		return nil, refuse(PolicyViolation, "nested too deeply")
	}
	raw, attrs, empty, err := p.startTag()
	if err != nil {
		return nil, err
	}
	outside := len(p.scope)
	name, kept, err := p.expand(raw, attrs)
	if err != nil {
		return nil, err
	}
	if len(p.slab) == 0 {
		p.slab = make([]Element, min(64, 4**count)) // grows with the stanza: 4, 20 ...
	}
	e := &p.slab[0]
	p.slab = p.slab[1:]
	e.Name, e.Attrs = name, kept
	if empty {
		p.scope = p.scope[:outside]
	} else {
		p.open = append(p.open, openElement{e, raw.raw, outside})
	}
	return e, nil
}

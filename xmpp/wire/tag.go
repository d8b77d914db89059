package wire

import (
	"bytes"
	"strings"
)

// name reads a QName at the current position.
func (p *Parser) name() (qname, error) {
	n, colon := 0, -1
	for {
		if p.pos+n == p.end {
			if err := p.more(); err != nil {
				return qname{}, err
			}
		}
		c := p.buf[p.pos+n]
		switch {
		case c == ':':
			if colon >= 0 || n == 0 {
				return qname{}, refuse(NotWellFormed, "misplaced colon in a name")
			}
			colon = n
		case !isNameByte(c):
			return p.endName(n, colon)
		case (n == 0 || n == colon+1) && !isNameStart(c):
			return qname{}, refuse(NotWellFormed, "name that starts with no letter")
		}
		if n++; n > p.limits.NameBytes {
			return qname{}, refuse(PolicyViolation, "name too long")
		}
	}
}

func (p *Parser) endName(n, colon int) (qname, error) {
	if n == 0 || n == colon+1 {
		return qname{}, refuse(NotWellFormed, "name expected")
	}
	raw := p.buf[p.pos : p.pos+n]
	if q, ok := p.names.tags[string(raw)]; ok {
		return q, p.advance(n)
	}
	q := qname{raw: string(raw)}
	q.prefix, q.local = "", q.raw
	if colon > 0 {
		q.prefix, q.local = q.raw[:colon], q.raw[colon+1:]
		if err := checkName(q.prefix); err != nil {
			return qname{}, err
		}
	}
	if err := checkName(q.local); err != nil {
		return qname{}, err
	}
	if len(p.names.tags) < maxKept && n <= maxKeptSize {
		p.names.tags[q.raw] = q
	}
	return q, p.advance(n)
}

// space skips white space inside markup and reports whether there was any.
func (p *Parser) space() (bool, error) {
	found := false
	for {
		c, err := p.peek()
		if err != nil || !isSpace(c) {
			return found, err
		}
		found = true
		if err := p.advance(1); err != nil {
			return true, err
		}
	}
}

// expect consumes one given octet.
func (p *Parser) expect(want byte) error {
	c, err := p.peek()
	if err != nil {
		return err
	}
	if c != want {
		return refuse(NotWellFormed, "markup not as XML has it")
	}
	return p.advance(1)
}

// startTag reads from behind "<" to behind ">". empty says that the tag was
// an empty-element tag.
func (p *Parser) startTag() (name qname, attrs []rawAttr, empty bool, err error) {
	if name, err = p.name(); err != nil {
		return
	}
	p.attrs = p.attrs[:0]
	for {
		var spaced bool
		var c byte
		if spaced, err = p.space(); err != nil {
			return
		}
		if c, err = p.peek(); err != nil {
			return
		}
		switch {
		case c == '>':
			return name, p.attrs, false, p.advance(1)
		case c == '/':
			if err = p.advance(1); err == nil {
				err = p.expect('>')
			}
			return name, p.attrs, true, err
		case !spaced:
			err = refuse(NotWellFormed, "attributes without white space between them")
			return
		case len(p.attrs) == p.limits.Attributes:
			err = refuse(PolicyViolation, "too many attributes")
			return
		}
		var a rawAttr
		if a, err = p.attribute(); err != nil {
			return
		}
		p.attrs = append(p.attrs, a)
	}
}

func (p *Parser) attribute() (a rawAttr, err error) {
	if a.name, err = p.name(); err != nil {
		return
	}
	if _, err = p.space(); err != nil {
		return
	}
	if err = p.expect('='); err != nil {
		return
	}
	if _, err = p.space(); err != nil {
		return
	}
	quote, err := p.peek()
	if err != nil {
		return a, err
	}
	if quote != '\'' && quote != '"' {
		return a, refuse(NotWellFormed, "attribute value without quotes")
	}
	if err = p.advance(1); err != nil {
		return a, err
	}
	a.value, err = p.attrValue(quote)
	return a, err
}

// attrValue reads up to the closing quote. No more than AttributeBytes and
// one read of the connection are held for a value without end.
func (p *Parser) attrValue(quote byte) (string, error) {
	n := 0
	for {
		fresh := p.buf[p.pos+n : p.end]
		i := bytes.IndexByte(fresh, quote)
		if i >= 0 {
			fresh = fresh[:i]
		}
		if bytes.IndexByte(fresh, '<') >= 0 {
			return "", refuse(NotWellFormed, "\"<\" in an attribute value")
		}
		if n += len(fresh); n > p.limits.AttributeBytes {
			return "", refuse(PolicyViolation, "attribute value too long")
		}
		if i >= 0 {
			break
		}
		if err := p.more(); err != nil {
			return "", err
		}
	}
	value, err := unescapeAttr(p.buf[p.pos : p.pos+n])
	if err != nil {
		return "", err
	}
	return value, p.advance(n + 1)
}

// endTag reads from behind "</" to behind ">".
func (p *Parser) endTag(want string) error {
	name, err := p.name()
	if err != nil {
		return err
	}
	if name.raw != want {
		return refuse(NotWellFormed, "end tag that does not match its start tag")
	}
	if _, err := p.space(); err != nil {
		return err
	}
	return p.expect('>')
}

// maxDeclaration bounds the XML declaration in octets.
const maxDeclaration = 128

// declaration reads the XML declaration from behind "<?" (XML 1.0 section
// 2.8; RFC 6120 section 11.5). Any other processing instruction is refused.
func (p *Parser) declaration() error {
	for {
		i := bytes.Index(p.window(), []byte("?>"))
		if i >= 0 && i <= maxDeclaration {
			text := string(p.window()[:i])
			if err := checkDeclaration(text); err != nil {
				return err
			}
			return p.advance(i + 2)
		}
		if len(p.window()) > maxDeclaration {
			return refuse(RestrictedXML, "processing instruction")
		}
		if err := p.more(); err != nil {
			return err
		}
	}
}

func checkDeclaration(text string) error {
	rest, ok := strings.CutPrefix(text, "xml")
	if !ok || rest == "" || !isSpace(rest[0]) {
		return refuse(RestrictedXML, "processing instruction")
	}
	version, rest := cutPseudo(rest, "version")
	if version != "1.0" {
		return refuse(NotWellFormed, "not XML 1.0")
	}
	encoding, rest := cutPseudo(rest, "encoding")
	if encoding != "" && !strings.EqualFold(encoding, "UTF-8") {
		return refuse(UnsupportedEncoding, "encoding other than UTF-8") // RFC 6120 section 11.6
	}
	standalone, rest := cutPseudo(rest, "standalone")
	if standalone != "" && standalone != "yes" && standalone != "no" || strings.Trim(rest, " \t\r\n") != "" {
		return refuse(NotWellFormed, "XML declaration not as XML has it")
	}
	return nil
}

// cutPseudo reads the pseudo-attribute of that name at the start of s; "" if
// another one, or none, is there.
func cutPseudo(s, name string) (value, rest string) {
	t := strings.TrimLeft(s, " \t\r\n")
	after, ok := strings.CutPrefix(t, name)
	if !ok || len(t) == len(s) {
		return "", s
	}
	after = strings.TrimLeft(after, " \t\r\n")
	if after, ok = strings.CutPrefix(after, "="); !ok {
		return "", s
	}
	after = strings.TrimLeft(after, " \t\r\n")
	if after == "" || after[0] != '\'' && after[0] != '"' {
		return "", s
	}
	end := strings.IndexByte(after[1:], after[0])
	if end < 0 {
		return "", s
	}
	return after[1 : 1+end], after[2+end:]
}

package authres

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// maxField bounds a field that is read.
	maxField = 16 << 10
	// maxMethods and maxProps bound what is kept of it.
	maxMethods = 64
	maxProps   = 16
	// maxNesting bounds comments within comments.
	maxNesting = 8
)

// ServID returns the authserv-id at the start of a field's value, lower-case:
// all that is needed to know whose field it is (RFC 8601 section 5). ok is
// false where there is none to be read; a reader that guesses could take such
// a field for anybody's, so ours removes it.
func ServID(value string) (id string, ok bool) {
	s := scanner{in: value}
	id, err := s.value()
	return strings.ToLower(id), err == nil && id != ""
}

// Parse reads a field's value, folded or not.
func Parse(value string) (authservID string, methods []Method, err error) {
	if len(value) > maxField {
		return "", nil, fmt.Errorf("authentication results: more than %d octets", maxField)
	}
	s := scanner{in: value}
	fail := func(err error) (string, []Method, error) {
		return "", nil, fmt.Errorf("authentication results: %w at octet %d", err, s.at)
	}
	if authservID, err = s.value(); err != nil {
		return fail(err)
	}
	if err := s.space(); err != nil {
		return fail(err)
	}
	if c := s.peek(); c >= '0' && c <= '9' {
		if version, err := s.token(); err != nil || version != "1" {
			return fail(errors.New("version is not 1"))
		}
		if err := s.space(); err != nil {
			return fail(err)
		}
	}
	for s.peek() == ';' {
		s.at++
		m, err := s.method()
		switch {
		case err != nil:
			return fail(err)
		case m == nil:
			continue
		case len(methods) == maxMethods:
			return fail(errors.New("too many results"))
		}
		methods = append(methods, *m)
	}
	if s.at < len(s.in) {
		return fail(errors.New("unexpected character"))
	}
	return strings.ToLower(authservID), methods, nil
}

// method reads a resinfo after its semicolon; nil is "none", or nothing at all
// where a field ends with a semicolon.
func (s *scanner) method() (*Method, error) {
	if err := s.space(); err != nil {
		return nil, err
	}
	if s.at == len(s.in) {
		return nil, nil
	}
	name, err := s.token()
	if err != nil {
		return nil, err
	}
	if err := s.space(); err != nil {
		return nil, err
	}
	if strings.EqualFold(name, "none") && s.peek() != '=' {
		return nil, nil
	}
	if s.peek() == '/' { // method-version
		s.at++
		if _, err := s.tokenAmid(); err != nil {
			return nil, err
		}
	}
	if s.peek() != '=' {
		return nil, errors.New("method without a result")
	}
	s.at++
	word, err := s.tokenAmid()
	if err != nil {
		return nil, err
	}
	m := &Method{Name: strings.ToLower(name), Result: Result(strings.ToLower(word))}
	if !known[m.Result] {
		return nil, fmt.Errorf("unknown result %.20q", word)
	}
	for s.at < len(s.in) && s.peek() != ';' {
		if err := s.property(m); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// property reads reason=... or ptype.name=...
func (s *scanner) property(m *Method) error {
	key, err := s.tokenAmid()
	if err != nil {
		return err
	}
	// White space may stand around the dot.
	for s.peek() == '.' || strings.HasSuffix(key, ".") {
		more, err := s.tokenAmid()
		if err != nil {
			return err
		}
		key += more
	}
	if s.peek() != '=' {
		return errors.New("property without a value")
	}
	s.at++
	v, err := s.value()
	if err != nil {
		return err
	}
	if err := s.space(); err != nil {
		return err
	}
	key = strings.ToLower(key)
	kind, name, dotted := strings.Cut(key, ".")
	switch {
	case key == "reason":
		m.Reason = v
	case dotted && len(m.Props) < maxProps:
		m.Props = append(m.Props, Prop{Type: kind, Name: name, Value: v})
	case dotted:
		return errors.New("too many properties")
	}
	return nil
}

// scanner walks over a field's value.
type scanner struct {
	in string
	at int
}

func (s *scanner) peek() byte {
	if s.at < len(s.in) {
		return s.in[s.at]
	}
	return 0
}

// space passes over white space, folding and comments (RFC 5322 section
// 3.2.2).
func (s *scanner) space() error {
	depth := 0
	for ; s.at < len(s.in); s.at++ {
		switch c := s.in[s.at]; {
		case c == '(':
			if depth++; depth > maxNesting {
				return errors.New("comments nested too deep")
			}
		case c == ')' && depth > 0:
			depth--
		case c == '\\' && depth > 0:
			s.at++
		case depth > 0, c == ' ', c == '\t', c == '\r', c == '\n':
		default:
			return nil
		}
	}
	s.at = min(s.at, len(s.in))
	if depth > 0 {
		return errors.New("comment without an end")
	}
	return nil
}

// token reads a keyword, which may hold dots.
func (s *scanner) token() (string, error) {
	start := s.at
	for s.at < len(s.in) {
		if c := s.in[s.at]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			break
		}
		s.at++
	}
	if s.at == start {
		return "", errors.New("a word is missing")
	}
	return s.in[start:s.at], nil
}

// tokenAmid reads a keyword with white space or comments around it.
func (s *scanner) tokenAmid() (string, error) {
	if err := s.space(); err != nil {
		return "", err
	}
	t, err := s.token()
	if err != nil {
		return "", err
	}
	return t, s.space()
}

// value reads a word or quoted string, white space before it included.
func (s *scanner) value() (string, error) {
	if err := s.space(); err != nil {
		return "", err
	}
	if s.peek() == '"' {
		return s.quoted()
	}
	start := s.at
	for s.at < len(s.in) && s.in[s.at] > ' ' && s.in[s.at] != 0x7f && strings.IndexByte(`;()"`, s.in[s.at]) < 0 {
		s.at++
	}
	if s.at == start {
		return "", errors.New("a value is missing")
	}
	// A local part may be quoted with its domain outside the quotes.
	return s.in[start:s.at], nil
}

func (s *scanner) quoted() (string, error) {
	var b strings.Builder
	for s.at++; s.at < len(s.in); s.at++ {
		switch c := s.in[s.at]; c {
		case '"':
			s.at++
			if s.peek() == '@' {
				rest, err := s.value()
				return b.String() + rest, err
			}
			return b.String(), nil
		case '\\':
			if s.at++; s.at < len(s.in) {
				b.WriteByte(s.in[s.at])
			}
		case '\r', '\n':
		default:
			b.WriteByte(c)
		}
	}
	return "", errors.New("quoted string without an end")
}

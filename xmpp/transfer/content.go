package transfer

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"mailxmppd/mail"
)

// maxTrace bounds the trace of an offer, in octets before base64
// (xep-draft section 5.2).
const maxTrace = 64 << 10

// scanner follows content as it goes by: its facts, and whether every line
// ends in CRLF. Bare CR and bare LF are what SMTP smuggling is made of; a
// content that has them can go no further by SMTP (RFC 5321 section 2.3.8).
type scanner struct {
	facts *mail.Scanner
	cr    bool // the last octet was CR
	bare  bool // a CR or LF without the other was seen
}

func newScanner() *scanner { return &scanner{facts: mail.NewScanner()} }

func (s *scanner) Write(p []byte) (int, error) {
	s.lines(p)
	return s.facts.Write(p)
}

// lines sets bare. It looks at the octets around each LF, and counts CRs
// against them, so that long lines cost two vectorised passes.
func (s *scanner) lines(p []byte) {
	if s.bare || len(p) == 0 {
		return
	}
	if s.cr && p[0] != '\n' {
		s.bare = true
		return
	}
	crs := bytes.Count(p, []byte{'\r'})
	pairs, at, after := 0, 0, s.cr
	for {
		i := bytes.IndexByte(p[at:], '\n')
		if i < 0 {
			break
		}
		at += i
		switch {
		case at > 0 && p[at-1] == '\r':
			pairs++
		case at == 0 && after: // its CR was counted with the octets before
		default:
			s.bare = true
			return
		}
		at++
	}
	if s.cr = p[len(p)-1] == '\r'; s.cr {
		pairs++ // its LF may still come
	}
	s.bare = crs != pairs
}

// bareLineEnd reports whether the content, if it ended here, has a CR or LF
// that is not part of CRLF.
func (s *scanner) bareLineEnd() bool { return s.bare || s.cr }

// verifyContent compares content that is here whole with what the offer
// promised (xep-draft section 5.2).
func (s *scanner) verify(o *offer) *mail.Failure {
	facts := s.facts.Facts()
	switch {
	case facts.Size != o.size:
		return mail.Failf(mail.Malformed, "content has %d octets where %d were offered", facts.Size, o.size)
	case facts.SHA256 != o.sum:
		return mail.Fail(mail.Malformed, "content does not have the hash that was offered", nil)
	case s.bareLineEnd() && o.env.Body != mail.BodyBinaryMIME:
		return mail.Fail(mail.NoConversion, "content has a CR or LF that is not part of CRLF", nil).WithStatus("5.6.0")
	case facts.Received+countReceived(o.trace) > mail.MaxHops:
		return mail.Fail(mail.Loop, "", nil)
	}
	return nil
}

// checkTrace refuses a trace that is not whole header fields of RFC 5322
// section 2.2 with CRLF line ends: it will stand before the content, so
// anything else could forge a header or a body.
func checkTrace(p []byte) error {
	if len(p) > maxTrace {
		return errors.New("trace is longer than 65536 octets")
	}
	if !utf8.Valid(p) {
		return errors.New("trace is not valid UTF-8")
	}
	for first := true; len(p) > 0; first = false {
		i := bytes.IndexByte(p, '\n')
		if i < 1 || p[i-1] != '\r' {
			return errors.New("trace has a line without CRLF")
		}
		line := p[:i-1]
		p = p[i+1:]
		if err := checkTraceLine(line, first); err != nil {
			return err
		}
	}
	return nil
}

func checkTraceLine(line []byte, first bool) error {
	if len(line) > 998 {
		return errors.New("trace has a line longer than 998 octets")
	}
	for _, c := range line {
		if c < ' ' && c != '\t' || c == 0x7f {
			return errors.New("trace has a control character")
		}
	}
	if len(bytes.Trim(line, " \t")) == 0 {
		return errors.New("trace has an empty line")
	}
	if line[0] == ' ' || line[0] == '\t' {
		if first {
			return errors.New("trace begins with a folded line")
		}
		return nil
	}
	name, _, ok := bytes.Cut(line, []byte(":"))
	if !ok || len(name) == 0 || bytes.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("trace has a line that is not a header field")
	}
	return nil
}

// countReceived counts the Received fields of a well-formed trace.
func countReceived(trace []byte) int {
	n := 0
	for line := range bytes.Lines(trace) {
		if name, _, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Received")) {
			n++
		}
	}
	return n
}

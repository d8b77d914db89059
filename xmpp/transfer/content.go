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

// verify compares content that is here whole with what the offer promised
// (xep-draft section 5.2).
func verify(s *mail.Scanner, o *offer) *mail.Failure {
	facts := s.Facts()
	switch {
	case facts.Size != o.size:
		return mail.Failf(mail.Malformed, "content has %d octets where %d were offered", facts.Size, o.size)
	case facts.SHA256 != o.sum:
		return mail.Fail(mail.Malformed, "content does not have the hash that was offered", nil)
	case s.BareLineEnd() && o.env.Body != mail.BodyBinaryMIME:
		return mail.Fail(mail.NoConversion, "content has a CR or LF that is not part of CRLF", nil).WithStatus("5.6.0")
	case s.BeginsFolded():
		return mail.Fail(mail.NoConversion, "content begins with white space, which would continue the last field of the trace", nil).WithStatus("5.6.0")
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

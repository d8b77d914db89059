package smtpbridge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"mailxmppd/mail"
)

const (
	// replyBuffer bounds a line of a reply; RFC 5321 section 4.5.3.1.5 asks
	// for 512 octets.
	replyBuffer = 4096
	// maxReplyLines bounds a reply; the longest in the field are those to EHLO.
	maxReplyLines = 128
)

// errMalformedReply means that what came is no SMTP reply. Nothing can be said
// about the state of the session then: the connection is to be dropped.
var errMalformedReply = errors.New("malformed reply")

// hopReply is a reply of a next hop (RFC 5321 section 4.2).
type hopReply struct {
	code   int      // 200 to 599
	status string   // enhanced status code of the first line (RFC 2034), or ""
	lines  []string // texts without the enhanced status code, as received
}

func (r hopReply) positive() bool { return r.code >= 200 && r.code < 300 }

// text is the reply's words on one line, safe to show.
func (r hopReply) text() string { return mail.Sanitise(strings.Join(r.lines, " ")) }

// failure reads a reply that is not the one hoped for.
func (r hopReply) failure(remote string) *mail.Failure {
	if r.code == 421 {
		// The next hop's session ends, not that of whoever is shown this: the
		// code must not travel on.
		f := mail.Fail(mail.Unavailable, r.text(), nil)
		f.Remote = remote
		return f.WithStatus(r.status)
	}
	return mail.FromReply(remote, r.code, r.status, r.text())
}

// readHopReply reads one reply within bounds. Lines may end in LF alone:
// nothing but the reply's own text depends on it. An error from br is
// returned as it is, so that a lost connection can be told from nonsense;
// io.EOF in the midst of a reply becomes io.ErrUnexpectedEOF.
func readHopReply(br *bufio.Reader) (hopReply, error) {
	var r hopReply
	for range maxReplyLines {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return hopReply{}, fmt.Errorf("%w: endless line", errMalformedReply)
		case err == io.EOF && (len(line) > 0 || r.code != 0):
			return hopReply{}, io.ErrUnexpectedEOF
		case err != nil:
			return hopReply{}, err
		}
		last, err := r.add(strings.TrimRight(string(line), "\r\n"))
		if err != nil {
			return hopReply{}, err
		}
		if last {
			return r, nil
		}
	}
	return hopReply{}, fmt.Errorf("%w: endless lines", errMalformedReply)
}

// add takes one line, "250-text", "250 text" or "250".
func (r *hopReply) add(line string) (last bool, err error) {
	if len(line) < 3 {
		return false, fmt.Errorf("%w: no reply code", errMalformedReply)
	}
	code := 0
	for i := range 3 {
		if line[i] < '0' || line[i] > '9' {
			return false, fmt.Errorf("%w: no reply code", errMalformedReply)
		}
		code = code*10 + int(line[i]-'0')
	}
	switch {
	case code < 200 || code > 599:
		return false, fmt.Errorf("%w: code %d", errMalformedReply, code)
	case r.code != 0 && code != r.code: // RFC 5321 section 4.2.1
		return false, fmt.Errorf("%w: lines with different codes", errMalformedReply)
	}
	last = true
	text := line[3:]
	if text != "" {
		if text[0] != ' ' && text[0] != '-' {
			return false, fmt.Errorf("%w: no space after the code", errMalformedReply)
		}
		last, text = text[0] == ' ', text[1:]
	}
	status, text := cutEnhancedStatus(code, text)
	if r.code == 0 {
		r.code, r.status = code, status
	}
	r.lines = append(r.lines, text)
	return last, nil
}

// cutEnhancedStatus takes an enhanced status code off the start of a text
// (RFC 2034 section 4), provided that its class is that of the reply code.
func cutEnhancedStatus(code int, text string) (status, rest string) {
	word, rest, _ := strings.Cut(text, " ")
	class, detail, ok := strings.Cut(word, ".")
	if !ok || len(class) != 1 || int(class[0]-'0') != code/100 {
		return "", text
	}
	subject, detail, ok := strings.Cut(detail, ".")
	if !ok || !isStatusPart(subject) || !isStatusPart(detail) {
		return "", text
	}
	return word, rest
}

// isStatusPart: RFC 3463 section 2, one to three digits.
func isStatusPart(s string) bool {
	return len(s) >= 1 && len(s) <= 3 && strings.Trim(s, "0123456789") == ""
}

// queueID finds the id under which the next hop took the message, in the ways
// in which MTAs tell it: "queued as ID" (Postfix, this program), "id=ID"
// (Exim), "Message accepted for delivery" after an id (Sendmail). "" if none.
func (r hopReply) queueID() string {
	text := r.text()
	for _, mark := range []string{"queued as ", "id="} {
		if _, after, ok := strings.Cut(text, mark); ok {
			return leadingToken(after)
		}
	}
	if before, _, ok := strings.Cut(text, " Message accepted for delivery"); ok {
		return leadingToken(before)
	}
	return ""
}

func leadingToken(s string) string {
	end := strings.IndexFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_')
	})
	if end < 0 {
		end = len(s)
	}
	if end > 64 {
		return ""
	}
	return strings.TrimRight(s[:end], ".")
}

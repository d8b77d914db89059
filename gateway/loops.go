package gateway

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"io"
	"strings"

	"mailxmppd/mail"
)

// Mail that another MTA brings back to us for a recipient for whom we have
// handed it to an MTA already would go round until its hops are used up (RFC
// 5321 section 6.3), each round costing both. Our own Received field alone does
// not show that: a forwarded message passes here twice with good reason, for
// another recipient each time, and Received names a recipient only where there
// is one. So each message that goes to an MTA by SMTP carries a field with a
// keyed hash of each recipient that it goes to, which tells nothing to others
// (who else got a blind copy, for one). What comes in with the hashes of all
// its recipients is looping.
//
// A person may send the same message to the same recipient once more, and says
// so by a Resent block (RFC 5322 section 3.6.6) in front of all fields that were
// there: what stands below one does not count. Programs that put one there in
// each round are stopped by the hops.

// passedField is the trace field of the hashes.
const passedField = "X-Mailxmppd-Passed"

const (
	markLength    = 12 // characters: 60 bits
	marksPerLine  = 5
	maxMarkHeader = 32 << 20 // more than any listener lets in
)

// loopMarks makes and finds the hashes. Without a key it does neither.
type loopMarks struct{ key []byte }

// mark is the hash of one recipient. Capital letters make no difference: a
// neighbour may change them on the way round.
func (l loopMarks) mark(a mail.Address) string {
	mac := hmac.New(sha256.New, l.key)
	io.WriteString(mac, strings.ToLower(a.String()))
	return strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil))[:markLength])
}

// field is the trace field for what goes to these recipients, its CRLF
// included; nil without a key.
func (l loopMarks) field(rcpts []mail.Recipient) []byte {
	if len(l.key) == 0 {
		return nil
	}
	b := []byte(passedField + ":")
	for i, r := range rcpts {
		if i > 0 && i%marksPerLine == 0 {
			b = append(b, "\r\n\t"...)
		} else {
			b = append(b, ' ')
		}
		b = append(b, l.mark(r.Address)...)
	}
	return append(b, "\r\n"...)
}

// cameBack reports whether every recipient is one to whom the content has been
// on its way through here before. Where only some are, the message is taken: it
// is refused in the next round, when all of them are marked.
func (l loopMarks) cameBack(content mail.Content, rcpts []mail.Recipient) (bool, error) {
	if len(l.key) == 0 {
		return false, nil
	}
	in, err := content.Open()
	if err != nil {
		return false, err
	}
	defer in.Close()
	passed, err := passedMarks(io.LimitReader(in, maxMarkHeader))
	if err != nil || len(passed) == 0 {
		return false, err
	}
	for _, r := range rcpts {
		if !passed[l.mark(r.Address)] {
			return false, nil
		}
	}
	return true, nil
}

// passedMarks collects the hashes from the header, down to a Resent block.
func passedMarks(r io.Reader) (map[string]bool, error) {
	br := bufio.NewReaderSize(r, 4<<10)
	var passed map[string]bool
	within := false // a field of ours
	for whole := true; ; {
		line, err := br.ReadSlice('\n')
		start := whole // of a line
		whole = err != bufio.ErrBufferFull
		switch {
		case !start: // the rest of a line longer than any of ours
			within = false
		case len(bytes.TrimRight(line, "\r\n")) == 0 || hasPrefixFold(line, "resent-"):
			return passed, endOfHeader(err)
		case line[0] == ' ' || line[0] == '\t':
		default:
			within = hasPrefixFold(line, passedField+":")
			if within {
				line = line[len(passedField)+1:]
			}
		}
		if within {
			for word := range bytes.FieldsSeq(line) {
				if passed == nil {
					passed = map[string]bool{}
				}
				passed[string(word)] = true
			}
		}
		if err != nil && whole {
			return passed, endOfHeader(err)
		}
	}
}

func endOfHeader(err error) error {
	if err == io.EOF || err == bufio.ErrBufferFull {
		return nil
	}
	return err
}

func hasPrefixFold(line []byte, prefix string) bool {
	return len(line) >= len(prefix) && strings.EqualFold(string(line[:len(prefix)]), prefix)
}

// looping judges a message that comes in by SMTP or LMTP: nil, or why it is to
// go no further.
func (g *Gateway) looping(m *mail.Message) *mail.Failure {
	if m.Facts.Received > g.Hops {
		return mail.Fail(mail.Loop, "", nil)
	}
	if m.Facts.Received == 0 { // whoever brings mail back has added one
		return nil
	}
	back, err := g.loops.cameBack(m.Content, m.Envelope.Recipients)
	switch {
	case err != nil:
		return mail.AsFailure(err)
	case back:
		return mail.Failf(mail.Loop, "mail for %s comes back after it was handed on: the message is looping", m.Envelope.Recipients[0].Address)
	}
	return nil
}

// receivedFields counts those of a trace (xep-draft section 5.2).
func receivedFields(trace []byte) int {
	n := 0
	for line := range bytes.Lines(trace) {
		if hasPrefixFold(line, "received:") {
			n++
		}
	}
	return n
}

package smtpbridge

import (
	"strconv"

	"mailxmppd/mail"
)

// serverReply is a reply that the server gives (RFC 5321 section 4.2), with
// the enhanced status code of RFC 2034 where it has one.
type serverReply struct {
	code   int
	status string // "" where RFC 2034 section 4 wants none: greeting, EHLO, 354
	text   string // one line of printable ASCII, see plainText
}

// appendTo appends the reply as one line.
func (r serverReply) appendTo(b []byte) []byte {
	b = strconv.AppendInt(b, int64(r.code), 10)
	b = append(b, ' ')
	if r.status != "" {
		b = append(b, r.status...)
		b = append(b, ' ')
	}
	b = append(b, r.text...)
	return append(b, "\r\n"...)
}

// appendLines appends a reply of several lines (RFC 5321 section 4.2.1).
func appendLines(b []byte, code int, lines []string) []byte {
	for i, line := range lines {
		b = strconv.AppendInt(b, int64(code), 10)
		separator := byte('-')
		if i == len(lines)-1 {
			separator = ' '
		}
		b = append(b, separator)
		b = append(b, line...)
		b = append(b, "\r\n"...)
	}
	return b
}

// failureReply is the reply for a failure. A code that disagrees with the
// class is replaced: a client must never take a temporary failure for a
// permanent one. So is 421, which some next hop said of its own connection and
// which would announce the end of ours (RFC 5321 section 3.8).
func failureReply(f *mail.Failure) serverReply {
	code := f.Code
	switch {
	case f.Class == mail.Permanent && (code < 500 || code > 599):
		code = 554
	case f.Class != mail.Permanent && (code < 400 || code > 499 || code == 421):
		code = 451
	}
	text := plainText(f.Text)
	if text == "" {
		text = plainText(f.Meaning)
	}
	return serverReply{code: code, status: f.Status(), text: text}
}

// acceptedReply is the positive reply to content.
func acceptedReply(text string) serverReply {
	if text = plainText(text); text == "" {
		text = "message accepted"
	}
	return serverReply{code: 250, status: "2.0.0", text: text}
}

// plainText makes a text fit for a reply: one line, and ASCII, since a client
// need not expect anything else (RFC 6531 section 3.7.4.2).
func plainText(s string) string {
	b := []byte(mail.Sanitise(s))
	for i, c := range b {
		if c >= 0x80 {
			b[i] = '?'
		}
	}
	return string(b)
}

// refusedContent is the error for content that was read to its end, so that
// the session can go on, but is not taken.
type refusedContent struct{ reply serverReply }

func (r *refusedContent) Error() string { return "content refused: " + r.reply.text }

func tooLarge() serverReply { return serverReply{552, "5.3.4", "message is too large"} }

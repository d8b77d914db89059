package smtpbridge

import (
	"context"
	"strings"

	"mailxmppd/mail"
)

// Judge says whether a mail server beside us should take what a client of its
// own hands it. Nothing is taken here: responsibility stays where it is. Safe
// for concurrent use; honours its context and keeps nothing of its arguments
// after it has returned.
type Judge interface {
	// Recipient judges one recipient; env has those accepted so far. nil: go on.
	Recipient(ctx context.Context, c mail.Client, env mail.Envelope, r mail.Recipient) *mail.Failure
	// Content judges a message that is there whole: why not, or nil and the
	// header fields to go before it.
	Content(ctx context.Context, a Arrival) ([]HeaderField, *mail.Failure)
	// Poses reports whether a field that a message came with must not go on: it
	// would be taken for one of those that Content returns. value is what
	// follows the colon.
	Poses(name, value string) bool
	// Clean is content without such fields; content itself where there are none.
	Clean(content mail.Content) (mail.Content, error)
}

// Arrival is a message at a mail server beside us.
type Arrival struct {
	Client   mail.Client // that server's own client: the real address, name and HELO, as far as it knows them
	Envelope mail.Envelope
	Content  mail.Content // gone after the Judge has returned
	Facts    mail.Facts
	ID       string // that server's own for the message, sanitised; "" where it has none yet
}

// HeaderField is a field to be put before a message.
type HeaderField struct {
	Name  string
	Value string // without the space before it; may be folded by CRLF and white space
}

// appendFields writes fields as they stand in a message.
func appendFields(b []byte, fields []HeaderField) []byte {
	for _, f := range fields {
		b = append(b, f.Name+": "+f.Value+"\r\n"...)
	}
	return b
}

// validField is the last guard before a field becomes part of somebody's
// message: it must be one field (RFC 5322 section 2.2), and no more.
func validField(f HeaderField) bool {
	if f.Name == "" || strings.ContainsFunc(f.Name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) {
		return false
	}
	for i, line := range strings.Split(f.Value, "\r\n") {
		if i > 0 && strings.Trim(line, " \t") == "" || i > 0 && line[0] != ' ' && line[0] != '\t' || strings.ContainsAny(line, "\r\n\x00") {
			return false
		}
	}
	return true
}

// askContent asks a Judge about content, and makes sure that what it wants
// inserted is header fields.
func askContent(ctx context.Context, j Judge, a Arrival) ([]HeaderField, *mail.Failure) {
	fields, f := j.Content(ctx, a)
	if f != nil {
		return nil, f
	}
	for _, field := range fields {
		if !validField(field) {
			return nil, mail.Fail(mail.Internal, "", errBadField)
		}
	}
	return fields, nil
}

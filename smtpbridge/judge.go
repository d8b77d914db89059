package smtpbridge

import (
	"context"
	"slices"
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
	// Content judges a message that is there whole: why not, or nil and what is to
	// be done with it.
	Content(ctx context.Context, a Arrival) (Finding, *mail.Failure)
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

// Finding is what a Judge says of a message that is not refused.
type Finding struct {
	Fields  []HeaderField // to go before it
	Refused []int         // places in Envelope.Recipients of those who must not get it, nor anybody hear of that; not all
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
func askContent(ctx context.Context, j Judge, a Arrival) (Finding, *mail.Failure) {
	found, f := j.Content(ctx, a)
	if f != nil {
		return Finding{}, f
	}
	for _, field := range found.Fields {
		if !validField(field) {
			return Finding{}, mail.Fail(mail.Internal, "", errBadField)
		}
	}
	if len(found.Refused) > 0 && len(found.kept(a.Envelope.Recipients)) == 0 {
		return Finding{}, mail.Fail(mail.Internal, "", errNobodyLeft)
	}
	return found, nil
}

// kept are the recipients that are not refused.
func (f Finding) kept(all []mail.Recipient) []mail.Recipient {
	var out []mail.Recipient
	for i, r := range all {
		if !slices.Contains(f.Refused, i) {
			out = append(out, r)
		}
	}
	return out
}

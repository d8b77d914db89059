package trust

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
)

// SentField marks mail that has left one of our mailboxes. A report about it
// brings the mark back in the header that it returns (RFC 3464 section 1.3), by
// which it is told from reports about mail that somebody else has sent in our
// name. Reverse-paths are left as they are: lists and other receivers know
// people by them, and everybody who sees one could use it as often as he likes.
const SentField = "X-Mailxmppd-Sent"

const (
	defaultReportsFor = 10 * 24 * time.Hour // longer than mail servers try, which is five days, seldom seven
	sentLength        = 32                  // characters: 160 bits
	reportsEach       = 2                   // reports of one recipient: that it takes long, and how it ended
	sentHours         = 24 * 3600           // seconds of a day
)

// Uses counts the reports that a mark has let in; store.Uses states the
// contract. Safe for concurrent use.
type Uses interface {
	Use(ctx context.Context, name, user string, most int, valid time.Duration) (ok bool, err error)
}

// SentMarks makes and finds the marks, with a key that all nodes share. A mark
// is of one message from one mailbox to one domain: whoever has seen it can bring
// that mailbox as many reports as its recipients there may cause, over XMPP only
// as that domain, and only for a while. Safe for concurrent use.
type SentMarks struct {
	key   []byte
	uses  Uses
	valid time.Duration
	now   func() time.Time
}

// NewSentMarks makes SentMarks with a secret key. valid is how long reports are
// known again; 0 for 10 days.
func NewSentMarks(key []byte, uses Uses, valid time.Duration) *SentMarks {
	if valid <= 0 {
		valid = defaultReportsFor
	}
	return &SentMarks{key: key, uses: uses, valid: valid, now: time.Now}
}

// sentMark is what a mark says in clear; the mailbox it does not.
type sentMark struct {
	day    int64
	most   int // reports
	id     string
	domain string // of the recipients
}

// Field is the mark of a message from a mailbox to so many recipients of a
// domain, as a header field with its CRLF.
func (s *SentMarks) Field(id mail.ID, mailbox mail.Address, domain string, rcpts int) []byte {
	m := sentMark{s.now().Unix() / sentHours, reportsEach * max(rcpts, 1), strings.ToLower(string(id)), strings.ToLower(domain)}
	return fmt.Appendf(nil, "%s: %d-%d-%s-%s-%s\r\n", SentField, m.day, m.most, m.id, s.mac(m, mailbox), m.domain)
}

// mac hashes each part with its length before it, so that none can borrow from
// the next.
func (s *SentMarks) mac(m sentMark, mailbox mail.Address) string {
	h := hmac.New(sha256.New, s.key)
	for _, part := range []string{"sent", strconv.FormatInt(m.day, 10), strconv.Itoa(m.most), m.id, m.domain, strings.ToLower(mailbox.String())} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil))[:sentLength])
}

// Find reports whether a message returns a mark of a mailbox that may still be
// used, and uses it. bound is the domain that has brought the message over XMPP;
// "" otherwise. The same message again uses nothing. An error means that it
// cannot be told now.
func (s *SentMarks) Find(ctx context.Context, m *mail.Message, mailbox mail.Address, bound string) (bool, error) {
	values, err := sentFields(m.Content)
	if err != nil {
		return false, err
	}
	for _, value := range values {
		mark, ok := s.read(value, mailbox)
		if !ok || bound != "" && bound != mark.domain {
			continue
		}
		name, user := "report "+mark.id+" "+mark.domain, hex.EncodeToString(m.Facts.SHA256[:])
		if ok, err = s.uses.Use(ctx, name, user, mark.most, s.valid+48*time.Hour); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

// read checks a mark in constant time.
func (s *SentMarks) read(value string, mailbox mail.Address) (sentMark, bool) {
	parts := strings.SplitN(strings.ToLower(value), "-", 5) // a domain may hold hyphens
	if len(parts) != 5 {
		return sentMark{}, false
	}
	day, errDay := strconv.ParseInt(parts[0], 10, 32)
	most, errMost := strconv.ParseInt(parts[1], 10, 32)
	m := sentMark{day, int(most), parts[2], parts[4]}
	if errDay != nil || errMost != nil || subtle.ConstantTimeCompare([]byte(parts[3]), []byte(s.mac(m, mailbox))) != 1 {
		return sentMark{}, false
	}
	// Of tomorrow too, as nodes' clocks differ; and to the end of its last day.
	today := s.now().Unix() / sentHours
	return m, day <= today+1 && day >= today-int64((s.valid+24*time.Hour-1)/(24*time.Hour))
}

package trust

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
)

// SentField marks mail that has left one of our mailboxes. A report about it
// brings the mark back in the header that it returns (RFC 3464 section 1.3), by
// which it is told from reports about mail that somebody else has sent in our
// name. Reverse-paths are left as they are: lists and other receivers know
// people by them.
const SentField = "X-Mailxmppd-Sent"

const (
	sentDays    = 35        // longer than any mail server tries
	sentLength  = 24        // characters: 120 bits
	maxReport   = 512 << 10 // how much of a report is looked through
	maxMarks    = 16        // marks of a report that are checked
	sentMaxLine = 1000      // of a line with a mark
	sentHours   = 24 * 3600 // seconds of a day
)

// SentMarks makes and finds the marks, with a key that all nodes share. The
// mark of a mailbox is the same for all its mail of a day, and says nothing to
// others. Safe for concurrent use.
type SentMarks struct {
	key []byte
	now func() time.Time
}

// NewSentMarks makes SentMarks with a secret key.
func NewSentMarks(key []byte) *SentMarks { return &SentMarks{key: key, now: time.Now} }

// Field is the mark for mail of a mailbox, as a header field with its CRLF.
func (s *SentMarks) Field(mailbox mail.Address) []byte {
	day := s.now().Unix() / sentHours
	return fmt.Appendf(nil, "%s: %d.%s\r\n", SentField, day, s.mark(mailbox, day))
}

func (s *SentMarks) mark(mailbox mail.Address, day int64) string {
	mac := hmac.New(sha256.New, s.key)
	fmt.Fprintf(mac, "sent %d %s", day, strings.ToLower(mailbox.String()))
	return strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil))[:sentLength])
}

// Find reports whether a report returns the mark of a mailbox. An error means
// that the content could not be read.
func (s *SentMarks) Find(content mail.Content, mailbox mail.Address) (bool, error) {
	rc, err := content.Open()
	if err != nil {
		return false, err
	}
	defer rc.Close()
	lines := bufio.NewReaderSize(io.LimitReader(rc, maxReport), sentMaxLine)
	whole, marks := true, 0
	for marks < maxMarks {
		line, err := lines.ReadSlice('\n')
		start := whole
		whole = err != bufio.ErrBufferFull
		if name, value, ok := bytes.Cut(line, []byte(":")); start && ok && strings.EqualFold(string(bytes.TrimSpace(name)), SentField) {
			marks++
			if s.valid(string(bytes.TrimSpace(value)), mailbox) {
				return true, nil
			}
		}
		switch {
		case err == io.EOF:
			return false, nil
		case err != nil && whole:
			return false, err
		}
	}
	return false, nil
}

// valid checks a mark in constant time.
func (s *SentMarks) valid(value string, mailbox mail.Address) bool {
	stamp, mark, ok := strings.Cut(value, ".")
	day, err := strconv.ParseInt(stamp, 10, 32)
	if !ok || err != nil {
		return false
	}
	today := s.now().Unix() / sentHours
	if day > today+1 || day < today-sentDays {
		return false
	}
	return subtle.ConstantTimeCompare([]byte(strings.ToLower(mark)), []byte(s.mark(mailbox, day))) == 1
}

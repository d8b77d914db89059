package trust

import (
	"bufio"
	"bytes"
	"io"
	"strings"

	"mailxmppd/mail"
)

const (
	maxReport   = 512 << 10 // octets of a report that are looked through
	maxMarks    = 16        // marks of a report that are checked
	sentMaxLine = 1000      // octets of a line with a mark
)

// sentFields returns the marks that stand anywhere in a report, at the start of a
// line: the header that comes back is a part of it, in a form that not all who
// report agree about.
func sentFields(content mail.Content) (values []string, err error) {
	rc, err := content.Open()
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	lines := bufio.NewReaderSize(io.LimitReader(rc, maxReport), sentMaxLine)
	whole, folded := true, false
	for len(values) < maxMarks {
		line, err := lines.ReadSlice('\n')
		start := whole
		whole = err != bufio.ErrBufferFull
		name, value, ok := bytes.Cut(line, []byte(":"))
		switch {
		case !start:
		case folded && len(line) > 0 && (line[0] == ' ' || line[0] == '\t'): // a long value is put onto a line of its own by some
			values = append(values, string(bytes.TrimSpace(line)))
			folded = false
		case ok && strings.EqualFold(string(bytes.TrimSpace(name)), SentField):
			if folded = len(bytes.TrimSpace(value)) == 0; !folded {
				values = append(values, string(bytes.TrimSpace(value)))
			}
		default:
			folded = false
		}
		switch {
		case err == io.EOF:
			return values, nil
		case err != nil && whole:
			return nil, err
		}
	}
	return values, nil
}

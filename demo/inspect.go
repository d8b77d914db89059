package demo

import (
	"bytes"
	"fmt"
	"strings"
)

// inspection is what a look at a delivered message found.
type inspection struct {
	offset    int    // where the content as sent begins
	identical bool   // header fields, then exactly the content as sent
	transport string // over which it reached the last gateway: "xmpp", "smtp"
	fault     error  // why it is not identical
}

// inspect compares a delivered message with what was sent: it must end with
// exactly that, and what stands before it must be header fields that gateways
// have prepended.
func inspect(delivered, sent []byte) inspection {
	in := inspection{transport: "smtp"}
	if !bytes.HasSuffix(delivered, sent) {
		in.fault = fmt.Errorf("content was altered: %s", difference(delivered, sent))
		return in
	}
	in.offset = len(delivered) - len(sent)
	fields, err := headerFields(delivered[:in.offset])
	if err != nil {
		in.fault = fmt.Errorf("prepended header fields: %w", err)
		return in
	}
	in.identical = true
	if cameOverXMPP(fields) {
		in.transport = "xmpp"
	}
	return in
}

// cameOverXMPP reports whether the last gateway took the message over XMPP: the
// first Received field is its own. What it thinks of the message stands above.
func cameOverXMPP(fields []string) bool {
	for _, field := range fields {
		name, body, _ := strings.Cut(field, ":")
		if strings.EqualFold(name, "Received") {
			return strings.Contains(" "+strings.Join(strings.Fields(body), " ")+" ", " with XMPP ")
		}
	}
	return false
}

// headerFields splits header fields (RFC 5322 section 2.2), each with its
// folded lines and line ends. Anything that is not a well-formed field is an
// error.
func headerFields(p []byte) ([]string, error) {
	const maxLine = 998 // RFC 5322 section 2.1.1
	var fields []string
	for line := range bytes.SplitAfterSeq(p, []byte("\r\n")) {
		switch {
		case len(line) == 0: // after the last CRLF
		case !bytes.HasSuffix(line, []byte("\r\n")):
			return nil, fmt.Errorf("last line %.60q does not end with CRLF", line)
		case bytes.ContainsAny(line[:len(line)-2], "\r\n\x00"):
			return nil, fmt.Errorf("line %.60q holds CR, LF or NUL", line)
		case len(line)-2 > maxLine:
			return nil, fmt.Errorf("line %.60q... is longer than %d octets", line, maxLine)
		case line[0] == ' ' || line[0] == '\t':
			if len(fields) == 0 || len(bytes.TrimSpace(line)) == 0 {
				return nil, fmt.Errorf("misplaced folded line %.60q", line)
			}
			fields[len(fields)-1] += string(line)
		case !beginsField(line):
			return nil, fmt.Errorf("line %.60q is not a header field", line)
		default:
			fields = append(fields, string(line))
		}
	}
	return fields, nil
}

// beginsField reports whether a line starts with a field name and a colon
// (RFC 5322 section 3.6.8).
func beginsField(line []byte) bool {
	name, _, ok := bytes.Cut(line, []byte(":"))
	for _, c := range name {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return ok && len(name) > 0
}

// difference tells where two messages part, seen from their ends, where the
// content lies.
func difference(delivered, sent []byte) string {
	if len(sent) == 0 || len(delivered) == 0 {
		return fmt.Sprintf("%d octets sent, %d arrived", len(sent), len(delivered))
	}
	n := 0
	for n < len(delivered) && n < len(sent) && delivered[len(delivered)-1-n] == sent[len(sent)-1-n] {
		n++
	}
	return fmt.Sprintf("%d octets sent, %d arrived with header fields, only the last %d agree", len(sent), len(delivered), n)
}

package gateway

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"

	"mailxmppd/mail"
)

// maxReturned bounds what a DSN returns of the message where the sender asked
// for all of it (RET=FULL); above that only the header goes back.
const maxReturned = 1 << 20

// writeReturned writes the third part: the header of the message, or all of
// it where RET=FULL asks for it, it is not too large and it can be carried in
// lines. RET is about failures: other reports return the header alone (RFC 3461
// section 4.3).
func writeReturned(b *bufio.Writer, m mail.Message, boundary string, n notice) error {
	if n.content == nil {
		return nil
	}
	rc, err := n.content.Open()
	if err != nil {
		return err
	}
	defer rc.Close()
	source := io.MultiReader(bytes.NewReader(n.lease.Trace), rc)
	full := n.action == "failed" && n.lease.Envelope.Return == "FULL" && n.lease.Facts.Size <= maxReturned
	var data []byte
	if full {
		data, err = io.ReadAll(source)
		if full = inLines(data); !full {
			source = bytes.NewReader(data)
		}
	}
	if !full && err == nil {
		data, err = headerOnly(source)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "--%s\r\nContent-Type: %s\r\n", boundary, returnedType(m, full))
	writeBody(b, data)
	return nil
}

func returnedType(m mail.Message, full bool) string {
	switch utf8 := m.Envelope.SMTPUTF8; {
	case full && utf8:
		return "message/global" // RFC 6532 section 3.7
	case full:
		return "message/rfc822"
	case utf8:
		return "message/global-headers" // RFC 6533 section 6.3
	}
	return "text/rfc822-headers" // RFC 6522 section 4
}

// inLines reports whether data can be carried as it is by SMTP with 8BITMIME:
// no NUL, no CR or LF alone, no line over 998 octets (RFC 5321 section
// 4.5.3.1.6).
func inLines(data []byte) bool {
	for line := range bytes.SplitAfterSeq(data, []byte("\n")) {
		text, ended := bytes.CutSuffix(line, []byte("\r\n"))
		if len(text) > 998 || bytes.ContainsAny(text, "\x00\r\n") {
			return false
		}
		if !ended {
			break // the end of data
		}
	}
	return true
}

// writeBody writes the encoding field, the empty line and the octets: as they
// are, or in base64 where they are not in lines, which only a header, never a
// message (RFC 2046 section 5.2.1), may be here.
func writeBody(b *bufio.Writer, data []byte) {
	switch {
	case !inLines(data):
		b.WriteString("Content-Transfer-Encoding: base64\r\n\r\n")
		for len(data) > 0 {
			n := min(57, len(data))
			b.WriteString(base64.StdEncoding.EncodeToString(data[:n]) + "\r\n")
			data = data[n:]
		}
		return
	case bytes.ContainsFunc(data, func(r rune) bool { return r >= 0x80 }):
		b.WriteString("Content-Transfer-Encoding: 8bit\r\n")
	}
	b.WriteString("\r\n")
	b.Write(data)
	if !bytes.HasSuffix(data, []byte("\r\n")) {
		b.WriteString("\r\n")
	}
}

// maxHeaderReturned bounds the header that a DSN returns.
const maxHeaderReturned = 64 << 10

// headerOnly reads up to the empty line, or the first 64 KiB, to a line's end.
func headerOnly(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxHeaderReturned))
	if err != nil {
		return nil, err
	}
	if i := bytes.Index(data, []byte("\r\n\r\n")); i >= 0 {
		return data[:i+2], nil
	}
	if i := bytes.LastIndex(data, []byte("\r\n")); i >= 0 {
		return data[:i+2], nil
	}
	return nil, nil
}

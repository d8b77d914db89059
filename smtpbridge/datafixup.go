package smtpbridge

import (
	"bytes"
	"io"
	"time"

	"mailxmppd/mail"
)

// lineRepairer makes CRLF of each bare LF, which a submission server may do
// (RFC 6409 section 8) since it is the first to handle the message.
type lineRepairer struct {
	w  io.Writer
	cr bool // the last octet was CR
}

func (r *lineRepairer) Write(p []byte) (int, error) {
	run := 0 // start of what is not yet written
	for i := 0; i < len(p); {
		lf := bytes.IndexByte(p[i:], '\n')
		if lf < 0 {
			break
		}
		lf += i
		if lf > 0 && p[lf-1] != '\r' || lf == 0 && !r.cr {
			if err := writeParts(r.w, p[run:lf], crlf); err != nil {
				return 0, err
			}
			run = lf + 1
		}
		i = lf + 1
	}
	if len(p) > 0 {
		r.cr = p[len(p)-1] == '\r'
	}
	return len(p), writeParts(r.w, p[run:])
}

func writeParts(w io.Writer, parts ...[]byte) error {
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// headerFixer puts the Date and Message-ID fields that are missing before the
// content (RFC 6409 sections 8.2 and 8.3), whose own octets stay as they are.
// To know what is missing it holds the header back, which is bounded by
// contentGuard; limit bounds it here too.
type headerFixer struct {
	w      io.Writer
	host   string // right-hand side of a Message-ID
	limit  int
	header []byte
	line   int  // start of the first line that has not been looked at
	fields bool // there is one
	date   bool
	id     bool
	open   bool // the header is written: what follows goes straight on
}

func (f *headerFixer) Write(p []byte) (int, error) {
	if f.open {
		return f.w.Write(p)
	}
	f.header = append(f.header, p...)
	if !f.headerEnded() && len(f.header) <= f.limit {
		return len(p), nil
	}
	return len(p), f.Close()
}

// headerEnded looks at the lines that are there.
func (f *headerFixer) headerEnded() bool {
	for {
		lf := bytes.IndexByte(f.header[f.line:], '\n')
		if lf < 0 {
			return false
		}
		if !f.inHeader(f.header[f.line : f.line+lf]) {
			return true
		}
		f.line += lf + 1
	}
}

// inHeader notes what field a line begins, by the rule of headerGuard.
func (f *headerFixer) inHeader(line []byte) bool {
	line = bytes.TrimRight(line, "\r")
	if len(line) > 0 && (line[0] == ' ' || line[0] == '\t') {
		return true
	}
	name, _, isField := bytes.Cut(line, []byte(":"))
	name = bytes.TrimRight(name, " \t") // RFC 5322 section 4.5
	f.fields = f.fields || isField
	f.date = f.date || isField && bytes.EqualFold(name, []byte("Date"))
	f.id = f.id || isField && bytes.EqualFold(name, []byte("Message-ID"))
	return isField
}

// Close ends the header, if it has not ended, with what is missing.
func (f *headerFixer) Close() error {
	if f.open {
		return nil
	}
	f.open = true
	if !f.headerEnded() {
		f.inHeader(f.header[f.line:])
	}
	err := writeParts(f.w, f.missing(), f.header)
	f.header = nil
	return err
}

func (f *headerFixer) missing() []byte {
	var b []byte
	if !f.date {
		b = time.Now().UTC().AppendFormat(append(b, "Date: "...), "Mon, 02 Jan 2006 15:04:05 -0700")
		b = append(b, crlf...)
	}
	if !f.id {
		b = append(b, "Message-ID: <"+string(mail.NewID())+"@"+f.host+">\r\n"...)
	}
	if !f.fields && !bytes.HasPrefix(f.header, crlf) {
		b = append(b, crlf...) // all of the content is body
	}
	return b
}

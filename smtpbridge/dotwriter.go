package smtpbridge

import (
	"bytes"
	"errors"
	"io"
)

// errNotCRLF means that content holds a CR or LF that is not part of a
// CRLF. Such content cannot be sent with DATA unchanged (RFC 5321 section
// 2.3.8), and passing it on is what smuggling lives on.
var errNotCRLF = errors.New("content has a CR or LF that is not part of a CRLF")

// dotWriter puts content in the form of RFC 5321 section 4.5.2: a line that
// begins with a dot gets another before it. Nothing else is changed, and
// nothing at or after a bare CR or LF reaches w.
//
// It takes content in any split, looks at each line twice with vector
// instructions and copies runs of lines at once.
type dotWriter struct {
	w       io.Writer
	midLine bool // the last octet written was not the LF of a CRLF
	cr      bool // a CR has been taken in and is not written yet
}

// Write takes in the next piece of the content.
func (d *dotWriter) Write(p []byte) (int, error) {
	total := len(p)
	if d.cr && len(p) > 0 {
		if p[0] != '\n' {
			return 0, errNotCRLF
		}
		if _, err := d.w.Write(crlf); err != nil {
			return 0, err
		}
		d.cr, d.midLine, p = false, false, p[1:]
	}
	run := 0 // start of what is checked and not yet written
	for i := 0; i < len(p); {
		if p[i] == '.' && !d.midLine {
			if err := d.flush(p[run:i], dot); err != nil {
				return 0, err
			}
			run = i
		}
		length := bytes.IndexByte(p[i:], '\n')
		if length < 0 {
			return total, d.tail(p[run:], p[i:])
		}
		end := i + length // of the LF
		if cr := bytes.IndexByte(p[i:end], '\r'); cr < 0 || i+cr != end-1 {
			return 0, errNotCRLF
		}
		i, d.midLine = end+1, false
	}
	return total, d.flush(p[run:])
}

// tail takes the beginning of a line, the last thing in run, whose end is to
// follow in another piece.
func (d *dotWriter) tail(run, line []byte) error {
	if cr := bytes.IndexByte(line, '\r'); cr >= 0 {
		if cr != len(line)-1 {
			return errNotCRLF
		}
		d.cr, run = true, run[:len(run)-1]
	}
	d.midLine = true
	return d.flush(run)
}

func (d *dotWriter) flush(parts ...[]byte) error {
	for _, p := range parts {
		if len(p) == 0 {
			continue
		}
		if _, err := d.w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// finishLine ends the content. DATA cannot carry content that does not end in
// CRLF (RFC 5321 section 4.1.1.4): such content gets one, the only octets that
// a receiver sees and the sender did not write.
func (d *dotWriter) finishLine() error {
	if d.cr {
		return errNotCRLF
	}
	if !d.midLine {
		return nil
	}
	d.midLine = false
	return d.flush(crlf)
}

var (
	crlf = []byte("\r\n")
	dot  = []byte(".")
	// finalDot is the end of mail data after a finished line.
	finalDot = []byte(".\r\n")
)

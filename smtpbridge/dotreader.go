package smtpbridge

import (
	"bytes"
	"errors"
	"io"
)

// errEndless ends the reading of content that goes on far beyond the limit.
var errEndless = errors.New("content goes on beyond all limits")

// dotReader takes in the content that follows a DATA command and removes the
// transparency of RFC 5321 section 4.5.2. The content ends at CRLF "." CRLF,
// the CRLF of the command itself counting as the first, and at nothing else:
// content with a CR or LF outside that pair (section 2.3.8) is read to the
// same end and then refused, so that no other program's idea of a line end can
// make two messages of one.
type dotReader struct {
	in      *sessionInput
	maxSize int64 // octets of content that are taken
	endless int64 // octets from the wire after which the end is not waited for
	header  headerGuard
	maxLine int

	state   dotState
	cr      bool  // the last octet of the current line was CR
	length  int   // octets of the current line so far
	seen    int64 // octets taken from the wire
	size    int64 // octets of content
	refused *refusedContent
	sink    io.Writer // nil once the content is refused
}

// dotState is where in a line the reader stands.
type dotState int

const (
	lineStart    dotState = iota
	afterDot              // after a dot at the start of a line
	afterDotCR            // after a dot and CR at the start of a line
	inLine                // anywhere else
	endOfMessage          // after the CRLF that follows the dot
)

// newDotReader makes a reader for one message under the given limits.
func newDotReader(in *sessionInput, limits ServerLimits) *dotReader {
	endless := limits.MaxSize
	// Twice the limit, so that a client gets to read why its message is refused.
	if doubled := 2*limits.MaxSize + inputLarge; doubled > endless {
		endless = doubled
	}
	return &dotReader{
		in: in, maxSize: limits.MaxSize, endless: endless, maxLine: limits.ContentLine,
		header: headerGuard{limits: limits},
	}
}

// WriteTo copies the content to w and returns its length. With nil the end was
// read and w has all of it. With a *refusedContent the end was read too, so
// that the session can go on. With any other error the end was not reached:
// no octet that follows may be read as a command.
func (d *dotReader) WriteTo(w io.Writer) (int64, error) {
	d.sink = w
	for d.state != endOfMessage {
		if d.seen > d.endless {
			return d.size, errEndless
		}
		p, err := d.in.block()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return d.size, err
		}
		n := d.take(p)
		d.in.discard(n)
		d.seen += int64(n)
	}
	if d.refused != nil {
		return d.size, d.refused
	}
	return d.size, nil
}

// take goes through a block and returns how much of it belongs to the message.
func (d *dotReader) take(p []byte) int {
	run := 0 // start of the octets not yet given to the sink
	for i := 0; i < len(p); {
		switch d.state {
		case lineStart:
			d.state = inLine
			if p[i] == '.' {
				d.emit(p[run:i])
				i++
				run = i
				d.state = afterDot
			}
		case afterDot:
			d.state = inLine
			if p[i] == '\r' {
				d.emit(p[run:i])
				i++
				run = i // held back: content only if no LF follows, and then refused
				d.state = afterDotCR
			}
		case afterDotCR:
			if p[i] == '\n' {
				d.state = endOfMessage
				return i + 1
			}
			d.refuseLineEnd()
			d.state = inLine
		case inLine:
			i += d.restOfLine(p[i:])
		}
	}
	d.emit(p[run:])
	return len(p)
}

// restOfLine takes the octets of the current line up to and with the next LF.
func (d *dotReader) restOfLine(p []byte) int {
	lf := bytes.IndexByte(p, '\n')
	text := p
	if lf >= 0 {
		text = p[:lf]
	}
	endsInCR := d.cr
	if len(text) > 0 {
		first := bytes.IndexByte(text, '\r')
		if d.cr || first >= 0 && first < len(text)-1 {
			d.refuseLineEnd()
		}
		endsInCR = text[len(text)-1] == '\r'
	}
	d.header.text(text)
	d.length += len(text)
	d.cr = endsInCR
	if lf < 0 {
		d.checkLength()
		return len(p)
	}
	d.cr = false
	if !endsInCR {
		d.refuseLineEnd() // and the line goes on
		return lf + 1
	}
	d.checkLength()
	d.endLine()
	return lf + 1
}

func (d *dotReader) endLine() {
	if reply, ok := d.header.endLine(); !ok {
		d.refuse(reply)
	}
	d.length = 0
	d.state = lineStart
}

// checkLength looks at the current line, whose last octet may be the CR of its
// end.
func (d *dotReader) checkLength() {
	if d.length > d.maxLine+1 {
		d.refuse(serverReply{554, "5.6.0", "line of the message is too long"})
	}
}

func (d *dotReader) refuseLineEnd() {
	d.refuse(serverReply{550, "5.6.0", "bare CR or LF in the message, lines must end in CRLF"})
}

// refuse drops the content; the first reason counts.
func (d *dotReader) refuse(reply serverReply) {
	if d.refused == nil {
		d.refused = &refusedContent{reply}
		d.sink = nil
	}
}

// emit gives octets of content to the sink.
func (d *dotReader) emit(p []byte) {
	d.size += int64(len(p))
	if d.size > d.maxSize {
		d.refuse(serverReply{552, "5.3.4", "message is too large"})
	}
	if d.sink == nil || len(p) == 0 {
		return
	}
	if _, err := d.sink.Write(p); err != nil {
		d.refuse(sinkReply(err))
	}
}

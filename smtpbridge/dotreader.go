package smtpbridge

import (
	"errors"
	"io"
)

// errEndless ends the reading of content that goes on far beyond the limit.
var errEndless = errors.New("content goes on beyond all limits")

// dotReader takes in the content that follows a DATA command and removes the
// transparency of RFC 5321 section 4.5.2. The content ends at CRLF "." CRLF,
// the CRLF of the command itself counting as the first, and at nothing else:
// content that contentGuard refuses is read to the same end.
type dotReader struct {
	in      *sessionInput
	guard   contentGuard
	maxSize int64 // octets of content that are taken
	endless int64 // octets from the wire after which the end is not waited for

	state dotState
	seen  int64     // octets taken from the wire
	size  int64     // octets of content
	sink  io.Writer // nil once the content is refused
}

// dotState is where in a line the reader stands.
type dotState int

const (
	lineStart    dotState = iota
	afterDot              // after a dot at the start of a line
	afterDotCR            // after a dot and CR at the start of a line
	inLine                // anywhere else
	afterBareLF           // at the start of a line whose start is for repair to make
	endOfMessage          // after the CRLF that follows the dot
)

// newDotReader makes a reader for one message under the given limits; repair
// takes a bare LF for a line end, to be repaired by the sink.
func newDotReader(in *sessionInput, limits ServerLimits, repair bool) *dotReader {
	return &dotReader{in: in, guard: newContentGuard(limits, false, repair), maxSize: limits.MaxSize, endless: limits.endless()}
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
	if d.guard.refused != nil {
		return d.size, d.guard.refused
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
			d.guard.refuseLineEnd()
			d.state = inLine
		case inLine:
			n, ended := d.guard.line(p[i:])
			if i += n; ended {
				d.state = lineStart
				if d.guard.bare {
					d.state = afterBareLF
				}
			}
		case afterBareLF:
			d.state = inLine
			if p[i] == '.' {
				d.refuseDot()
			}
		}
	}
	d.emit(p[run:])
	return len(p)
}

// refuseDot is for a dot after a bare LF that is to be repaired. It never ends
// the content; but nobody can tell whether the client took the LF for a line
// end, and put the dot there for transparency.
func (d *dotReader) refuseDot() {
	d.guard.refuse(serverReply{550, "5.6.0", "dot after a bare LF in the message, lines must end in CRLF"})
}

// emit gives octets of content to the sink.
func (d *dotReader) emit(p []byte) {
	d.size += int64(len(p))
	if d.size+d.guard.repaired > d.maxSize {
		d.guard.refuse(tooLarge())
	}
	if d.guard.refused != nil {
		d.sink = nil
	}
	if d.sink == nil || len(p) == 0 {
		return
	}
	if _, err := d.sink.Write(p); err != nil {
		d.guard.refuse(sinkReply(err))
	}
}

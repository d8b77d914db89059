package smtpbridge

import (
	"net"
	"time"
)

// outputFull is how many octets of replies may wait for the input to run dry.
const outputFull = 16 << 10

// sessionOutput gathers replies, so that a group of commands is answered with
// one write (RFC 2920 section 3.2).
type sessionOutput struct {
	conn    net.Conn
	timeout time.Duration // for the client to take what is written
	buf     []byte
}

// write appends a reply.
func (o *sessionOutput) write(r serverReply) error {
	o.buf = r.appendTo(o.buf)
	return o.flushIfFull()
}

// writeLines appends a reply of several lines.
func (o *sessionOutput) writeLines(code int, lines []string) error {
	o.buf = appendLines(o.buf, code, lines)
	return o.flushIfFull()
}

func (o *sessionOutput) flushIfFull() error {
	if len(o.buf) < outputFull {
		return nil
	}
	return o.flush()
}

// flush sends what has been gathered. A client that does not read gets no
// more time than one that does not write.
func (o *sessionOutput) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	o.conn.SetWriteDeadline(time.Now().Add(o.timeout))
	_, err := o.conn.Write(o.buf)
	o.buf = o.buf[:0]
	return err
}

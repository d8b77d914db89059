package wire

import (
	"bytes"
	"io"
)

const (
	minBuffer = 4 << 10  // an idle stream holds no more
	maxBuffer = 16 << 10 // one TLS record; only a longer token makes it grow beyond
)

// input is the parser's window on the connection. A token starts at pos and
// stays in the window until advance moves past it.
type input struct {
	r        io.Reader
	buf      []byte
	pos, end int
	full     bool // the last read filled the window
}

// more reads until there is at least one octet more after end. Whoever calls
// it has bounded the token that starts at pos.
func (in *input) more() error {
	rest := in.end - in.pos
	switch {
	case rest == len(in.buf), rest == 0 && in.full && len(in.buf) < maxBuffer:
		grown := make([]byte, max(minBuffer, 2*len(in.buf)))
		copy(grown, in.buf[in.pos:in.end])
		in.buf = grown
	case in.pos > 0:
		copy(in.buf, in.buf[in.pos:in.end])
	}
	in.pos, in.end = 0, rest
	for range 100 {
		n, err := in.r.Read(in.buf[in.end:])
		in.end += n
		if n > 0 {
			in.full = in.end == len(in.buf)
			return nil
		}
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// peek returns the octet at pos.
func (in *input) peek() (byte, error) {
	if in.pos == in.end {
		if err := in.more(); err != nil {
			return 0, err
		}
	}
	return in.buf[in.pos], nil
}

// need waits until n octets are in the window, n being small.
func (in *input) need(n int) error {
	for in.end-in.pos < n {
		if err := in.more(); err != nil {
			return err
		}
	}
	return nil
}

// Buffered is how many octets have been read beyond what was returned.
func (in *input) Buffered() int { return in.end - in.pos }

// window is what has been read and not consumed.
func (in *input) window() []byte { return in.buf[in.pos:in.end] }

// restart begins a new stream. What the peer sent ahead of it must be white
// space: anything else was sent before the peer may have known that it may.
func (in *input) restart(r io.Reader) error {
	ahead := len(bytes.Trim(in.window(), " \t\r\n")) > 0
	in.r, in.pos, in.end = r, 0, 0
	if ahead {
		return refuse(PolicyViolation, "data sent ahead of the stream restart")
	}
	return nil
}

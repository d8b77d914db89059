package smtpbridge

import (
	"bytes"
	"errors"
	"io"
)

const (
	inputSmall = 4 << 10  // a session's buffer between messages
	inputLarge = 64 << 10 // while content comes in
)

var (
	errLineTooLong = errors.New("command line is too long")
	errBareLineEnd = errors.New("bare CR or LF in a command line")
)

// sessionInput buffers what a client sends. Commands are read from it line by
// line and content block by block, from one buffer, so that nothing is lost
// or read twice where the one follows the other.
type sessionInput struct {
	src    io.Reader
	buf    []byte
	r, w   int          // unread octets are buf[r:w]
	before func() error // called before each read from src, which may wait
}

func newSessionInput(src io.Reader, buf []byte, before func() error) *sessionInput {
	return &sessionInput{src: src, buf: buf, before: before}
}

// buffered returns how many octets are there without waiting.
func (in *sessionInput) buffered() int { return in.w - in.r }

// fill waits for more octets. There must be room for them.
func (in *sessionInput) fill() error {
	if in.r == in.w {
		in.r, in.w = 0, 0
	} else if in.w == len(in.buf) {
		in.w = copy(in.buf, in.buf[in.r:in.w])
		in.r = 0
	}
	if in.before != nil {
		if err := in.before(); err != nil {
			return err
		}
	}
	for range 100 { // as bufio does: a reader that returns nothing for ever is broken
		n, err := in.src.Read(in.buf[in.w:])
		in.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// block returns all octets that are there, at least one. They are valid until
// the next call.
func (in *sessionInput) block() ([]byte, error) {
	if in.r == in.w {
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
	return in.buf[in.r:in.w], nil
}

// discard takes n octets of the last block as read.
func (in *sessionInput) discard(n int) { in.r += n }

// line reads one command line of at most limit octets and returns it without
// its CRLF, valid until the next call. CR and LF occur in that pair only
// (RFC 5321 section 2.3.8): after errBareLineEnd or errLineTooLong it is
// unknown where a command begins, and nothing more may be read.
func (in *sessionInput) line(limit int) ([]byte, error) {
	for scanned := 0; ; {
		unread := in.buf[in.r:in.w]
		if i := bytes.IndexByte(unread[scanned:], '\n'); i >= 0 {
			line := unread[:scanned+i+1]
			in.r += len(line)
			return cutLineEnd(line, limit)
		}
		if scanned = len(unread); scanned >= limit {
			return nil, errLineTooLong
		}
		if err := in.fill(); err != nil {
			return nil, err
		}
	}
}

// cutLineEnd takes a line that ends with its first LF.
func cutLineEnd(line []byte, limit int) ([]byte, error) {
	if len(line) > limit {
		return nil, errLineTooLong
	}
	line, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || bytes.IndexByte(line, '\r') >= 0 {
		return nil, errBareLineEnd
	}
	return line, nil
}

// resize goes on in another buffer, which has room for all unread octets, and
// returns the one used so far.
func (in *sessionInput) resize(buf []byte) []byte {
	old := in.buf
	in.w = copy(buf, old[in.r:in.w])
	in.r, in.buf = 0, buf
	return old
}

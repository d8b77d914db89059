package smtpbridge

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/emersion/go-milter"
)

// maxMilterFrame bounds a command: a header field of the longest length that
// Postfix lets through (header_size_limit), and more than a piece of the body.
const maxMilterFrame = 256 << 10

// milterFrames is a connection of which go-milter reads nothing but whole
// commands in the form that it expects; anything else, and a wait too long, is
// the end of the connection to it.
type milterFrames struct {
	*neighbourConn
	m     *Milter
	busy  func() bool // a message is being judged
	frame []byte      // what is left of the command in hand, its length included
	ended chan struct{}
	once  sync.Once

	gathered int // octets of header fields since go-milter last let go of them
}

// Read waits for the next command where none is in hand.
func (f *milterFrames) Read(p []byte) (int, error) {
	if len(f.frame) == 0 {
		frame, err := f.next()
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				f.m.counts.brokenOff.Add(1)
				f.m.log.Info("milter broken off", "remote", remoteText(addrPort(f.RemoteAddr())), "err", err)
			}
			return 0, io.EOF
		}
		f.frame = frame
	}
	n := copy(p, f.frame)
	f.frame = f.frame[n:]
	return n, nil
}

// next reads a whole command, memory growing with what has come of it.
func (f *milterFrames) next() ([]byte, error) {
	step := f.m.cfg.Timeouts.Step
	if f.busy() {
		f.work(step)
	} else if !f.rest(step) {
		return nil, io.EOF
	}
	var head [4]byte
	if _, err := io.ReadFull(f.neighbourConn, head[:]); err != nil {
		return nil, err // io.EOF between two commands
	}
	length := binary.BigEndian.Uint32(head[:])
	if length == 0 || length > maxMilterFrame {
		return nil, fmt.Errorf("command of %d octets", length)
	}
	frame := bytes.NewBuffer(head[:])
	if _, err := io.CopyN(frame, f.neighbourConn, int64(length)); err != nil {
		return nil, fmt.Errorf("connection lost in a command: %w", unexpected(err))
	}
	b := frame.Bytes()
	if why := badMilterCommand(milter.Code(b[4]), b[5:]); why != "" {
		return nil, fmt.Errorf("command %q: %s", b[4], why)
	}
	if !f.gather(milter.Code(b[4]), len(b)) {
		return nil, errors.New("header fields without end")
	}
	return b, nil
}

// gather bounds what go-milter keeps of headers, also where no message of a
// session comes to its end.
func (f *milterFrames) gather(code milter.Code, n int) bool {
	switch code {
	case milter.CodeHeader:
		f.gathered += n
	case milter.CodeEOH, milter.CodeAbort:
		f.gathered = 0
	}
	return f.gathered <= f.m.cfg.Limits.HeaderBytes+maxMilterFrame
}

// badMilterCommand tells what is wrong with a command, "" for nothing. The
// forms are those of Sendmail's libmilter, versions 2 to 6.
func badMilterCommand(code milter.Code, data []byte) string {
	switch code {
	case milter.CodeOptNeg:
		if len(data) < 12 {
			return "too short"
		}
	case milter.CodeConn:
		return badMilterConnect(data)
	case milter.CodeMacro:
		if len(data) == 0 {
			return "too short"
		}
	case milter.CodeHelo, milter.CodeMail, milter.CodeRcpt:
		if bytes.IndexByte(data, 0) < 0 {
			return "no string"
		}
	case milter.CodeHeader:
		if bytes.Count(data, []byte{0}) != 2 || data[0] == 0 || data[len(data)-1] != 0 {
			return "not a name and a value"
		}
	case milter.CodeBody, milter.CodeEOH, milter.CodeEOB, milter.CodeAbort, milter.CodeQuit, milter.CodeData:
	default:
		return "unknown"
	}
	return ""
}

func badMilterConnect(data []byte) string {
	_, rest, ok := bytes.Cut(data, []byte{0})
	switch {
	case !ok || len(rest) == 0:
		return "too short"
	case rest[0] == byte(milter.FamilyInet) || rest[0] == byte(milter.FamilyInet6):
		if len(rest) < 4 || rest[len(rest)-1] != 0 {
			return "no port and address"
		}
	}
	return ""
}

// Write gives the neighbour a bounded time to take an answer.
func (f *milterFrames) Write(p []byte) (int, error) {
	f.SetWriteDeadline(time.Now().Add(f.m.cfg.Timeouts.Write))
	return f.neighbourConn.Write(p)
}

// Close is called by go-milter once it is done.
func (f *milterFrames) Close() error {
	err := f.neighbourConn.Close()
	f.once.Do(func() { close(f.ended) })
	return err
}

package smtpbridge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
)

const (
	// chunkedFrom is the size from which content goes by BDAT where a next hop
	// offers it, whatever the content is: it has no dots to stuff, and ends
	// where it says. Below, DATA costs no more and every server knows it.
	chunkedFrom = 1 << 20
	// chunkSize is how much goes between two replies.
	chunkSize = 2 << 20
)

// chunked reports whether an attempt's content goes by BDAT (RFC 3030).
func (hc *hopConn) chunked(a mail.Attempt, n needs) bool {
	return hc.caps.chunking && (n.binary || n.size >= chunkedFrom)
}

// sendChunks writes trace and content as BDAT chunks and reads the reply to
// each but the last. What is not declared binary is lines, and held to be
// (RFC 3030 section 3), so that nothing behind the next hop can mistake a bare
// LF for the end of one.
func (hc *hopConn) sendChunks(a mail.Attempt) *mail.Failure {
	hc.broken = true // until all of it is out
	in, err := a.Content.Open()
	if err != nil {
		return mail.Fail(mail.Internal, "", fmt.Errorf("open content: %w", err))
	}
	defer in.Close()
	content := io.MultiReader(bytes.NewReader(a.Trace), &exactReader{r: in, left: a.Content.Size()})
	left := int64(len(a.Trace)) + a.Content.Size()
	var out io.Writer = struct{ io.Writer }{hc.bw} // hides ReadFrom, which would not use our buffer
	if a.Envelope.Body != mail.BodyBinaryMIME {
		out = &lineGuard{w: hc.bw, left: left}
	}
	for {
		// A reply that came before its command would be taken for the next
		// chunk's, and the last but one for that of the message.
		if err := hc.inStep(); err != nil {
			return hc.lost(err)
		}
		n := min(left, chunkSize)
		left -= n
		hc.chunkCommand(n, left == 0)
		if err := copyChunk(out, content, n); err != nil {
			return hc.contentFailure(err)
		}
		if left == 0 {
			faults.Point("smtp.before-dot")
		}
		if err := hc.bw.Flush(); err != nil {
			return hc.contentFailure(err)
		}
		if left == 0 {
			faults.Point("smtp.after-dot")
			hc.broken = false
			return nil
		}
		if f := hc.chunkReply(); f != nil {
			return f
		}
	}
}

func (hc *hopConn) chunkCommand(n int64, last bool) {
	b := strconv.AppendInt([]byte("BDAT "), n, 10)
	if last {
		b = append(b, " LAST"...)
	}
	hc.bw.Write(append(b, "\r\n"...))
}

// chunkReply reads the reply to a chunk that is not the last. After a refusal
// the transaction is over, and RSET makes the session fit again (RFC 3030
// section 2).
func (hc *hopConn) chunkReply() *mail.Failure {
	hc.broken = false
	r, err := hc.reply(hc.times.Command)
	if err == nil && r.code < 400 && !r.positive() {
		err = outOfPlace(r)
	}
	switch {
	case err != nil:
		hc.broken = true
		return hc.lost(err)
	case !r.positive():
		return hc.refused(r)
	}
	hc.broken = true
	return nil
}

func copyChunk(w io.Writer, r io.Reader, n int64) error {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	copied, err := io.CopyBuffer(w, io.LimitReader(r, n), *buf)
	if err == nil && copied != n {
		return fmt.Errorf("content has %d octets less than it should", n-copied)
	}
	return err
}

// lineGuard lets lines pass that end in CRLF and stops at any other CR or LF.
// Of the octets announced the last does not pass before all are known to be
// good.
type lineGuard struct {
	w    io.Writer
	left int64
	cr   bool // the last octet was a CR
}

func (g *lineGuard) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		end := bytes.IndexByte(rest, '\n')
		line := rest
		if end >= 0 {
			line = rest[:end]
		}
		cr := bytes.IndexByte(line, '\r')
		switch {
		case g.cr && len(line) > 0, cr >= 0 && cr != len(line)-1, end >= 0 && cr < 0 && !g.cr:
			return 0, errNotCRLF
		}
		g.cr = cr >= 0 && end < 0
		rest = rest[min(len(line)+1, len(rest)):]
	}
	if g.left -= int64(len(p)); g.left <= 0 && g.cr {
		return 0, errNotCRLF
	}
	return g.w.Write(p)
}

// exactReader gives the octets announced, and an error in place of the last of
// them where more or fewer are there: a message must not be cut short unseen.
type exactReader struct {
	r    io.Reader
	left int64
}

var errContentSize = errors.New("content does not have the size it should have")

func (e *exactReader) Read(p []byte) (int, error) {
	if e.left == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.left)])
	e.left -= int64(n)
	switch {
	case e.left > 0 && err == io.EOF:
		return 0, errContentSize
	case e.left == 0 && (err == nil || err == io.EOF):
		if more, _ := io.CopyN(io.Discard, e.r, 1); more > 0 {
			return 0, errContentSize
		}
		return n, nil
	}
	return n, err
}

package transfer

import (
	"fmt"
	"io"

	"mailxmppd/mail"
)

// pieces is content to send, in pieces one after the other. What is in memory
// is sent from there, without a copy.
type pieces struct {
	mem []byte
	r   io.ReadCloser // nil: all is in mem
}

// openAt opens content from an offset on.
func openAt(c mail.Content, from int64) (*pieces, error) {
	if mem, ok := inMemory(c); ok && from <= int64(len(mem)) {
		return &pieces{mem: mem[from:]}, nil
	}
	r, err := c.Open()
	if err != nil {
		return nil, err
	}
	if err := skip(r, from); err != nil {
		r.Close()
		return nil, err
	}
	return &pieces{r: r}, nil
}

func inMemory(c mail.Content) ([]byte, bool) {
	switch c := c.(type) {
	case mail.Bytes:
		return c, true
	case *mail.Buffer:
		return c.Memory()
	}
	return nil, false
}

// skip passes over the first n octets.
func skip(r io.Reader, n int64) error {
	if s, ok := r.(io.Seeker); ok {
		_, err := s.Seek(n, io.SeekStart)
		return err
	}
	_, err := io.CopyN(io.Discard, r, n)
	return err
}

// next returns the next n octets, which may be in *buf.
func (p *pieces) next(buf *[]byte, n int) ([]byte, error) {
	if p.r == nil && len(p.mem) >= n {
		piece := p.mem[:n]
		p.mem = p.mem[n:]
		return piece, nil
	}
	err := io.ErrUnexpectedEOF
	if p.r != nil {
		piece := grow(buf, n)
		if _, err = io.ReadFull(p.r, piece); err == nil {
			return piece, nil
		}
	}
	return nil, fmt.Errorf("content is shorter than its size: %w", err)
}

func (p *pieces) close() {
	if p.r != nil {
		p.r.Close()
	}
}

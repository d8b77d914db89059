package component

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

var (
	errMarkup   = errors.New("server sent markup that XMPP does not have")
	errTooLarge = errors.New("stanza too large")
)

// maxTag bounds a tag outside of stanzas, such as the stream's own, and what
// is skipped between stanzas.
const maxTag = 16 << 10

// frames cuts the server's stream into stanzas without judging them: a
// stanza's inside is a peer's doing, and what is wrong with it must not be the
// end of all others. Comments, CDATA sections and the like, which no server
// writes, end the connection.
type frames struct {
	r       *bufio.Reader
	most    int    // octets of a stanza that is kept
	whole   []byte // the stanza being read, up to most
	size    int    // its octets so far
	overrun bool
}

func newFrames(r io.Reader, most int) *frames {
	return &frames{r: bufio.NewReaderSize(r, 16<<10), most: most}
}

// header returns the stream's opening tag with what stands before it.
func (f *frames) header() ([]byte, error) {
	f.most, f.size, f.whole, f.overrun = maxTag, 0, nil, false
	for {
		kind, err := f.tag()
		switch {
		case err != nil:
			return nil, err
		case f.overrun:
			return nil, errTooLarge
		case kind == opening:
			return f.whole, nil
		case kind != declaration:
			return nil, errMarkup
		}
	}
}

// next returns the next stanza, whole: the caller's own. io.EOF is the end of
// the stream; errTooLarge says that one was skipped.
func (f *frames) next(most int) ([]byte, error) {
	f.most, f.size, f.whole, f.overrun = most, 0, nil, false
	for depth := 0; ; {
		if depth == 0 {
			if err := f.between(); err != nil {
				return nil, err
			}
		} else if err := f.copyTo('<'); err != nil {
			return nil, err
		}
		kind, err := f.tag()
		if err != nil {
			return nil, err
		}
		switch kind {
		case opening:
			depth++
		case closing:
			if depth--; depth < 0 {
				return nil, io.EOF
			}
		case declaration:
			return nil, errMarkup
		}
		if depth == 0 {
			if f.overrun {
				return nil, errTooLarge
			}
			return f.whole, nil
		}
	}
}

// between skips white space up to a "<", which stays.
func (f *frames) between() error {
	for {
		c, err := f.r.ReadByte()
		switch {
		case err != nil:
			return unexpected(err)
		case c == '<':
			return f.r.UnreadByte()
		case c != ' ' && c != '\t' && c != '\r' && c != '\n':
			return errMarkup
		}
	}
}

// copyTo takes in text up to the octet, which stays.
func (f *frames) copyTo(end byte) error {
	for {
		window, err := f.window()
		if err != nil {
			return err
		}
		i := bytes.IndexByte(window, end)
		if i >= 0 {
			window = window[:i]
		}
		f.keep(window)
		if i >= 0 {
			return nil
		}
	}
}

// window is what can be looked at without waiting, at least one octet.
func (f *frames) window() ([]byte, error) {
	if _, err := f.r.Peek(1); err != nil {
		return nil, unexpected(err)
	}
	return f.r.Peek(f.r.Buffered())
}

// keep takes octets out of the window.
func (f *frames) keep(b []byte) {
	if f.size += len(b); f.size > f.most {
		f.overrun, f.whole = true, nil
	} else {
		f.whole = append(f.whole, b...)
	}
	f.r.Discard(len(b))
}

type kind int

const (
	opening kind = iota
	closing
	empty
	declaration // "<?...>"
)

// tag takes in one tag from its "<" to its ">", minding quotes.
func (f *frames) tag() (kind, error) {
	if err := f.copyTo('<'); err != nil {
		return 0, err
	}
	start, err := f.r.Peek(2)
	if err != nil {
		return 0, unexpected(err)
	}
	found := opening
	switch start[1] {
	case '/':
		found = closing
	case '?':
		found = declaration
	case '!':
		return 0, errMarkup
	}
	f.keep(start)
	quote, last := byte(0), start[1]
	for {
		window, err := f.window()
		if err != nil {
			return 0, err
		}
		for i, c := range window {
			switch {
			case quote != 0:
				if c == quote {
					quote = 0
				}
			case c == '\'' || c == '"':
				quote = c
			case c == '>':
				if i > 0 {
					last = window[i-1]
				}
				f.keep(window[:i+1])
				if found == opening && last == '/' {
					found = empty
				}
				return found, nil
			}
		}
		last = window[len(window)-1]
		f.keep(window)
	}
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

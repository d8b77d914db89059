package smtpbridge

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// maxLookup bounds a question: the name of a map and an address with U-labels.
	maxLookup = 2000
	// lookupBuffer holds a whole question with what is around it.
	lookupBuffer = 4 << 10
)

var (
	errLookupTooLong = fmt.Errorf("question is longer than %d octets", maxLookup)
	errNoLookup      = errors.New("neither a socketmap request nor a line")
)

// lookupQuestion is what a neighbour asks.
type lookupQuestion struct {
	key  string // as given
	line bool   // asked by a line, which the answer then is too
}

// readLookup reads a question: a netstring with the name of a map, a space and
// the key (socketmap_table(5)), or a line with the key alone. The name of the
// map makes no difference. io.EOF means that there was none.
func readLookup(br *bufio.Reader) (lookupQuestion, error) {
	length, isNetstring, err := netstringLength(br)
	switch {
	case err != nil:
		return lookupQuestion{}, err
	case !isNetstring:
		return readLookupLine(br)
	}
	b := make([]byte, length+1)
	if _, err := io.ReadFull(br, b); err != nil {
		return lookupQuestion{}, fmt.Errorf("netstring: %w", unexpected(err))
	}
	name, key, found := strings.Cut(string(b[:length]), " ")
	if b[length] != ',' || !found || name == "" {
		return lookupQuestion{}, errNoLookup
	}
	return lookupQuestion{key: key}, nil
}

// netstringLength takes the length and colon of a netstring, or nothing where
// there is none.
func netstringLength(br *bufio.Reader) (length int, isNetstring bool, err error) {
	for n := 1; n <= 6; n++ {
		b, err := br.Peek(n)
		if err != nil {
			if len(b) == 0 {
				return 0, false, err
			}
			return 0, false, nil // a line that ends with the connection
		}
		switch c := b[n-1]; {
		case c >= '0' && c <= '9':
			length = length*10 + int(c-'0')
		case c == ':' && n > 1:
			if length > maxLookup {
				return 0, false, errLookupTooLong
			}
			br.Discard(n)
			return length, true, nil
		default:
			return 0, false, nil
		}
	}
	return 0, false, nil
}

// readLookupLine reads up to LF, or to the end of what the neighbour sends:
// readsocket closes its side after the question.
func readLookupLine(br *bufio.Reader) (lookupQuestion, error) {
	line, err := br.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLookup+2:
		return lookupQuestion{}, errLookupTooLong
	case err != nil && !errors.Is(err, io.EOF):
		return lookupQuestion{}, err
	case err != nil && len(line) == 0:
		return lookupQuestion{}, io.EOF
	}
	return lookupQuestion{key: string(bytes.TrimRight(line, "\r\n")), line: true}, nil
}

// unexpected: an end in the midst of a question is no end between two.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

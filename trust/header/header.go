// Package header reads the header section of a message for the checks of
// package trust: fields in their order, each with the octets that a signature
// covers.
//
// Invariants: nothing is changed or decoded; concatenated, the fields are the
// header. The memory for a header is bounded by its limits, whatever follows.
//
// Failure semantics: a header beyond a limit is an error and gives no fields,
// since a check of half a header would be a check of another message. A line
// that is no field is kept, without a name.
package header

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Limits of a header that is looked at. Real ones are far below; each bounds
// what a hostile one costs.
const (
	MaxFields = 1000
	MaxField  = 64 << 10  // octets of one field
	MaxHeader = 512 << 10 // octets in all
)

// ErrTooLarge is in every error about a limit.
var ErrTooLarge = errors.New("header too large to be checked")

// Field is one header field.
type Field struct {
	Name string // lower-case, without the white space that RFC 5322 section 4.5 allows before the colon; "" if there is no name
	Raw  string // as it is, folding and final CRLF included
}

// Value returns what follows the colon, folded as it is.
func (f Field) Value() string {
	_, v, _ := strings.Cut(f.Raw, ":")
	return v
}

// Unfolded returns the value as one line without white space at its ends (RFC
// 5322 section 2.2.3).
func (f Field) Unfolded() string {
	v := strings.ReplaceAll(strings.ReplaceAll(f.Value(), "\r\n", ""), "\n", "")
	return strings.Trim(v, " \t\r")
}

// Header is a header section, from top to bottom.
type Header []Field

// All returns the fields of a lower-case name.
func (h Header) All(name string) []Field {
	var out []Field
	for _, f := range h {
		if f.Name == name {
			out = append(out, f)
		}
	}
	return out
}

// Read takes a header with the empty line that ends it. The end of r ends a
// header too.
func Read(r *bufio.Reader) (Header, error) {
	var h Header
	var field []byte
	total := 0
	end := func() {
		if len(field) > 0 {
			h = append(h, newField(string(field)))
			field = field[:0]
		}
	}
	fresh := true // at the start of a line
	for {
		part, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if fresh {
			if len(part) == 0 || string(part) == "\r\n" || string(part) == "\n" {
				end()
				return h, nil
			}
			if part[0] != ' ' && part[0] != '\t' {
				end()
			}
		}
		field = append(field, part...)
		total += len(part)
		switch {
		case len(h) >= MaxFields:
			return nil, fmt.Errorf("%w: more than %d fields", ErrTooLarge, MaxFields)
		case len(field) > MaxField:
			return nil, fmt.Errorf("%w: a field of more than %d octets", ErrTooLarge, MaxField)
		case total > MaxHeader:
			return nil, fmt.Errorf("%w: more than %d octets", ErrTooLarge, MaxHeader)
		}
		if errors.Is(err, io.EOF) {
			end()
			return h, nil
		}
		fresh = err == nil
	}
}

func newField(raw string) Field {
	name, _, ok := strings.Cut(raw, ":")
	name = strings.TrimRight(name, " \t")
	if !ok || name == "" {
		return Field{Raw: raw}
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' { // RFC 5322 section 3.6.8
			return Field{Raw: raw}
		}
	}
	return Field{Name: strings.ToLower(name), Raw: raw}
}

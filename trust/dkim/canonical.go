package dkim

import (
	"crypto/sha256"
	"hash"
	"strings"
)

// Canonicalization is one of the two forms in which header or body are hashed
// (RFC 6376 section 3.4).
type Canonicalization string

const (
	Simple  Canonicalization = "simple"
	Relaxed Canonicalization = "relaxed"
)

// CanonicalField returns a field as it is hashed. It ends with CRLF.
func (c Canonicalization) CanonicalField(raw string) string {
	if c == Simple {
		return raw
	}
	// RFC 6376 section 3.4.2.
	name, value, _ := strings.Cut(raw, ":")
	var b strings.Builder
	b.Grow(len(raw) + 2)
	b.WriteString(strings.ToLower(strings.TrimRight(name, fws)))
	b.WriteByte(':')
	space, any := false, false
	for i := range len(value) {
		switch c := value[i]; c {
		case ' ', '\t':
			space = true
		case '\r', '\n': // unfolding: the white space that follows remains
		default:
			if space && any {
				b.WriteByte(' ')
			}
			space, any = false, true
			b.WriteByte(c)
		}
	}
	b.WriteString("\r\n")
	return b.String()
}

// Body hashes a message's body while it goes by, once for each form that any
// signature wants, however many signatures there are. Its memory does not grow
// with the body: of empty lines, which do not count at the end, only the
// number is kept. Write never fails.
type Body struct {
	forms map[Canonicalization]bodyForm
	sums  map[Canonicalization][]byte
}

type bodyForm interface {
	write(p []byte)
	sum() []byte
}

// NewBody makes a Body for some forms.
func NewBody(forms ...Canonicalization) *Body {
	b := &Body{forms: map[Canonicalization]bodyForm{}, sums: map[Canonicalization][]byte{}}
	for _, c := range forms {
		switch c {
		case Simple:
			b.forms[c] = &simpleBody{lines: lines{hash: sha256.New()}}
		case Relaxed:
			b.forms[c] = &relaxedBody{lines: lines{hash: sha256.New()}}
		}
	}
	return b
}

// Write takes the next octets of the body.
func (b *Body) Write(p []byte) (int, error) {
	for _, f := range b.forms {
		f.write(p)
	}
	return len(p), nil
}

// Sum ends the body and returns its SHA-256 in a form, nil if it was not asked
// for.
func (b *Body) Sum(c Canonicalization) []byte {
	if _, done := b.sums[c]; !done && b.forms[c] != nil {
		b.sums[c] = b.forms[c].sum()
	}
	return b.sums[c]
}

// lines is what both forms know: how many line ends came since the last text.
type lines struct {
	hash    hash.Hash
	pending int64
	cr      bool // a CR that may become a line end
}

// ends is hashed for line ends, many at once.
var ends = []byte(strings.Repeat("\r\n", 512))

var oneSpace = []byte(" ")

// flush hashes the line ends before more text.
func (l *lines) flush() {
	for l.pending > 0 {
		n := min(l.pending, int64(len(ends)/2))
		l.hash.Write(ends[:2*n])
		l.pending -= n
	}
}

// simpleBody: RFC 6376 section 3.4.3.
type simpleBody struct{ lines }

func (s *simpleBody) write(p []byte) {
	if len(p) == 0 {
		return
	}
	if s.cr {
		s.cr = false
		if p[0] == '\n' {
			s.pending++
			p = p[1:]
		} else {
			s.flush()
			s.hash.Write(ends[:1])
		}
	}
	end, tail := len(p), int64(0)
	if end > 0 && p[end-1] == '\r' {
		s.cr = true
		end--
	}
	for end >= 2 && p[end-1] == '\n' && p[end-2] == '\r' {
		end -= 2
		tail++
	}
	if end > 0 {
		s.flush()
		s.hash.Write(p[:end])
	}
	s.pending += tail
}

func (s *simpleBody) sum() []byte {
	if s.cr {
		s.flush()
		s.hash.Write(ends[:1])
	}
	// An empty body is hashed as one line end too.
	s.hash.Write(ends[:2])
	return s.hash.Sum(nil)
}

// relaxedBody: RFC 6376 section 3.4.4.
type relaxedBody struct {
	lines
	space bool // white space came since the last text of this line
	any   bool // text came
	out   [1024]byte
	n     int
}

func (r *relaxedBody) write(p []byte) {
	for i := 0; i < len(p); {
		c := p[i]
		if r.cr {
			r.cr = false
			if c == '\n' {
				r.space = false // at the end of a line it does not count
				r.pending++
				i++
				continue
			}
			r.text(ends[:1])
		}
		switch c {
		case ' ', '\t':
			r.space = true
			i++
		case '\r':
			r.cr = true
			i++
		default:
			n := run(p[i:])
			r.text(p[i : i+n])
			i += n
		}
	}
}

// run returns how many octets stay as they are: up to a line end, or white
// space other than one space between two words. p is not empty.
func run(p []byte) int {
	for i, c := range p {
		switch c {
		case '\t', '\r':
			return i
		case ' ':
			if i+1 == len(p) || p[i+1] == ' ' || p[i+1] == '\t' || p[i+1] == '\r' {
				return i
			}
		}
	}
	return len(p)
}

// text hashes octets that stay as they are, after what was held back.
func (r *relaxedBody) text(p []byte) {
	if r.pending > 0 {
		if r.pending <= 2 {
			for ; r.pending > 0; r.pending-- {
				r.put(ends[:2])
			}
		} else {
			r.drain()
			r.flush()
		}
	}
	if r.space {
		r.put(oneSpace)
		r.space = false
	}
	r.any = true
	r.put(p)
}

// put gathers small pieces, for hashing each word by itself is slow.
func (r *relaxedBody) put(p []byte) {
	if r.n+len(p) > len(r.out) {
		r.drain()
	}
	if len(p) > len(r.out) {
		r.hash.Write(p)
		return
	}
	r.n += copy(r.out[r.n:], p)
}

func (r *relaxedBody) drain() {
	r.hash.Write(r.out[:r.n])
	r.n = 0
}

func (r *relaxedBody) sum() []byte {
	if r.cr {
		r.text(ends[:1])
	}
	// White space at the end of a last line without its line end does not
	// count either, but the line does: it is an empty one.
	if r.any {
		r.put(ends[:2])
	}
	r.drain()
	return r.hash.Sum(nil)
}

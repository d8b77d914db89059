package mail

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
)

// memoryContent is how much of a message's content is held in memory; what is
// longer goes to a temporary file (design: memory does not grow with size).
const memoryContent = 256 << 10

// Content is a message's content: octets that can be read any number of
// times, each time from the start. Safe for concurrent Open.
type Content interface {
	Open() (io.ReadCloser, error)
	Size() int64
}

// Bytes is content in memory.
type Bytes []byte

// Open returns a reader over all of b.
func (b Bytes) Open() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }

// Size returns len(b).
func (b Bytes) Size() int64 { return int64(len(b)) }

// Buffer takes in a message's content as it arrives, up to 256 KiB in memory
// and the rest in an unsynced temporary file, and gathers its Facts on the
// way. Write until done, then use it as Content; Close frees the file. Not
// safe for concurrent writing.
type Buffer struct {
	dir   string
	mem   []byte
	file  *os.File
	size  int64
	hash  hash.Hash
	scan  factScanner
	facts *Facts

	closed bool
}

// NewBuffer makes a Buffer whose temporary file, if one is needed, is made in
// dir ("" for the system's).
func NewBuffer(dir string) *Buffer { return &Buffer{dir: dir, hash: sha256.New()} }

// Write appends p. An error leaves the buffer unusable but for Close.
func (b *Buffer) Write(p []byte) (int, error) {
	if b.facts != nil {
		return 0, errors.New("write to finished content")
	}
	b.hash.Write(p)
	b.scan.write(p)
	if b.file == nil && len(b.mem)+len(p) <= memoryContent {
		b.mem = append(b.mem, p...)
		b.size += int64(len(p))
		return len(p), nil
	}
	if b.file == nil {
		if err := b.spill(); err != nil {
			return 0, err
		}
	}
	n, err := b.file.Write(p)
	b.size += int64(n)
	if err != nil {
		return n, fmt.Errorf("temporary content file: %w", err)
	}
	return n, nil
}

// spill moves what is in memory to a file without a name.
func (b *Buffer) spill() error {
	f, err := os.CreateTemp(b.dir, "mailxmppd-content-*")
	if err != nil {
		return fmt.Errorf("temporary content file: %w", err)
	}
	os.Remove(f.Name())
	if _, err := f.Write(b.mem); err != nil {
		f.Close()
		return fmt.Errorf("temporary content file: %w", err)
	}
	b.file, b.mem = f, nil
	return nil
}

// Facts ends the writing and returns what was found.
func (b *Buffer) Facts() Facts {
	if b.facts == nil {
		f := b.scan.end()
		f.Size = b.size
		b.hash.Sum(f.SHA256[:0])
		b.facts = &f
	}
	return *b.facts
}

// Size returns the number of octets written so far.
func (b *Buffer) Size() int64 { return b.size }

// Open returns a reader over what has been written.
func (b *Buffer) Open() (io.ReadCloser, error) {
	switch {
	case b.closed:
		return nil, errors.New("content is closed") // never as if it were empty
	case b.file == nil:
		return Bytes(b.mem).Open()
	}
	return io.NopCloser(io.NewSectionReader(b.file, 0, b.size)), nil
}

// Memory returns the content if all of it is in memory. Asked before Close,
// the octets stay valid after it.
func (b *Buffer) Memory() (Bytes, bool) { return b.mem, b.file == nil }

// Close frees the temporary file. Readers from Open must be done.
func (b *Buffer) Close() error {
	b.mem, b.closed = nil, true
	if b.file == nil {
		return nil
	}
	err := b.file.Close()
	b.file = nil
	return err
}

// factScanner finds the Facts that need a look at every line, over any split
// of the input into writes, with memory for one field name only.
type factScanner struct {
	facts  Facts
	inBody bool
	line   int    // octets of the current line so far
	name   []byte // start of the current header line
	cr     bool   // the last octet was CR
	begun  bool   // there was an octet
	folded bool   // the first of all was white space

	crs, pairs int64 // CR in all, and those before an LF
	bareLF     bool  // an LF without CR was seen
}

// bareLineEnd reports whether what was seen has a CR or LF that is not part of
// CRLF.
func (s *factScanner) bareLineEnd() bool { return s.bareLF || s.crs != s.pairs }

func (s *factScanner) write(p []byte) {
	if !s.begun && len(p) > 0 {
		s.begun, s.folded = true, p[0] == ' ' || p[0] == '\t'
	}
	s.crs += int64(bytes.Count(p, []byte{'\r'}))
	for len(p) > 0 {
		if s.inBody {
			s.body(p)
			return
		}
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.partial(p)
			return
		}
		s.partial(p[:i])
		s.lineEnd()
		s.endLine()
		p = p[i+1:]
	}
}

// body takes octets of which none is of the header. Most content is body, so
// what does not depend on lines is looked for in all of them at once.
func (s *factScanner) body(p []byte) {
	s.octets(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.length(p)
			return
		}
		n := s.line + i
		if i > 0 && p[i-1] == '\r' || i == 0 && s.cr {
			s.pairs++
			n--
		} else {
			s.bareLF = true
		}
		if n > maxLine {
			s.facts.LongLine = true
		}
		s.line, s.cr = 0, false
		p = p[i+1:]
	}
}

// lineEnd notes what the LF that ends the current line stands behind.
func (s *factScanner) lineEnd() {
	if s.cr {
		s.pairs++
	} else {
		s.bareLF = true
	}
}

func (s *factScanner) length(p []byte) {
	if len(p) > 0 {
		s.line += len(p)
		s.cr = p[len(p)-1] == '\r'
	}
}

// partial takes octets of one line, its LF not among them.
func (s *factScanner) partial(p []byte) {
	if len(p) == 0 {
		return
	}
	s.octets(p)
	if !s.inBody && len(s.name) < namePrefix {
		s.name = append(s.name, p[:min(len(p), namePrefix-len(s.name))]...)
	}
	s.length(p)
}

// namePrefix is how much of a header line is kept to see its field's name: the
// longest looked for is "message-id", with room for obsolete space before the
// colon (RFC 5322 section 4.5).
const namePrefix = 24

func (s *factScanner) octets(p []byte) {
	if (!s.facts.EightBit || !s.inBody && !s.facts.HeaderUTF8) && hasHighBit(p) {
		s.facts.EightBit = true
		if !s.inBody {
			s.facts.HeaderUTF8 = true
		}
	}
	if !s.facts.Null && bytes.IndexByte(p, 0) >= 0 {
		s.facts.Null = true
	}
}

// hasHighBit reports whether an octet is above 127, looking at 32 a step.
func hasHighBit(p []byte) bool {
	var all uint64
	for ; len(p) >= 32; p = p[32:] {
		all |= binary.LittleEndian.Uint64(p) | binary.LittleEndian.Uint64(p[8:]) |
			binary.LittleEndian.Uint64(p[16:]) | binary.LittleEndian.Uint64(p[24:])
	}
	for _, c := range p {
		all |= uint64(c)
	}
	return all&0x8080808080808080 != 0
}

// maxLine is how many octets a line may have besides its CRLF (RFC 5322
// section 2.1.1).
const maxLine = 998

func (s *factScanner) endLine() {
	n := s.line
	if s.cr {
		n--
	}
	s.facts.LongLine = s.facts.LongLine || n > maxLine
	switch {
	case s.inBody:
	case n <= 0:
		s.inBody = true
	default:
		s.field()
	}
	s.line, s.cr, s.name = 0, false, s.name[:0]
}

func (s *factScanner) field() {
	name, _, ok := bytes.Cut(s.name, []byte(":"))
	if !ok {
		return
	}
	switch string(bytes.ToLower(bytes.TrimRight(name, " \t"))) {
	case "received":
		s.facts.Received = min(s.facts.Received+1, MaxHops+1)
	case "message-id":
		s.facts.HasID = true
	}
}

func (s *factScanner) end() Facts {
	if s.line > 0 {
		s.endLine()
	}
	return s.facts
}

package mail

import (
	"crypto/sha256"
	"hash"
)

// Scanner gathers the Facts of content that is kept elsewhere while it goes
// by. Write never fails. Not safe for concurrent use.
type Scanner struct {
	hash hash.Hash
	scan factScanner
	size int64
}

// NewScanner makes a Scanner that has seen nothing yet.
func NewScanner() *Scanner { return &Scanner{hash: sha256.New()} }

// Write takes the next octets of the content.
func (s *Scanner) Write(p []byte) (int, error) {
	s.hash.Write(p)
	s.scan.write(p)
	s.size += int64(len(p))
	return len(p), nil
}

// Size returns the number of octets seen.
func (s *Scanner) Size() int64 { return s.size }

// BareLineEnd reports whether the content, if it ended here, has a CR or LF
// that is not part of CRLF: what SMTP smuggling is made of, and what cannot go
// further by SMTP (RFC 5321 section 2.3.8).
func (s *Scanner) BareLineEnd() bool { return s.scan.bareLineEnd() }

// BeginsFolded reports whether the content begins with white space: whatever
// field is put before it, as a gateway has to, would be continued by its first
// line (RFC 5322 section 2.2.3).
func (s *Scanner) BeginsFolded() bool { return s.scan.folded }

// Facts returns what was found so far, as if the content ended here; more may
// be written after it.
func (s *Scanner) Facts() Facts {
	scan := s.scan
	scan.name = append([]byte(nil), s.scan.name...)
	f := scan.end()
	f.Size = s.size
	s.hash.Sum(f.SHA256[:0])
	return f
}

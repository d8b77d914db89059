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

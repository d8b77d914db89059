package mail

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// ID names a message: 128 bits in 26 characters of Crockford base32, ordered
// by the time of its making. A delivery is "<ID>.<n>", n counted from 0.
type ID string

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// NewID makes an ID from the wall clock (48 bits of milliseconds) and 80
// random bits. Nothing but the order of listings depends on the clock.
func NewID() ID {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(b[6:])
	return encodeID(b)
}

// DerivedID makes the ID of something that was made at an instant, with what
// nobody else knows of it: the same each time, so that a message which is made
// again after a crash is stored once.
func DerivedID(at time.Time, secret []byte) ID {
	sum := sha256.Sum256(secret)
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(at.UnixMilli())<<16)
	copy(b[6:], sum[:])
	return encodeID(b)
}

// encodeID writes 128 bits as 26 digits: 2 zero bits, then 5 bits a digit.
func encodeID(b [16]byte) ID {
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	var out [26]byte
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = crockford[lo&31]
		lo = lo>>5 | hi<<59
		hi >>= 5
	}
	return ID(out[:])
}

// ParseID checks that s has the form of an ID.
func ParseID(s string) (ID, error) {
	if len(s) != 26 || s[0] > '7' {
		return "", fmt.Errorf("message id %q: want 26 characters of Crockford base32", s)
	}
	for i := range len(s) {
		if !isCrockford(s[i]) {
			return "", fmt.Errorf("message id %q: character %d is not Crockford base32", s, i+1)
		}
	}
	return ID(s), nil
}

func isCrockford(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' && c != 'I' && c != 'L' && c != 'O' && c != 'U'
}

package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// base64Pairs holds the two base64 digits of every 12 bits. Content is most of
// what a stream carries, and by pairs it is encoded in a third of the time that
// the standard library takes.
var base64Pairs = makePairs()

func makePairs() (t [4096][2]byte) {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	for i := range t {
		t[i] = [2]byte{digits[i>>6], digits[i&63]}
	}
	return t
}

// appendBase64 appends the base64 of p (RFC 4648 section 4).
func appendBase64(b, p []byte) []byte {
	whole := len(p) / 6 * 6
	n := len(b)
	b = grown(b, base64.StdEncoding.EncodedLen(len(p)))
	out := b[n:]
	for i := 0; i < whole; i += 6 {
		s, d := p[i:i+6:i+6], out[:8:8]
		hi := uint(s[0])<<16 | uint(s[1])<<8 | uint(s[2])
		lo := uint(s[3])<<16 | uint(s[4])<<8 | uint(s[5])
		*(*[2]byte)(d) = base64Pairs[hi>>12&4095]
		*(*[2]byte)(d[2:]) = base64Pairs[hi&4095]
		*(*[2]byte)(d[4:]) = base64Pairs[lo>>12&4095]
		*(*[2]byte)(d[6:]) = base64Pairs[lo&4095]
		out = out[8:]
	}
	base64.StdEncoding.Encode(out, p[whole:])
	return b
}

// grown lengthens b by n octets whose content does not matter.
func grown(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		b = append(make([]byte, 0, max(len(b)+n, 2*cap(b))), b...)
	}
	return b[:len(b)+n]
}

// base64Values holds the twelve bits of every two base64 digits, by the two
// octets as a little-endian number; notBase64 for anything else.
var base64Values = makeValues()

const notBase64 = 1 << 15

func makeValues() *[1 << 16]uint16 {
	t := new([1 << 16]uint16)
	for i := range t {
		t[i] = notBase64
	}
	for i, pair := range base64Pairs {
		t[binary.LittleEndian.Uint16(pair[:])] = uint16(i)
	}
	return t
}

var errNotBase64 = errors.New("not base64")

// DecodeBase64 appends to b what text stands for (RFC 4648 section 4). White
// space, and stray bits before the padding, are refused (sections 3.3 and
// 3.5), so that one content has one form.
func DecodeBase64(b, text []byte) ([]byte, error) {
	if len(text)%4 != 0 {
		return nil, errNotBase64
	}
	n := len(b)
	b = grown(b, len(text)/4*3)
	out := b[n:]
	for ; len(text) > 8 && len(out) >= 8; text, out = text[8:], out[6:] { // the last digits may be padding
		x := binary.LittleEndian.Uint64(text)
		v0, v1 := base64Values[uint16(x)], base64Values[uint16(x>>16)]
		v2, v3 := base64Values[uint16(x>>32)], base64Values[uint16(x>>48)]
		if (v0|v1|v2|v3)&notBase64 != 0 {
			return nil, errNotBase64
		}
		// Two octets more than count: what follows overwrites them.
		binary.BigEndian.PutUint64(out, uint64(v0)<<52|uint64(v1)<<40|uint64(v2)<<28|uint64(v3)<<16)
	}
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 { // the library skips them
		return nil, errNotBase64
	}
	last, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil {
		return nil, errNotBase64
	}
	return b[:len(b)-len(out)+last], nil
}

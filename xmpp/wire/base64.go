package wire

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// base64Pairs holds the two base64 digits of every 12 bits, the first one in
// the low octet. Content is most of
// what a stream carries, and by pairs it is encoded in a third of the time that
// the standard library takes.
var base64Pairs = makePairs()

func makePairs() *[4096]uint16 {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	t := new([4096]uint16)
	for i := range t {
		t[i] = uint16(digits[i>>6]) | uint16(digits[i&63])<<8
	}
	return t
}

// appendBase64 appends the base64 of p (RFC 4648 section 4).
func appendBase64(b, p []byte) []byte {
	n := len(b)
	b = grown(b, base64.StdEncoding.EncodedLen(len(p)))
	out := b[n:]
	for t := base64Pairs; len(p) >= 32 && len(out) >= 32; p, out = p[24:], out[32:] {
		s, d := p[:32:32], out[:32:32]
		putDigits(t, d, binary.BigEndian.Uint64(s))
		putDigits(t, d[8:], binary.BigEndian.Uint64(s[6:]))
		putDigits(t, d[16:], binary.BigEndian.Uint64(s[12:]))
		putDigits(t, d[24:], binary.BigEndian.Uint64(s[18:]))
	}
	base64.StdEncoding.Encode(out, p)
	return b
}

// putDigits writes the digits of the upper six octets of x.
func putDigits(t *[4096]uint16, d []byte, x uint64) {
	binary.LittleEndian.PutUint64(d, uint64(t[x>>52])|uint64(t[x>>40&4095])<<16|
		uint64(t[x>>28&4095])<<32|uint64(t[x>>16&4095])<<48)
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
		t[pair] = uint16(i)
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
	in, done := decodeDigits(out, text)
	text, out = text[in:], out[done:]
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 { // the library skips them
		return nil, errNotBase64
	}
	last, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil {
		return nil, errNotBase64
	}
	return b[:len(b)-len(out)+last], nil
}

// decodeDigits decodes text up to the first sixteen octets that are not all
// digits, or that there is no room for, and tells how far it came in both. It
// writes up to two octets more than it says. out may begin where text does.
func decodeDigits(out, text []byte) (in, done int) {
	o, s := out, text
	for t := base64Values; len(s) >= 16 && len(o) >= 16; s, o = s[16:], o[12:] {
		x, y := binary.LittleEndian.Uint64(s), binary.LittleEndian.Uint64(s[8:])
		v0, v1 := uint64(t[uint16(x)]), uint64(t[uint16(x>>16)])
		v2, v3 := uint64(t[uint16(x>>32)]), uint64(t[x>>48])
		w0, w1 := uint64(t[uint16(y)]), uint64(t[uint16(y>>16)])
		w2, w3 := uint64(t[uint16(y>>32)]), uint64(t[y>>48])
		if (v0|v1|v2|v3|w0|w1|w2|w3)&notBase64 != 0 {
			break
		}
		binary.BigEndian.PutUint64(o, v0<<52|v1<<40|v2<<28|v3<<16)
		binary.BigEndian.PutUint64(o[6:], w0<<52|w1<<40|w2<<28|w3<<16)
	}
	return len(text) - len(s), len(out) - len(o)
}

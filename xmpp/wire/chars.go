package wire

import (
	"bytes"
	"encoding/binary"
	"strconv"
	"unicode/utf8"
)

// plainRun returns how many octets at the start of b are characters that text
// and attribute values carry as they are: ASCII without controls, "&", "<" and
// "]". Eight octets a step; base64 content goes through here.
func plainRun(b []byte) int {
	const (
		ones  = 0x0101010101010101
		high  = 0x80 * ones
		space = 0x20 * ones
	)
	n := 0
	for ; len(b)-n >= 8; n += 8 {
		x := binary.LittleEndian.Uint64(b[n:])
		// The high bit of an octet says that it is not plain. A borrow can
		// only spoil octets after one that is not plain anyway.
		odd := x | (x - space) | ((x ^ '&'*ones) - ones) | ((x ^ '<'*ones) - ones) | ((x ^ ']'*ones) - ones)
		if odd&high != 0 {
			break
		}
	}
	for n < len(b) && isPlain(b[n]) {
		n++
	}
	return n
}

func isPlain(c byte) bool {
	return c >= ' ' && c < utf8.RuneSelf && c != '&' && c != '<' && c != ']'
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// isChar is the production Char of XML 1.0 section 2.2.
func isChar(r rune) bool {
	return r == '\t' || r == '\n' || r == '\r' || r >= ' ' && r <= 0xD7FF ||
		r >= 0xE000 && r <= 0xFFFD || r >= 0x10000 && r <= 0x10FFFF
}

// decodeChar reads one character beyond ASCII. utf8 refuses overlong forms and
// surrogates.
func decodeChar(b []byte) (rune, int, error) {
	r, size := utf8.DecodeRune(b)
	if r == utf8.RuneError && size <= 1 {
		return 0, 0, refuse(UnsupportedEncoding, "not UTF-8") // RFC 6120 section 11.6
	}
	if !isChar(r) {
		return 0, 0, refuse(NotWellFormed, "character not allowed in XML")
	}
	return r, size, nil
}

// isNameStart and isNameByte are productions 4 and 4a of XML 1.0 for ASCII,
// the colon left out; octets beyond ASCII are judged by checkName.
func isNameStart(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= utf8.RuneSelf
}

func isNameByte(c byte) bool {
	return isNameStart(c) || c >= '0' && c <= '9' || c == '-' || c == '.'
}

// checkName judges the characters beyond ASCII of an NCName.
func checkName(name string) error {
	for i, r := range name {
		if r < utf8.RuneSelf {
			continue
		}
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(name[i:]); size == 1 {
				return refuse(UnsupportedEncoding, "not UTF-8")
			}
		}
		if !isNameStartRune(r) && (i == 0 || !isNameExtraRune(r)) {
			return refuse(NotWellFormed, "character not allowed in a name")
		}
	}
	return nil
}

// isNameStartRune is production 4 of XML 1.0 beyond ASCII.
func isNameStartRune(r rune) bool {
	switch {
	case r >= 0xC0 && r <= 0x2FF:
		return r != 0xD7 && r != 0xF7
	case r >= 0x370 && r <= 0x1FFF:
		return r != 0x37E
	}
	return r == 0x200C || r == 0x200D || r >= 0x2070 && r <= 0x218F || r >= 0x2C00 && r <= 0x2FEF ||
		r >= 0x3001 && r <= 0xD7FF || r >= 0xF900 && r <= 0xFDCF || r >= 0xFDF0 && r <= 0xFFFD ||
		r >= 0x10000 && r <= 0xEFFFF
}

// isNameExtraRune is what production 4a adds beyond ASCII.
func isNameExtraRune(r rune) bool {
	return r == 0xB7 || r >= 0x300 && r <= 0x36F || r == 0x203F || r == 0x2040
}

// maxReference bounds a reference from "&" to ";" in octets.
const maxReference = 16

// cutReference reads the reference at the start of b and returns its
// character and its length; length 0 means that more of the input is needed.
func cutReference(b []byte) (rune, int, error) {
	if len(b) < 2 {
		return 0, 0, nil
	}
	if b[1] != '#' && !isNameStart(b[1]) {
		return 0, 0, refuse(NotWellFormed, "\"&\" that starts no reference")
	}
	end := bytes.IndexByte(b[:min(len(b), maxReference)], ';')
	switch {
	case end < 0 && len(b) < maxReference:
		return 0, 0, nil
	case b[1] != '#':
		// RFC 6120 section 11.1: no entity but the five predefined ones.
		for i, name := range [...]string{"amp", "lt", "gt", "apos", "quot"} {
			if end > 0 && string(b[1:end]) == name {
				return rune("&<>'\""[i]), end + 1, nil
			}
		}
		return 0, 0, refuse(RestrictedXML, "entity reference")
	case end < 0:
		return 0, 0, refuse(NotWellFormed, "character reference without its end")
	}
	digits, base := b[2:end], 10
	if len(digits) > 0 && digits[0] == 'x' {
		digits, base = digits[1:], 16
	}
	n, err := strconv.ParseUint(string(digits), base, 32)
	if err != nil || len(digits) == 0 || n > utf8.MaxRune || !isChar(rune(n)) {
		return 0, 0, refuse(NotWellFormed, "character reference to no character of XML")
	}
	return rune(n), end + 1, nil
}

// unescapeAttr returns the normalised value of an attribute (XML 1.0 section
// 3.3.3) from what stands between its quotes.
func unescapeAttr(raw []byte) (string, error) {
	n := plainRun(raw)
	if n == len(raw) {
		return string(raw), nil
	}
	out := append(make([]byte, 0, len(raw)), raw[:n]...)
	for i := n; i < len(raw); {
		c := raw[i]
		switch {
		case isPlain(c), c == ']':
			out = append(out, c)
			i++
		case isSpace(c):
			// Line ends become one LF first (section 2.11), hence one space.
			if c == '\r' && i+1 < len(raw) && raw[i+1] == '\n' {
				i++
			}
			out = append(out, ' ')
			i++
		case c == '&':
			r, size, err := cutReference(raw[i:])
			if err == nil && size == 0 {
				err = refuse(NotWellFormed, "reference without its end")
			}
			if err != nil {
				return "", err
			}
			out = utf8.AppendRune(out, r)
			i += size
		case c >= utf8.RuneSelf:
			_, size, err := decodeChar(raw[i:])
			if err != nil {
				return "", err
			}
			out = append(out, raw[i:i+size]...)
			i += size
		default:
			return "", refuse(NotWellFormed, "character not allowed in an attribute value")
		}
	}
	return string(out), nil
}

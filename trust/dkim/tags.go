package dkim

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Tags is a tag list (RFC 6376 section 3.2), of signatures and of key records.
type Tags map[string]string

// ParseTags reads a tag list. Names are told apart by case; a name that comes
// twice makes the list invalid.
func ParseTags(s string) (Tags, error) {
	tags := Tags{}
	for spec := range strings.SplitSeq(s, ";") {
		spec = strings.Trim(spec, fws)
		if spec == "" {
			continue
		}
		name, value, ok := strings.Cut(spec, "=")
		name = strings.TrimRight(name, fws)
		switch {
		case !ok:
			return nil, fmt.Errorf("%.20q is not a tag", spec)
		case !isTagName(name):
			return nil, fmt.Errorf("%.20q is not a tag's name", name)
		}
		if _, twice := tags[name]; twice {
			return nil, fmt.Errorf("tag %s= is there twice", name)
		}
		tags[name] = strings.TrimLeft(value, fws)
	}
	if len(tags) == 0 {
		return nil, errors.New("no tags")
	}
	return tags, nil
}

// fws are the characters of folding white space.
const fws = " \t\r\n"

func isTagName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alpha := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alpha && (i == 0 || !(c >= '0' && c <= '9' || c == '_')) {
			return false
		}
	}
	return s != ""
}

// compact returns a value without any white space.
func compact(s string) string {
	if !strings.ContainsAny(s, fws) {
		return s
	}
	return strings.Map(func(c rune) rune {
		if strings.ContainsRune(fws, c) {
			return -1
		}
		return c
	}, s)
}

// list splits a value at its colons.
func list(s string) []string { return strings.Split(compact(s), ":") }

func decode(s string) ([]byte, error) { return base64.StdEncoding.DecodeString(compact(s)) }

// withoutB returns a signature field with the value of its b= tag deleted,
// white space around the value included (RFC 6376 section 3.7).
func withoutB(raw string) string {
	head := strings.IndexByte(raw, ':') + 1
	for at := head; at < len(raw); {
		end := strings.IndexByte(raw[at:], ';')
		if end < 0 {
			end = len(raw)
		} else {
			end += at
		}
		name, _, ok := strings.Cut(raw[at:end], "=")
		if ok && strings.Trim(name, fws) == "b" {
			return raw[:at+len(name)+1] + raw[end:]
		}
		at = end + 1
	}
	return raw
}

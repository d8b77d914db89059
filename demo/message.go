package demo

import (
	"bytes"
	"fmt"
	"os"
	"unicode/utf8"
)

// maxLetter bounds a message, as the gateways' own default limit does.
const maxLetter = 50_000_000

// letter is a message to send: its content as it goes out, octet for octet.
type letter struct {
	source  string // where it is from, as told to the reader
	content []byte
	signed  bool // carries a DKIM signature of the demo's own key
}

// utf8Header reports whether the header holds raw UTF-8, for which a mail
// client would ask for SMTPUTF8 (RFC 6532). Other octets above 127 in a header
// are somebody's mistake that no extension covers: they are sent as they are.
func (l letter) utf8Header() bool {
	header := l.content
	if bytes.HasPrefix(header, []byte("\r\n")) {
		return false
	}
	if i := bytes.Index(header, []byte("\r\n\r\n")); i >= 0 {
		header = header[:i]
	}
	for _, c := range header {
		if c >= utf8.RuneSelf {
			return utf8.Valid(header)
		}
	}
	return false
}

// readLetter reads a message file and gives it the line ends of mail.
func readLetter(file string) (letter, error) {
	info, err := os.Stat(file)
	if err != nil {
		return letter{}, fmt.Errorf("message: %w", err)
	}
	if info.Size() > maxLetter {
		return letter{}, fmt.Errorf("message %s: %d octets, more than the gateways take (%d)", file, info.Size(), maxLetter)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return letter{}, fmt.Errorf("message: %w", err)
	}
	content, err := withCRLF(raw)
	if err != nil {
		return letter{}, fmt.Errorf("message %s: %w", file, err)
	}
	return letter{source: file, content: content}, nil
}

// withCRLF gives content the one line end of mail (RFC 5321 section 2.3.8): a
// file whose lines all end in LF is converted, a last line without an end gets
// one, and whatever mixes line ends is refused, since any conversion would be a
// guess. An empty file becomes one empty line: as with a missing end of the
// last line, that is how DATA carries it.
func withCRLF(raw []byte) ([]byte, error) {
	crlf, lf, line := 0, 0, 1
	for rest := raw; ; line++ {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			break
		}
		switch {
		case rest[i] == '\n':
			lf++
		case i+1 < len(rest) && rest[i+1] == '\n':
			crlf++
			i++
		default:
			return nil, fmt.Errorf("line %d holds a CR without LF", line)
		}
		if crlf > 0 && lf > 0 {
			return nil, fmt.Errorf("mixed line ends: line %d ends otherwise than the lines before it", line)
		}
		rest = rest[i+1:]
	}
	out := raw
	if lf > 0 {
		out = bytes.ReplaceAll(raw, []byte("\n"), []byte("\r\n"))
	}
	if !bytes.HasSuffix(out, []byte("\r\n")) {
		out = append(bytes.Clone(out), "\r\n"...)
	}
	return out, nil
}

package author

import (
	"strings"

	"mailxmppd/mail"
)

// part is a piece of a From value at the top level.
type part struct {
	kind byte   // 't' text, 'q' quoted string, 'a' angle address, or one of , : ;
	text string // unquoted; of an angle address what is between the brackets
}

const (
	maxComments = 8  // nested
	maxPieces   = 64 // of one mailbox with its name: each comma may end it, and has all of them looked at
)

// split takes a value apart; comments go.
func split(s string) ([]part, error) {
	var out []part
	text := func(t string) {
		if n := len(out); n > 0 && out[n-1].kind == 't' {
			out[n-1].text += t
		} else {
			out = append(out, part{'t', t})
		}
	}
	for i := 0; i < len(s); {
		switch c := s[i]; c {
		case '"':
			value, rest, ok := cutQuoted(s[i:])
			if !ok {
				return nil, errForm
			}
			out = append(out, part{'q', value})
			i = len(s) - len(rest)
		case '(':
			n, ok := commentLength(s[i:])
			if !ok {
				return nil, errForm
			}
			text(" ")
			i += n
		case '<':
			n := angleLength(s[i:])
			if n == 0 {
				return nil, errForm
			}
			out = append(out, part{'a', s[i+1 : i+n-1]})
			i += n
		case ',', ':', ';':
			out = append(out, part{kind: c})
			i++
		case '[': // of a domain literal: its colons separate nothing
			n := strings.IndexByte(s[i:], ']') + 1
			if n == 0 {
				return nil, errForm
			}
			text(s[i : i+n])
			i += n
		default:
			end := i + 1
			for end < len(s) && strings.IndexByte(`"(<,:;[`, s[end]) < 0 {
				end++
			}
			text(s[i:end])
			i = end
		}
	}
	return out, nil
}

func cutQuoted(s string) (value, rest string, ok bool) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:], true
		case '\\':
			if i++; i == len(s) {
				return "", "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", "", false
}

func commentLength(s string) (int, bool) {
	depth := 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '(':
			if depth++; depth > maxComments {
				return 0, false
			}
		case ')':
			if depth--; depth == 0 {
				return i + 1, true
			}
		}
	}
	return 0, false
}

// angleLength returns the length of "<...>", quotes within minded; 0 if it does
// not end.
func angleLength(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			_, rest, ok := cutQuoted(s[i:])
			if !ok {
				return 0
			}
			i = len(s) - len(rest) - 1
		case '<':
			return 0
		case '>':
			return i + 1
		}
	}
	return 0
}

// parseList reads mailboxes and groups of them (RFC 6854). Display names may
// hold what they should have quoted, as they do in real mail; an address must
// be as RFC 5322 has it, and stand where no reader could see another one.
func parseList(s string) ([]Author, error) {
	parts, err := split(s)
	if err != nil {
		return nil, err
	}
	var out []Author
	var pending []part // of the mailbox in hand
	group := false
	end := func() error {
		a, ok, err := mailbox(pending)
		if ok {
			out = append(out, a)
			pending = nil
		}
		return err
	}
	for _, p := range parts {
		switch p.kind {
		case ',':
			if err := end(); err != nil {
				return nil, err
			}
		case ':':
			if group || hasAngle(pending) || strings.ContainsRune(join(pending), '@') {
				return nil, errForm
			}
			group, pending = true, nil
		case ';':
			if !group {
				return nil, errForm
			}
			if err := end(); err != nil {
				return nil, err
			}
			group = false
			if strings.TrimSpace(join(pending)) != "" {
				return nil, errForm
			}
			pending = nil
		default:
			if len(pending) == maxPieces || len(out) > maxAuthors {
				return nil, errForm
			}
			pending = append(pending, p)
		}
	}
	if group {
		return nil, errForm
	}
	if err := end(); err != nil {
		return nil, err
	}
	// A name that no address followed: some reader may see one in it.
	if strings.TrimSpace(join(pending)) != "" {
		return nil, errForm
	}
	return out, nil
}

func hasAngle(parts []part) bool {
	for _, p := range parts {
		if p.kind == 'a' {
			return true
		}
	}
	return false
}

func join(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.text)
	}
	return b.String()
}

// mailbox reads one mailbox; ok is false where there is none yet: "Doe, John
// <j@example.org>" has a comma that its writer forgot to quote, and the first
// half then belongs to the name.
func mailbox(parts []part) (a Author, ok bool, err error) {
	for i, p := range parts {
		if p.kind != 'a' {
			continue
		}
		if strings.TrimSpace(join(parts[i+1:])) != "" || hasAngle(parts[i+1:]) {
			return Author{}, false, errForm
		}
		if a.Address, err = mail.ParseAddress(strings.TrimSpace(p.text)); err != nil || a.Address.Domain == "" {
			return Author{}, false, errForm
		}
		a.Display = decodeWords(strings.TrimSpace(join(parts[:i])))
		return a, true, nil
	}
	bare := strings.TrimSpace(raw(parts))
	if !strings.Contains(bare, "@") {
		return Author{}, false, nil
	}
	if a.Address, err = mail.ParseAddress(bare); err != nil || a.Address.Domain == "" {
		return Author{}, false, errForm
	}
	return a, true, nil
}

// raw puts a bare address together again, its quotes included.
func raw(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		if p.kind == 'q' {
			b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(p.text) + `"`)
		} else {
			b.WriteString(p.text)
		}
	}
	return b.String()
}

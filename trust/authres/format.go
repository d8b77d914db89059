package authres

import (
	"strings"
	"unicode/utf8"
)

const (
	// maxValue bounds a value of a property: the longest address that there is.
	maxValue = 320
	// maxText bounds a reason or a comment.
	maxText = 200
	// lineLength is where a line is folded (RFC 5322 section 2.1.1 wants 78),
	// if it can be.
	lineLength = 76
)

// Format writes a whole Authentication-Results field, folded and with its
// final CRLF, in the name of a host (RFC 8601 section 2.2). Without methods it
// says "none".
func Format(authservID string, methods []Method) string {
	return "Authentication-Results: " + FormatValue(len("Authentication-Results: "), authservID, methods) + "\r\n"
}

// FormatValue writes what follows the field's name, for a first line of which
// used columns are taken: ARC-Authentication-Results (RFC 8617 section 4.1.1)
// puts its instance before it.
func FormatValue(used int, authservID string, methods []Method) string {
	f := folder{column: used}
	f.word(quoteValue(authservID))
	if len(methods) == 0 {
		f.glue(";")
		f.word("none")
	}
	for _, m := range methods {
		f.glue(";")
		f.newLine()
		f.word(keyword(m.Name) + "=" + keyword(string(m.Result)))
		if m.Comment != "" {
			f.word("(" + comment(m.Comment) + ")")
		}
		if m.Reason != "" {
			f.word(`reason=` + quoteText(m.Reason))
		}
		for _, p := range m.Props {
			if p.Value != "" {
				f.word(keyword(p.Type) + "." + keyword(p.Name) + "=" + quoteValue(p.Value))
			}
		}
	}
	return f.b.String()
}

// folder puts words on lines.
type folder struct {
	b      strings.Builder
	column int
	start  bool // at the start of a continuation line
}

func (f *folder) glue(s string) {
	f.b.WriteString(s)
	f.column += len(s)
}

func (f *folder) newLine() {
	f.b.WriteString("\r\n\t")
	f.column, f.start = 8, true
}

func (f *folder) word(s string) {
	switch {
	case f.b.Len() == 0 || f.start:
	case f.column+1+len(s) > lineLength:
		f.newLine()
	default:
		f.glue(" ")
	}
	f.start = false
	f.glue(s)
}

// keyword keeps the characters of a Keyword (RFC 5321 section 4.1.2).
func keyword(s string) string {
	s = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			return c
		}
		return -1
	}, s)
	if s == "" {
		return "x"
	}
	return s
}

// quoteValue writes a pvalue (RFC 8601 section 2.2): bare where it is a plain
// word, address or domain name, which is all that many readers understand, and
// a quoted string otherwise.
func quoteValue(s string) string {
	if s == "" || len(s) > maxValue || !isPlain(s) {
		return quoted(clip(s, maxValue))
	}
	return s
}

// isPlain: the characters of a local part without quoting, of a domain, and
// "@", at most once.
func isPlain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-/^_`{|}~.@", c) >= 0) {
			return false
		}
	}
	return strings.Count(s, "@") <= 1
}

func quoteText(s string) string { return quoted(clip(s, maxText)) }

// quoted writes a quoted string on one line. What cannot stand in one becomes
// "?": a CR, LF or NUL would make it another field.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range printable(s) {
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	b.WriteByte('"')
	return b.String()
}

// comment returns text that stays within a comment's parentheses.
func comment(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '(' || c == ')' || c == '\\' || c == '"' {
			return '\''
		}
		return c
	}, printable(clip(s, maxText)))
}

// printable is ASCII only: whether a reader takes UTF-8 in a header is not
// known here (RFC 6532 section 3.2 allows it to some).
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, s)
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

package transfer

import (
	"slices"
	"strconv"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// A reader takes a request apart and keeps the first thing wrong with it.
// Requests are read strictly: an attribute or element of ours that we do not
// know may change the meaning (xep-draft section 5).
type reader struct{ err *mail.Failure }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = mail.Failf(mail.Malformed, format, args...)
	}
}

// only refuses attributes without a namespace, and children in ours, that are
// not among the given ones.
func (r *reader) only(e *wire.Element, attrs string, children ...string) {
	for _, a := range e.Attrs {
		if a.Name.Space == "" && !among(attrs, a.Name.Local) {
			r.fail("%s: unknown attribute %s", e.Name.Local, a.Name.Local)
		}
	}
	for _, c := range e.Children {
		if c.Name.Space == Namespace && !slices.Contains(children, c.Name.Local) {
			r.fail("%s: unknown element %s", e.Name.Local, c.Name.Local)
		}
	}
}

// among reports whether word is one of those in a list with spaces between.
func among(list, word string) bool {
	for more := true; more; {
		var known string
		if known, list, more = strings.Cut(list, " "); known == word {
			return true
		}
	}
	return false
}

// one returns the only child of that name, nil if there is none.
func (r *reader) one(e *wire.Element, local string) *wire.Element {
	var found *wire.Element
	for _, c := range e.Children {
		if c.Is(Namespace, local) {
			if found != nil {
				r.fail("%s: more than one %s", e.Name.Local, local)
			}
			found = c
		}
	}
	return found
}

// tid reads the transfer id (xep-draft section 5.1).
func (r *reader) tid(e *wire.Element) string {
	tid := e.Attr("tid")
	if !validTID(tid) {
		r.fail("%s: tid is not 64 lower-case hexadecimal digits", e.Name.Local)
	}
	return tid
}

func validTID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

// count reads a required number that is not negative.
func (r *reader) count(e *wire.Element, attr string) int64 {
	n, ok := parseCount(e.Attr(attr))
	if !ok {
		r.fail("%s: %s is not a number", e.Name.Local, attr)
	}
	return n
}

// parseCount reads 1 to 18 digits, so that no sum of two overflows.
func parseCount(s string) (int64, bool) {
	if len(s) == 0 || len(s) > 18 || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// flag reads an optional xs:boolean.
func (r *reader) flag(e *wire.Element, attr string) bool {
	switch e.Attr(attr) {
	case "true", "1":
		return true
	case "false", "0":
		return false
	case "":
		if !e.HasAttr(attr) {
			return false
		}
	}
	r.fail("%s: %s is neither true nor false", e.Name.Local, attr)
	return false
}

// word reads an optional attribute with one of the given values.
func (r *reader) word(e *wire.Element, attr string, words ...string) string {
	v := e.Attr(attr)
	if e.HasAttr(attr) && !slices.Contains(words, v) {
		r.fail("%s: %s is none of %s", e.Name.Local, attr, strings.Join(words, ", "))
	}
	return v
}

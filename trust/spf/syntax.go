package spf

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
)

var errSyntax = errors.New("a term is malformed")

// checkSyntax finds errors anywhere in a record, as RFC 7208 section 4.6 wants:
// the library stops at the first term that matches, and is lenient about the
// rest.
func checkSyntax(record string) error {
	terms := strings.Split(record, " ")
	seen := map[string]bool{}
	for _, term := range terms[1:] { // the first is the version
		if term == "" {
			continue
		}
		for i := range len(term) {
			if term[i] <= ' ' || term[i] > '~' {
				return errSyntax
			}
		}
		name, value, modifier := cutModifier(term)
		if !modifier {
			if !isMechanism(term) {
				return errSyntax
			}
			continue
		}
		switch name = strings.ToLower(name); name {
		case "redirect", "exp": // RFC 7208 section 6: each at most once
			if seen[name] || !isDomainSpec(value) {
				return errSyntax
			}
			seen[name] = true
		default:
			if !isMacroString(value, true) {
				return errSyntax
			}
		}
	}
	return nil
}

// cutModifier splits "name=value"; anything else is a mechanism.
func cutModifier(term string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(term, "=")
	if !ok || name == "" || !isAlpha(name[0]) {
		return "", "", false
	}
	for i := range len(name) {
		if !isAlpha(name[i]) && !isDigit(name[i]) && strings.IndexByte("-_.", name[i]) < 0 {
			return "", "", false
		}
	}
	return name, value, true
}

// isMechanism: RFC 7208 section 12.
func isMechanism(term string) bool {
	if strings.IndexByte("+-?~", term[0]) >= 0 {
		term = term[1:]
	}
	end := strings.IndexAny(term, ":/")
	if end < 0 {
		end = len(term)
	}
	rest := term[end:]
	spec, colon := strings.CutPrefix(rest, ":")
	switch strings.ToLower(term[:end]) {
	case "all":
		return rest == ""
	case "include", "exists":
		return colon && isDomainSpec(spec)
	case "ptr":
		return rest == "" || colon && isDomainSpec(spec)
	case "a", "mx":
		spec, rest = cutPrefixLengths(rest)
		if rest != "" {
			return false
		}
		return spec == "" || strings.HasPrefix(spec, ":") && isDomainSpec(spec[1:])
	case "ip4", "ip6":
		return colon && isNetwork(spec, strings.EqualFold(term[:end], "ip6"))
	}
	return false
}

// cutPrefixLengths takes "/24", "//64" or both from the end; bad is what is
// wrong with them.
func cutPrefixLengths(s string) (spec, bad string) {
	if head, v6, ok := strings.Cut(s, "//"); ok {
		if !isLength(v6, 128) {
			return "", s
		}
		s = head
	}
	// A domain-spec may hold a slash, within a macro or before its last label:
	// only one that digits follow to the end is a length.
	if at := strings.LastIndexByte(s, '/'); at >= 0 && !strings.ContainsAny(s[at:], "}.") {
		if !isLength(s[at+1:], 32) {
			return "", s
		}
		s = s[:at]
	}
	return s, ""
}

// isLength: decimal, without leading zeroes.
func isLength(s string, limit int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 0 && n <= limit && strconv.Itoa(n) == s
}

func isNetwork(s string, v6 bool) bool {
	limit := 32
	if v6 {
		limit = 128
	}
	s, length, ok := strings.Cut(s, "/")
	if ok && !isLength(length, limit) {
		return false
	}
	ip, err := netip.ParseAddr(s)
	return err == nil && ip.Zone() == "" && ip.Is4() == !v6
}

// isDomainSpec: a macro-string that ends in a macro, or in a dot and a top
// label, which is not all digits (RFC 7208 section 7.1).
func isDomainSpec(s string) bool {
	if s == "" || !isMacroString(s, false) {
		return false
	}
	if strings.HasSuffix(s, "}") {
		return true
	}
	s = strings.TrimSuffix(s, ".")
	dot := strings.LastIndexByte(s, '.')
	if dot < 0 {
		return false
	}
	top := s[dot+1:]
	if top == "" || top[0] == '-' || top[len(top)-1] == '-' {
		return false
	}
	digits := true
	for i := range len(top) {
		if !isAlpha(top[i]) && !isDigit(top[i]) && top[i] != '-' {
			return false
		}
		digits = digits && isDigit(top[i])
	}
	return !digits
}

// isMacroString: RFC 7208 section 7.1. The letters c, r and t are not for
// domains (section 7.2).
func isMacroString(s string, text bool) bool {
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		if i++; i == len(s) {
			return false
		}
		switch s[i] {
		case '%', '_', '-':
			continue
		case '{':
		default:
			return false
		}
		end := strings.IndexByte(s[i:], '}')
		if end < 0 || !isMacro(s[i+1:i+end], text) {
			return false
		}
		i += end
	}
	return true
}

func isMacro(m string, text bool) bool {
	letters := "slodiphv"
	if text {
		letters += "crt"
	}
	if m == "" || strings.IndexByte(letters, m[0]|0x20) < 0 {
		return false
	}
	m = m[1:]
	digits := len(m) - len(strings.TrimLeft(m, "0123456789"))
	if digits > 0 && (digits > 3 || strings.Trim(m[:digits], "0") == "") {
		return false
	}
	m = m[digits:]
	if m != "" && m[0]|0x20 == 'r' {
		m = m[1:]
	}
	return strings.Trim(m, ".-+,/_=") == ""
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

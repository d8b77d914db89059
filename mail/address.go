package mail

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Limits of RFC 5321 section 4.5.3.1, in octets.
const (
	maxLocalPart = 64
	maxDomain    = 255
	maxPath      = 254
)

// Address is a mailbox of an envelope (RFC 5321 section 4.1.2). The zero
// value is the null reverse-path. "postmaster" without a domain (RFC 5321
// section 4.5.1) has Local set and Domain empty.
type Address struct {
	Local  string // unquoted: the semantic value, may hold any printable character, UTF-8 under SMTPUTF8
	Domain string // lower-case A-labels without trailing dot, or an address literal "[192.0.2.1]"
}

// IsNull reports whether a is the null reverse-path "<>".
func (a Address) IsNull() bool { return a == Address{} }

// IsASCII reports whether a can be sent without SMTPUTF8.
func (a Address) IsASCII() bool { return isASCII(a.Local) }

// String returns the address as RFC 5321 writes it, the local part quoted
// where it must be; "" for the null path.
func (a Address) String() string {
	if a.IsNull() {
		return ""
	}
	local := a.Local
	if !isDotString(local) {
		local = quote(local)
	}
	if a.Domain == "" {
		return local
	}
	return local + "@" + a.Domain
}

// Path returns the address in angle brackets, "<>" for the null path.
func (a Address) Path() string { return "<" + a.String() + ">" }

// MarshalText and UnmarshalText make an Address its String form in JSON.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is the inverse of MarshalText; "" is the null path.
func (a *Address) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*a = Address{}
		return nil
	}
	parsed, err := ParseAddress(string(b))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}

// ParseAddress reads a Mailbox of RFC 5321 section 4.1.2 (with RFC 6531's
// UTF-8), or "postmaster" alone, without angle brackets. It takes nothing
// around the mailbox, no source route, no control character in any form and
// no local part or domain beyond the limits of RFC 5321 section 4.5.3.1.
// Whether a non-ASCII address is allowed is the caller's to ask (IsASCII).
func ParseAddress(s string) (Address, error) {
	a, rest, err := CutAddress(s)
	if err != nil {
		return Address{}, err
	}
	if rest != "" {
		return Address{}, fmt.Errorf("address %q: unexpected text after the mailbox", clip(s))
	}
	return a, nil
}

// CutAddress reads a mailbox at the start of s and returns what follows it:
// the first character that cannot belong to the mailbox and all after it.
func CutAddress(s string) (a Address, rest string, err error) {
	fail := func(why string) (Address, string, error) {
		return Address{}, "", fmt.Errorf("address %q: %s", clip(s), why)
	}
	local, rest, err := cutLocalPart(s)
	if err != nil {
		return fail(err.Error())
	}
	if len(local) > maxLocalPart {
		return fail("local part longer than 64 octets")
	}
	if !strings.HasPrefix(rest, "@") {
		if strings.EqualFold(local, "postmaster") {
			return Address{Local: local}, rest, nil
		}
		return fail("no domain")
	}
	rest = rest[1:]
	end := strings.IndexAny(rest, "> \t,")
	if end < 0 {
		end = len(rest)
	}
	domain, err := ParseDomain(rest[:end])
	if err != nil {
		return fail(err.Error())
	}
	a = Address{Local: local, Domain: domain}
	if len(a.String()) > maxPath {
		return fail("longer than 254 octets")
	}
	return a, rest[end:], nil
}

// cutLocalPart reads a Dot-string or Quoted-string and returns its unquoted
// value.
func cutLocalPart(s string) (local, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		end := 0
		for end < len(s) && (isAtext(s[end]) || s[end] == '.') {
			end++
		}
		local, rest = s[:end], s[end:]
		switch {
		case local == "":
			return "", "", errors.New("no local part")
		case !utf8.ValidString(local):
			return "", "", errors.New("local part is not valid UTF-8")
		case !isDotString(local):
			return "", "", errors.New("misplaced dot in the local part")
		}
		return local, rest, noHiddenControls(local)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			if b.Len() == 0 {
				return "", "", errors.New("empty local part")
			}
			if local = b.String(); !utf8.ValidString(local) {
				return "", "", errors.New("local part is not valid UTF-8")
			}
			return local, s[i+1:], noHiddenControls(local)
		case c == '\\' && i+1 < len(s):
			i++
			c = s[i]
		}
		if c < ' ' || c == 0x7f {
			return "", "", errors.New("control character in the local part")
		}
		b.WriteByte(c)
	}
	return "", "", errors.New("quoted local part without its closing quote")
}

// noHiddenControls refuses C1 controls and line separators, which some
// programs behind us would take for line ends.
func noHiddenControls(s string) error {
	for _, r := range s {
		if r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return errors.New("control character in the local part")
		}
	}
	return nil
}

// ParseDomain reads a domain name, U-labels or A-labels, or an address
// literal, and returns it in the one form that domains are compared in:
// lower-case A-labels without a trailing dot (RFC 5890 section 2.3.2.1).
func ParseDomain(s string) (string, error) {
	if strings.HasPrefix(s, "[") {
		return parseLiteral(s)
	}
	switch {
	case s == "":
		return "", errors.New("empty domain")
	case len(s) > 4*maxDomain:
		return "", errors.New("domain longer than 255 octets")
	}
	d := strings.ToLower(s)
	if !isASCII(s) {
		var err error
		if d, err = idna.Lookup.ToASCII(s); err != nil {
			return "", fmt.Errorf("domain %q: not an internationalised domain name (RFC 5891)", clip(s))
		}
	}
	if len(d) > maxDomain {
		return "", errors.New("domain longer than 255 octets")
	}
	for label := range strings.SplitSeq(d, ".") {
		if why := badLabel(label); why != "" {
			return "", fmt.Errorf("domain %q: %s", clip(s), why)
		}
	}
	return d, nil
}

func badLabel(l string) string {
	switch {
	case l == "":
		return "empty label"
	case len(l) > 63:
		return "label longer than 63 octets"
	case l[0] == '-' || l[len(l)-1] == '-':
		return "label begins or ends with a hyphen"
	}
	for i := range len(l) {
		if c := l[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return fmt.Sprintf("character %q", c)
		}
	}
	return ""
}

// parseLiteral reads "[192.0.2.1]" or "[IPv6:2001:db8::1]" (RFC 5321 section
// 4.1.3).
func parseLiteral(s string) (string, error) {
	if !strings.HasSuffix(s, "]") {
		return "", errors.New("address literal without its closing bracket")
	}
	in := s[1 : len(s)-1]
	if v6, ok := cutFoldedPrefix(in, "IPv6:"); ok {
		if ip, err := netip.ParseAddr(v6); err == nil && ip.Is6() && ip.Zone() == "" {
			return "[IPv6:" + ip.String() + "]", nil
		}
	} else if ip, err := netip.ParseAddr(in); err == nil && ip.Is4() {
		return "[" + ip.String() + "]", nil
	}
	return "", fmt.Errorf("address literal %q: not an IP address", clip(s))
}

// IsLiteral reports whether a domain in ParseDomain's form is an address
// literal.
func IsLiteral(domain string) bool { return strings.HasPrefix(domain, "[") }

// UnicodeDomain returns a domain in ParseDomain's form with its U-labels, as
// XMPP writes it (RFC 7622 section 3.2).
func UnicodeDomain(domain string) string {
	if !strings.Contains(domain, "xn--") {
		return domain
	}
	u, err := idna.Lookup.ToUnicode(domain)
	if err != nil {
		return domain
	}
	return u
}

func isDotString(s string) bool {
	if s == "" || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if !isAtext(s[i]) && s[i] != '.' {
			return false
		}
	}
	return true
}

// isAtext: RFC 5322 section 3.2.3, and any octet of UTF-8 (RFC 6531 section
// 3.3).
func isAtext(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c >= 0x80 ||
		strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if s[i] == '"' || s[i] == '\\' {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	b.WriteByte('"')
	return b.String()
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

func cutFoldedPrefix(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix) {
		return s[len(prefix):], true
	}
	return s, false
}

// clip bounds what an error repeats of its input.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}

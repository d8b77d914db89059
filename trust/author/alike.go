package author

import (
	"strings"
	"unicode"

	"mailxmppd/mail"
)

// mixedScripts reports whether a label of a domain mixes letters of Latin,
// Greek and Cyrillic, which are those that look the same.
func mixedScripts(domain string) bool {
	for label := range strings.SplitSeq(mail.UnicodeDomain(domain), ".") {
		scripts := map[*unicode.RangeTable]bool{}
		for _, c := range label {
			for _, script := range []*unicode.RangeTable{unicode.Latin, unicode.Greek, unicode.Cyrillic} {
				if unicode.Is(script, c) {
					scripts[script] = true
				}
			}
		}
		if len(scripts) > 1 {
			return true
		}
	}
	return false
}

// likeKnown returns the known domain that a reader could take domain for: one
// that differs only in characters that look the same, or one that stands in
// front of it ("example.org.login.example").
func likeKnown(domain string, known []string) string {
	mine := skeleton(domain)
	for _, k := range known {
		switch {
		case domain == k || strings.HasSuffix(domain, "."+k):
			return "" // it is the known one, or its child
		}
	}
	for _, k := range known {
		if mine == skeleton(k) || strings.HasPrefix(domain, k+".") {
			return k
		}
	}
	return ""
}

// skeleton maps a domain to a form in which those that look the same are the
// same; it means nothing by itself.
func skeleton(domain string) string {
	s := strings.Map(func(c rune) rune {
		if like, ok := alike[c]; ok {
			return like
		}
		return c
	}, strings.ToLower(mail.UnicodeDomain(domain)))
	return pairs.Replace(s)
}

var pairs = strings.NewReplacer("rn", "m", "vv", "w", "cl", "d")

// alike are the letters of other scripts, and the digits, that are drawn like
// a Latin letter or nearly so.
var alike = map[rune]rune{
	'0': 'o', '1': 'l', 'i': 'l', '3': 'e', '5': 's',
	'а': 'a', 'в': 'b', 'с': 'c', 'ԁ': 'd', 'е': 'e', 'һ': 'h', 'і': 'l', 'ј': 'j', 'ӏ': 'l', 'к': 'k', 'м': 'm',
	'о': 'o', 'р': 'p', 'ԛ': 'q', 'ѕ': 's', 'т': 't', 'ԝ': 'w', 'х': 'x', 'у': 'y', 'н': 'h', 'г': 'r', 'ѵ': 'v',
	'α': 'a', 'ε': 'e', 'ι': 'l', 'κ': 'k', 'ν': 'v', 'ο': 'o', 'ρ': 'p', 'τ': 't', 'υ': 'u', 'χ': 'x', 'ϲ': 'c', 'ϳ': 'j',
	'à': 'a', 'á': 'a', 'â': 'a', 'ã': 'a', 'ä': 'a', 'å': 'a', 'ā': 'a', 'ą': 'a', 'ạ': 'a', 'ç': 'c', 'ć': 'c', 'č': 'c',
	'è': 'e', 'é': 'e', 'ê': 'e', 'ë': 'e', 'ē': 'e', 'ę': 'e', 'ẹ': 'e', 'ì': 'l', 'í': 'l', 'î': 'l', 'ï': 'l', 'ı': 'l',
	'ḷ': 'l', 'ł': 'l', 'ñ': 'n', 'ń': 'n', 'ņ': 'n', 'ò': 'o', 'ó': 'o', 'ô': 'o', 'õ': 'o', 'ö': 'o', 'ø': 'o', 'ọ': 'o',
	'ś': 's', 'ş': 's', 'š': 's', 'ţ': 't', 'ù': 'u', 'ú': 'u', 'û': 'u', 'ü': 'u', 'ū': 'u', 'ụ': 'u', 'ý': 'y', 'ÿ': 'y',
	'ź': 'z', 'ż': 'z', 'ž': 'z', 'ğ': 'g', 'ɡ': 'g', 'ķ': 'k', 'ɑ': 'a', 'đ': 'd',
}

package dns

import (
	"strings"

	mdns "github.com/miekg/dns"
)

// maxName is what a name of 255 octets on the wire (RFC 1035 section 2.3.4) has
// in text, its final dot included.
const maxName = 254

// queryName returns name as the fully qualified lower-case name to ask for;
// ok is false for a name that DNS cannot hold (RFC 1035 section 2.3.4), among
// them names with octets outside ASCII: callers pass A-labels.
func queryName(name string) (fqdn string, ok bool) {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' || name[i] == '\\' {
			return "", false
		}
	}
	fqdn = mdns.Fqdn(strings.ToLower(name))
	_, ok = mdns.IsDomainName(fqdn)
	// The library lets two octets too many pass. No server reads such a question,
	// and whoever chooses the name, as the selector of a signature, would choose
	// that the answer is a failure that may pass.
	return fqdn, ok && name != "" && len(fqdn) <= maxName
}

// hostName returns a target from an answer as callers get it. Targets go into
// logs, TLS names and further queries, so only the characters of host names
// (and the underscore that some use) pass.
func hostName(target string) (string, bool) {
	if target == "." {
		return target, true
	}
	host := strings.ToLower(strings.TrimSuffix(target, "."))
	for i := range len(host) {
		if c := host[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return "", false
		}
	}
	return host, host != ""
}

// unescape turns the presentation form of a character string, in which the
// DNS library hands texts over, back into its octets (RFC 1035 section 5.1).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if code, ok := decimalOctet(s[i+1:]); ok {
			b.WriteByte(code)
			i += 3
			continue
		}
		i++
		b.WriteByte(s[i])
	}
	return b.String()
}

// decimalOctet reads the three digits of a \DDD escape.
func decimalOctet(s string) (byte, bool) {
	if len(s) < 3 {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s[:3]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int(c-'0')
	}
	return byte(n), n <= 255
}

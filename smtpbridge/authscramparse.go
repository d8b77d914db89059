package smtpbridge

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// gs2Header is what precedes the message of a mechanism that came from GSS-API
// (RFC 5801 section 4).
type gs2Header struct {
	flag    byte   // 'n' no binding, 'y' would bind, 'p' binds
	binding string // with 'p': its kind
	as      string // authorization identity, decoded
	rest    string // what follows
}

func parseGS2(s string) (gs2Header, bool) {
	flag, s, ok1 := strings.Cut(s, ",")
	as, rest, ok2 := strings.Cut(s, ",")
	if !ok1 || !ok2 {
		return gs2Header{}, false
	}
	h := gs2Header{rest: rest}
	if kind, ok := strings.CutPrefix(flag, "p="); ok && isBindingName(kind) {
		h.flag, h.binding = 'p', kind
	} else if flag == "n" || flag == "y" {
		h.flag = flag[0]
	} else {
		return gs2Header{}, false
	}
	if as == "" {
		return h, true
	}
	name, ok := strings.CutPrefix(as, "a=")
	if ok {
		h.as, ok = decodeSaslName(name)
	}
	return h, ok
}

func isBindingName(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") == ""
}

// decodeSaslName: "," and "=" in names are "=2C" and "=3D" (RFC 5802 section
// 5.1), and no other "=" occurs.
func decodeSaslName(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '=' {
			b.WriteByte(s[i])
			continue
		}
		switch {
		case strings.HasPrefix(s[i:], "=2C"):
			b.WriteByte(',')
		case strings.HasPrefix(s[i:], "=3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		i += 2
	}
	return b.String(), validUserName(b.String())
}

// scramFirst is client-first-message (RFC 5802 section 7).
type scramFirst struct {
	gs2    gs2Header
	header string // the GS2 header as sent
	bare   string // what follows it
	user   string
	nonce  string
}

// maxNonce bounds a client's nonce; real ones have some 30 characters.
const maxNonce = 256

func parseScramFirst(message string) (f scramFirst, ok bool) {
	if f.gs2, ok = parseGS2(message); !ok {
		return scramFirst{}, false
	}
	f.bare = f.gs2.rest
	f.header = message[:len(message)-len(f.bare)]
	// Extensions after the nonce are to be ignored; "m=" before the name is one
	// that must not be (section 5.1).
	parts := strings.Split(f.bare, ",")
	if len(parts) < 2 {
		return scramFirst{}, false
	}
	name, ok1 := strings.CutPrefix(parts[0], "n=")
	nonce, ok2 := strings.CutPrefix(parts[1], "r=")
	if !ok1 || !ok2 || !isNonce(nonce) || len(nonce) > maxNonce {
		return scramFirst{}, false
	}
	f.nonce = nonce
	f.user, ok = decodeSaslName(name)
	if f.gs2.as != "" && f.gs2.as != f.user { // nobody acts as somebody else
		return scramFirst{}, false
	}
	return f, ok
}

// isNonce: printable ASCII without comma.
func isNonce(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == ',' {
			return false
		}
	}
	return s != ""
}

// scramFinal is client-final-message.
type scramFinal struct {
	binding      []byte // GS2 header and channel binding
	nonce        string
	proof        [sha256.Size]byte
	withoutProof string
}

func parseScramFinal(message string) (f scramFinal, ok bool) {
	at := strings.LastIndex(message, ",p=")
	if at < 0 {
		return scramFinal{}, false
	}
	f.withoutProof = message[:at]
	proof, err := base64.StdEncoding.Strict().DecodeString(message[at+len(",p="):])
	if err != nil || copy(f.proof[:], proof) != len(f.proof) || len(proof) != len(f.proof) {
		return scramFinal{}, false
	}
	parts := strings.Split(f.withoutProof, ",")
	if len(parts) < 2 {
		return scramFinal{}, false
	}
	binding, ok1 := strings.CutPrefix(parts[0], "c=")
	nonce, ok2 := strings.CutPrefix(parts[1], "r=")
	if f.binding, err = base64.StdEncoding.Strict().DecodeString(binding); err != nil {
		return scramFinal{}, false
	}
	f.nonce = nonce
	return f, ok1 && ok2
}

package smtpbridge

import (
	"strconv"
	"strings"
	"unicode"

	"mailxmppd/mail"
)

// param is one parameter of MAIL or RCPT (RFC 5321 section 4.1.2,
// esmtp-param).
type param struct {
	name  string // upper case
	value string
	set   bool // there was a "=", the value is not empty
}

// parseParams reads what follows a path: nothing, or parameters, each after
// spaces.
func parseParams(s string) ([]param, *serverReply) {
	var out []param
	for word := range strings.SplitSeq(s, " ") {
		if word == "" {
			continue
		}
		name, value, set := strings.Cut(word, "=")
		p := param{name: strings.ToUpper(name), value: value, set: set}
		if !isKeyword(p.name) || set && !isParamValue(value) {
			return nil, &serverReply{501, "5.5.4", "malformed parameter"}
		}
		for _, other := range out {
			if other.name == p.name {
				return nil, &serverReply{501, "5.5.4", "parameter " + p.name + " is there twice"}
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// isKeyword: esmtp-keyword, already in upper case.
func isKeyword(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return s != ""
}

// isParamValue: esmtp-value, with the UTF-8 of RFC 6531 section 3.3.
func isParamValue(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == '=' || s[i] == 0x7f {
			return false
		}
	}
	return s != ""
}

// mailParams puts the parameters of MAIL into the envelope. An extension's
// parameter is one more case, and taken only where the extension is offered.
func mailParams(env *mail.Envelope, params []param, offered offers) *serverReply {
	for _, p := range params {
		var refusal *serverReply
		switch p.name {
		case "SIZE":
			refusal = sizeParam(p, offered.maxSize)
		case "BODY":
			env.Body, refusal = bodyParam(p, offered.BinaryMIME)
		case "SMTPUTF8":
			env.SMTPUTF8 = true
			if p.set {
				refusal = badParam(p)
			}
		case "RET":
			env.Return = strings.ToUpper(p.value)
			if env.Return != "FULL" && env.Return != "HDRS" {
				refusal = badParam(p)
			}
		case "ENVID":
			env.EnvelopeID, refusal = textParam(p, maxEnvelopeID)
		case "REQUIRETLS", "MT-PRIORITY", "BY", "AUTH":
			refusal = offered.param(env, p)
		default:
			refusal = unknownParam(p)
		}
		if refusal != nil {
			return refusal
		}
	}
	return nil
}

// rcptParams puts the parameters of RCPT into the recipient.
func rcptParams(r *mail.Recipient, params []param, utf8 bool) *serverReply {
	for _, p := range params {
		var refusal *serverReply
		switch p.name {
		case "NOTIFY":
			n, ok := mail.ParseNotify(strings.Split(strings.ToUpper(p.value), ","))
			if r.Notify = n; !ok {
				refusal = badParam(p)
			}
		case "ORCPT":
			r.Original, refusal = originalParam(p, utf8)
		default:
			refusal = unknownParam(p)
		}
		if refusal != nil {
			return refusal
		}
	}
	return nil
}

// badParam and unknownParam: RFC 5321 section 4.1.1.11 and 4.2.4.
func badParam(p param) *serverReply {
	return &serverReply{501, "5.5.4", "bad value of parameter " + p.name}
}

func unknownParam(p param) *serverReply {
	return &serverReply{555, "5.5.4", "parameter " + plainText(p.name) + " is not supported"}
}

// sizeParam: RFC 1870 section 6.1, up to 20 digits; what does not fit 64 bits
// is certainly beyond the limit.
func sizeParam(p param, limit int64) *serverReply {
	if len(p.value) == 0 || len(p.value) > 20 || strings.Trim(p.value, "0123456789") != "" {
		return badParam(p)
	}
	n, err := strconv.ParseInt(p.value, 10, 64)
	if err != nil || n > limit {
		return &serverReply{552, "5.3.4", "message is too large"}
	}
	return nil
}

// bodyParam: RFC 6152 section 2, RFC 3030 section 3.
func bodyParam(p param, binary bool) (mail.BodyType, *serverReply) {
	switch body := mail.BodyType(strings.ToUpper(p.value)); {
	case body == mail.Body7Bit, body == mail.Body8BitMIME, body == mail.BodyBinaryMIME && binary:
		return body, nil
	}
	return "", badParam(p)
}

// Lengths of RFC 3461 sections 4.4 and 4.2, in octets.
const (
	maxEnvelopeID = 100
	maxOriginal   = 500
)

// textParam decodes a value in xtext.
func textParam(p param, limit int) (string, *serverReply) {
	text, ok := decodeXtext(p.value)
	if !ok || text == "" || len(p.value) > limit || !isASCIIText(text) {
		return "", badParam(p)
	}
	return text, nil
}

// originalParam: RFC 3461 section 4.2, "type;xtext"; RFC 6533 section 3 adds
// the type utf-8, whose value may hold UTF-8 under SMTPUTF8.
func originalParam(p param, utf8 bool) (string, *serverReply) {
	kind, encoded, ok := strings.Cut(p.value, ";")
	text, valid := decodeXtext(encoded)
	switch {
	case !ok || !valid || text == "" || len(p.value) > maxOriginal:
		return "", badParam(p)
	case !isKeyword(strings.ToUpper(kind)):
		return "", badParam(p)
	case !isASCIIText(text) && !(utf8 && strings.EqualFold(kind, "utf-8")):
		return "", badParam(p)
	case strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "", badParam(p)
	}
	return kind + ";" + text, nil
}

// decodeXtext reads xtext (RFC 3461 section 4) strictly: "+" only before two
// upper-case hexadecimal digits. Octets that would be control characters are
// refused, since the text comes back in header fields and on other wires; so
// is what does not decode to valid text.
func decodeXtext(s string) (string, bool) {
	if !strings.Contains(s, "+") {
		return s, true
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) {
				return "", false
			}
			hi, lo := hexDigit(s[i+1]), hexDigit(s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			c = byte(hi<<4 | lo)
			i += 2
			// Written out, not as "+XX", is how RFC 6533 has UTF-8.
			if c < ' ' || c >= 0x7f {
				return "", false
			}
		}
		out = append(out, c)
	}
	return string(out), true
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

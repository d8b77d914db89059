package contacts

import (
	"encoding/base64"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/trust/author"
	"mailxmppd/trust/header"
)

// autocryptKey reads the key that a message offers (Autocrypt Level 1, section
// 2.1); nil where there is none for its one author. As there: of several fields
// that could count none does, and neither does one with an attribute that is
// not known.
func autocryptKey(h header.Header, from mail.Address) *Certificate {
	if authors := author.Read(h, nil); len(authors.Authors) != 1 || Form(authors.Authors[0].Address) != Form(from) {
		return nil
	}
	var data []byte
	found := 0
	for _, f := range h.All("autocrypt") {
		if d, ok := autocryptField(f.Unfolded(), Form(from)); ok {
			data = d
			found++
		}
	}
	if found != 1 {
		return nil
	}
	certs, err := readOpenPGP(data)
	if err != nil || len(certs) != 1 {
		return nil
	}
	return certs[0]
}

// autocryptField reads one field.
func autocryptField(value, from string) (data []byte, ok bool) {
	var addr string
	for attribute := range strings.SplitSeq(value, ";") {
		name, v, _ := strings.Cut(attribute, "=")
		switch name = strings.TrimSpace(name); {
		case name == "addr":
			addr = form(v)
		case name == "keydata":
			d, err := fromBase64(v)
			if err != nil || data != nil {
				return nil, false
			}
			data = d
		case name == "prefer-encrypt", strings.HasPrefix(name, "_"), name == "":
		default:
			return nil, false
		}
	}
	return data, addr == from && len(data) > 0 && len(data) <= base64.StdEncoding.DecodedLen(header.MaxField)
}

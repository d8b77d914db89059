package contacts

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/emersion/go-vcard"
)

// maxCards bounds the cards of one file.
const maxCards = 5000

// folds are the line breaks inside of vCard lines (RFC 6350 section 3.2). They
// are taken out ahead of the reader, which would copy a long value once for
// each of them.
var folds = regexp.MustCompile(`\r?\n[ \t]`)

func isCard(data []byte) bool {
	data = bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), " \t\r\n")
	return len(data) >= 11 && strings.EqualFold(string(data[:11]), "BEGIN:VCARD")
}

// readCards takes the keys of all cards (RFC 6350 section 6.8.1). Cards
// without a key are passed over: an address book is mostly of those.
func readCards(data []byte) ([]Found, error) {
	data = bytes.TrimLeft(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), " \t\r\n")
	dec := vcard.NewDecoder(bytes.NewReader(folds.ReplaceAll(data, nil)))
	var out []Found
	for n := 1; ; n++ {
		card, err := dec.Decode()
		switch {
		case errors.Is(err, io.EOF) && len(out) == 0:
			return nil, errors.New("no card has a key")
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, fmt.Errorf("card %d: not a vCard", n)
		case n > maxCards:
			return nil, fmt.Errorf("more than %d cards", maxCards)
		}
		found, err := readCard(card)
		if err != nil {
			return nil, fmt.Errorf("card %d: %w", n, err)
		}
		if out = append(out, found...); len(out) > maxFound {
			return nil, fmt.Errorf("more than %d keys", maxFound)
		}
	}
}

func readCard(card vcard.Card) ([]Found, error) {
	var mailboxes []string
	for _, s := range card.Values(vcard.FieldEmail) {
		a := form(strings.TrimPrefix(s, "mailto:"))
		if a == "" {
			return nil, fmt.Errorf("EMAIL %q is no address", clip(s))
		}
		mailboxes = append(mailboxes, a)
	}
	var out []Found
	for n, f := range card[vcard.FieldKey] {
		data, err := cardKey(f)
		if err != nil {
			return nil, fmt.Errorf("KEY %d: %w", n+1, err)
		}
		certs, err := readCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("KEY %d: %w", n+1, err)
		}
		for _, c := range certs {
			found := Found{Certificate: c, Name: clip(card.Value(vcard.FieldFormattedName))}
			for _, a := range mailboxes {
				if c.For(a) && !slices.Contains(found.Addresses, a) {
					found.Addresses = append(found.Addresses, a)
				}
			}
			if len(found.Addresses) == 0 {
				return nil, fmt.Errorf("KEY %d: the key names none of the card's addresses", n+1)
			}
			out = append(out, found)
		}
	}
	return out, nil
}

// cardKey returns the octets of a KEY: a data URI (RFC 6350 section 6.8.1),
// base64 as in vCard 3 and 2.1, or text.
func cardKey(f *vcard.Field) ([]byte, error) {
	v := strings.TrimSpace(f.Value)
	switch {
	case len(v) >= 5 && strings.EqualFold(v[:5], "data:"):
		kind, data, ok := strings.Cut(v[5:], ",")
		if !ok {
			return nil, errors.New("a data URI without data")
		}
		if strings.HasSuffix(strings.ToLower(kind), ";base64") {
			return fromBase64(data)
		}
		text, err := url.PathUnescape(data)
		if err != nil {
			return nil, errors.New("a data URI that cannot be read")
		}
		return []byte(text), nil
	case strings.Contains(v, "-----BEGIN "):
		return []byte(v), nil
	case strings.Contains(v, "://"):
		return nil, errors.New("a link, which is not followed: save the key to a file and import that")
	}
	return fromBase64(v)
}

func fromBase64(s string) ([]byte, error) {
	s = strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' || r == '\r' || r == '\n' {
			return -1
		}
		return r
	}, s)
	data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, errors.New("not base64")
	}
	return data, nil
}

// clip bounds foreign text that is shown or kept, and takes out what does not
// belong on a line.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2060 && r <= 0x2069 {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > 100 {
		return string(r[:100])
	}
	return s
}

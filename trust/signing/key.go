package signing

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"mailxmppd/dns"
	"mailxmppd/store"
	"mailxmppd/trust/dkim"
)

// Kinds are the kinds of keys, each with the letter that its selectors begin
// with. Every verifier knows RSA; Ed25519 is for those that know it (RFC 8463).
func Kinds() []string { return []string{rsaKind, ed25519Kind} }

const (
	rsaKind     = "rsa"
	ed25519Kind = "ed25519"

	rsaBits = 2048 // RFC 8301 section 3.2; longer ones do not fit into every DNS answer
)

// Key is a key of the store, ready for use.
type Key struct {
	store.SigningKey
	Kind   string
	Signer crypto.Signer
}

// Generate makes a key of a kind, with the selector that is told.
func Generate(domain, selector, kind string) (store.SigningKey, error) {
	var private any
	var err error
	switch kind {
	case rsaKind:
		private, err = rsa.GenerateKey(rand.Reader, rsaBits)
	case ed25519Kind:
		_, private, err = ed25519.GenerateKey(rand.Reader)
	default:
		err = fmt.Errorf("unknown kind of key %q", kind)
	}
	if err != nil {
		return store.SigningKey{}, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	return store.SigningKey{Domain: domain, Selector: selector, Private: der}, err
}

// GenerateAll makes a key of each kind for a domain, with selectors that no
// key of taken has: of the kind and the day, so that people see how old a key
// is.
func GenerateAll(domain string, day time.Time, taken []store.SigningKey) ([]store.SigningKey, error) {
	suffix := ""
	for n := 0; n < 26; n++ {
		if !slices.ContainsFunc(taken, func(k store.SigningKey) bool {
			return k.Domain == domain && strings.HasSuffix(k.Selector, day.UTC().Format("20060102")+suffix)
		}) {
			var keys []store.SigningKey
			for _, kind := range Kinds() {
				k, err := Generate(domain, kind[:1]+day.UTC().Format("20060102")+suffix, kind)
				if err != nil {
					return nil, err
				}
				keys = append(keys, k)
			}
			return keys, nil
		}
		suffix = string(rune('b' + n))
	}
	return nil, errors.New("too many keys were made today")
}

// Open reads a key of the store.
func Open(k store.SigningKey) (Key, error) {
	private, err := x509.ParsePKCS8PrivateKey(k.Private)
	if err != nil {
		return Key{}, fmt.Errorf("key %s of %s: %w", k.Selector, k.Domain, err)
	}
	switch p := private.(type) {
	case *rsa.PrivateKey:
		return Key{k, rsaKind, p}, nil
	case ed25519.PrivateKey:
		return Key{k, ed25519Kind, p}, nil
	}
	return Key{}, fmt.Errorf("key %s of %s: neither RSA nor Ed25519", k.Selector, k.Domain)
}

// RecordName is where the key's record belongs (RFC 6376 section 3.6.2.1).
func (k Key) RecordName() string { return k.Selector + "._domainkey." + k.Domain }

// Record is the text that publishes the key (RFC 6376 section 3.6.1, RFC 8463
// section 4).
func (k Key) Record() (string, error) {
	public := k.Signer.Public()
	if p, ok := public.(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(p), nil
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", fmt.Errorf("key %s of %s: %w", k.Selector, k.Domain, err)
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der), nil
}

// maxString is what one string of a TXT record holds (RFC 1035 section 3.3).
const maxString = 255

// ZoneLine is the record as a zone file has it, in strings that are joined
// without anything between them (RFC 6376 section 3.6.2.2).
func (k Key) ZoneLine() (string, error) {
	text, err := k.Record()
	if err != nil {
		return "", err
	}
	var parts []string
	for len(text) > 0 {
		n := min(len(text), maxString)
		parts = append(parts, `"`+text[:n]+`"`)
		text = text[n:]
	}
	return k.RecordName() + ". IN TXT ( " + strings.Join(parts, "\n\t") + " )", nil
}

// Standing is what DNS shows of a key.
type Standing string

const (
	Unknown     Standing = "unknown"     // DNS does not answer
	Published   Standing = "published"   // its record is there
	Unpublished Standing = "unpublished" // there is none, or another
)

// Look asks DNS for a key's record.
func (k Key) Look(ctx context.Context, texts dkim.Texts) Standing {
	ans := texts.TXT(ctx, k.RecordName())
	switch ans.Status {
	case dns.Failed:
		return Unknown
	case dns.Found:
	default:
		return Unpublished
	}
	// A verifier that finds two keys takes neither.
	standing := Unpublished
	for _, record := range ans.Records {
		found, err := dkim.ParseKey(record)
		if err != nil {
			continue
		}
		own, ok := k.Signer.Public().(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !own.Equal(found.Public) || standing == Published {
			return Unpublished
		}
		standing = Published
	}
	return standing
}

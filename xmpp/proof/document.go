package proof

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Bounds on a POSH document.
const (
	maxDocument     = 64 << 10
	maxFingerprints = 64
)

// document is what a domain publishes about its certificates (RFC 7711
// sections 3.1 and 3.2): fingerprints, or the URL of the document that has
// them.
type document struct {
	fingerprints []fingerprint
	url          string
	expires      time.Duration // capped at maxKept
}

// fingerprint is of one certificate, by one or more hash functions; nil where
// the document has none by this function.
type fingerprint struct{ sha256, sha512 []byte }

// readDocument is strict about what it uses and passes over the rest, as the
// format may grow. Member names count exactly as written.
func readDocument(body []byte) (document, error) {
	if len(body) > maxDocument {
		return document{}, fmt.Errorf("longer than %d octets", maxDocument)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return document{}, fmt.Errorf("not a JSON object: %w", err)
	}
	var d document
	var err error
	if d.expires, err = readExpires(members["expires"]); err != nil {
		return document{}, err
	}
	if list, ok := members["fingerprints"]; ok {
		d.fingerprints, err = readFingerprints(list)
	} else {
		d.url, err = readURL(members["url"])
	}
	if err != nil {
		return document{}, err
	}
	return d, nil
}

// readExpires: without a positive number of seconds the document is out of
// date before it is used (RFC 7711 section 6).
func readExpires(raw json.RawMessage) (time.Duration, error) {
	var seconds float64
	if raw == nil || json.Unmarshal(raw, &seconds) != nil {
		return 0, errors.New("expires is not a number of seconds")
	}
	if seconds < 1 {
		return 0, errors.New("expired: expires is not positive")
	}
	if seconds >= maxKept.Seconds() {
		return maxKept, nil
	}
	return time.Duration(seconds) * time.Second, nil
}

func readFingerprints(raw json.RawMessage) ([]fingerprint, error) {
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, errors.New("fingerprints is not a list of objects")
	}
	if len(list) > maxFingerprints {
		return nil, fmt.Errorf("more than %d fingerprints", maxFingerprints)
	}
	var out []fingerprint
	for _, entry := range list {
		var f fingerprint
		var err1, err2 error
		f.sha256, err1 = readHash(entry, "sha-256", sha256.Size)
		f.sha512, err2 = readHash(entry, "sha-512", sha512.Size)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		if f.sha256 != nil || f.sha512 != nil {
			out = append(out, f)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("no fingerprint by sha-256 or sha-512")
	}
	return out, nil
}

// readHash reads a hash by its name in the IANA registry of textual names.
func readHash(entry map[string]json.RawMessage, name string, size int) ([]byte, error) {
	raw, ok := entry[name]
	if !ok {
		return nil, nil
	}
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return nil, fmt.Errorf("%s is not a string", name)
	}
	sum, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sum) != size {
		return nil, fmt.Errorf("%s is not %d octets in base64", name, size)
	}
	return sum, nil
}

// readURL lets a document point to the web's own port only: it must not make
// us knock at others.
func readURL(raw json.RawMessage) (string, error) {
	var text string
	if raw == nil || json.Unmarshal(raw, &text) != nil {
		return "", errors.New("neither fingerprints nor a url")
	}
	u, err := url.Parse(text)
	if err != nil {
		return "", errors.New("url cannot be read")
	}
	if err := checkURL(u); err != nil {
		return "", err
	}
	return u.String(), nil
}

func checkURL(u *url.URL) error {
	if u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Port() != "" && u.Port() != "443" {
		return fmt.Errorf("leads to %.200q: want https on its own port", u.Redacted())
	}
	return nil
}

// match looks for the certificate's fingerprint. Where one has several hashes,
// all must match: they are of the same certificate.
func (d document) match(leaf *x509.Certificate) error {
	short, long := sha256.Sum256(leaf.Raw), sha512.Sum512(leaf.Raw)
	for _, f := range d.fingerprints {
		if (f.sha256 == nil || bytes.Equal(f.sha256, short[:])) && (f.sha512 == nil || bytes.Equal(f.sha512, long[:])) {
			return nil
		}
	}
	return fmt.Errorf("certificate is none of the %d published", len(d.fingerprints))
}

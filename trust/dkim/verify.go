// Package dkim makes and verifies DKIM signatures (RFC 6376, RFC 8301, RFC
// 8463), and lends the ARC package what the two have in common.
//
// Invariants: a message is read once, whatever the number of its signatures,
// and its body is never held; each key is asked for once; the number of
// signatures looked at, of lookups at a time and the size of keys and records
// are bounded, and no signature's key waits for another's. A signature with l= never passes.
//
// Failure semantics: every signature gets a result of RFC 8601 section 2.7.1
// with a reason. What DNS cannot tell now is a temperror, which says nothing
// about the message.
package dkim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"strings"
	"time"

	"mailxmppd/trust/authres"
	"mailxmppd/trust/header"
)

// Collect reads the first max signatures of a header, from the top: those that
// were added last. omitted tells how many more there are.
func Collect(h header.Header, max int, now time.Time) (sigs []*Signature, omitted int) {
	for _, f := range h.All(FieldName) {
		if len(sigs) == max {
			omitted++
			continue
		}
		sigs = append(sigs, Parse(f, now))
	}
	return sigs, omitted
}

// FetchKeys starts the lookups of the keys of those signatures that could
// still pass, all at once.
func FetchKeys(ctx context.Context, keys *Keys, sigs []*Signature) {
	for _, s := range sigs {
		if s.Result == "" {
			keys.fetch(ctx, s.Selector, s.Domain, nil)
		}
	}
}

// BodyForms returns the forms of the body that those signatures need which
// could still pass.
func BodyForms(sigs []*Signature) []Canonicalization {
	var out []Canonicalization
	for _, s := range sigs {
		if s.Result == "" {
			out = append(out, s.bodyForm)
		}
	}
	return out
}

// Verify sets the Result of every signature that has none. body has seen the
// whole body.
func Verify(h header.Header, sigs []*Signature, keys *Keys, body *Body) {
	index := newIndex(h)
	for _, s := range sigs {
		s.Verify(index, keys, body)
	}
}

// Index finds the fields of a header that a signature covers.
type Index map[string][]string

// NewIndex makes an Index of a header.
func NewIndex(h header.Header) Index { return newIndex(h) }

func newIndex(h header.Header) Index {
	x := Index{}
	for _, f := range h {
		if f.Name != "" {
			x[f.Name] = append(x[f.Name], f.Raw)
		}
	}
	return x
}

// Verify sets the Result of a signature over header and body.
func (s *Signature) Verify(h Index, keys *Keys, body *Body) {
	if s.Result != "" {
		return
	}
	key, ok := s.key(keys)
	if !ok {
		return
	}
	if !bytes.Equal(body.Sum(s.bodyForm), s.bodyHash) {
		s.end(authres.Fail, "the body is not what was signed")
		return
	}
	digest := sha256.New()
	s.hashHeader(digest, h)
	s.hashSelf(digest, s.headerForm)
	s.conclude(key, digest, "the header is not what was signed")
}

// VerifySeal sets the Result of an ARC seal over the fields before it, in the
// relaxed form (RFC 8617 section 5.1.1).
func (s *Signature) VerifySeal(before []string, keys *Keys) {
	if s.Result != "" {
		return
	}
	key, ok := s.key(keys)
	if !ok {
		return
	}
	digest := sha256.New()
	for _, raw := range before {
		digest.Write([]byte(Relaxed.CanonicalField(raw)))
	}
	s.hashSelf(digest, Relaxed)
	s.conclude(key, digest, "the chain is not what was sealed")
}

// key gets the signature's key, or sets the Result.
func (s *Signature) key(keys *Keys) (*Key, bool) {
	key, temp, err := keys.get(s.Selector, s.Domain)
	switch {
	case temp:
		s.end(authres.TempError, err.Error())
		return nil, false
	case err != nil:
		s.end(authres.PermError, err.Error())
		return nil, false
	}
	s.KeyBits, s.Testing = key.Bits, key.Testing
	why := key.fits(s.Algorithm)
	switch {
	case why != "":
		s.end(authres.PermError, why)
	case key.Kind == "rsa" && key.Bits < minBits:
		s.end(authres.Fail, fmt.Sprintf("a key of %d bits proves nothing", key.Bits))
	case key.Bits > maxBits:
		s.end(authres.Policy, fmt.Sprintf("a key of %d bits is too much work", key.Bits))
	case key.Strict && s.Agent != "" && s.Agent[strings.LastIndexByte(s.Agent, '@')+1:] != s.Domain:
		s.end(authres.PermError, "the key is not for subdomains (t=s)")
	}
	return key, s.Result == ""
}

// hashHeader hashes the fields that h= names: of several with one name the
// last first, and nothing for one that is not there (RFC 6376 section 5.4.2).
func (s *Signature) hashHeader(digest hash.Hash, h Index) {
	taken := map[string]int{}
	for _, name := range s.Signed {
		if fields := h[name]; taken[name] < len(fields) {
			taken[name]++
			digest.Write([]byte(s.headerForm.CanonicalField(fields[len(fields)-taken[name]])))
		}
	}
}

// hashSelf hashes the signature's own field, without the signature and without
// its final line end.
func (s *Signature) hashSelf(digest hash.Hash, form Canonicalization) {
	own := form.CanonicalField(withoutB(s.raw))
	digest.Write(bytes.TrimSuffix([]byte(own), []byte("\r\n")))
}

func (s *Signature) conclude(key *Key, digest hash.Hash, otherwise string) {
	if !key.verify(digest.Sum(nil), s.sig) {
		s.end(authres.Fail, otherwise)
		return
	}
	s.Result = authres.Pass
}

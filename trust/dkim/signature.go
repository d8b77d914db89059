package dkim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/header"
)

// Signature is one signature field and what became of it. The fields come from
// the signature as it claims; only Result says whether to believe them.
type Signature struct {
	Result authres.Result
	Reason string // why, in words; "" for a pass

	Domain    string // d=, A-labels
	Agent     string // i=, "@" and the domain where it is absent
	Selector  string // s=
	Algorithm string // a=, e.g. "rsa-sha256"
	KeyBits   int    // of the key, 0 unless it was had
	Signed    []string
	Created   time.Time // t=, zero if absent
	Expires   time.Time // x=, zero if absent
	Testing   bool      // the key's owner still tries it out (t=y)
	HasLength bool      // l=: the rest of the body could be anybody's

	raw        string
	headerForm Canonicalization
	bodyForm   Canonicalization
	bodyHash   []byte
	sig        []byte
}

// FieldName is that of a DKIM signature.
const FieldName = "dkim-signature"

// clockSkew is how far ahead of ours a signer's clock may be.
const clockSkew = 15 * time.Minute

// Parse reads a DKIM-Signature field. What no key could make valid has its
// Result at once.
func Parse(field header.Field, now time.Time) *Signature {
	s := &Signature{raw: field.Raw}
	tags, err := ParseTags(field.Value())
	if err != nil {
		return s.end(authres.PermError, "signature: "+err.Error())
	}
	if tags["v"] != "1" {
		return s.end(authres.Neutral, "signature: version is not 1")
	}
	for _, name := range []string{"a", "b", "bh", "d", "h", "s"} {
		if tags[name] == "" {
			return s.end(authres.PermError, "signature: no "+name+"=")
		}
	}
	if s.readName(tags); s.Result != "" {
		return s
	}
	if s.readAgent(tags); s.Result != "" {
		return s
	}
	if s.readHash(tags); s.Result != "" {
		return s
	}
	return s.readTimes(tags, now)
}

// ParseARC reads an ARC-Message-Signature (with its body hash) or ARC-Seal
// (without). They have i= for the instance and no v= (RFC 8617 section 4.1).
func ParseARC(field header.Field, seal bool, now time.Time) (*Signature, Tags) {
	s := &Signature{raw: field.Raw}
	tags, err := ParseTags(field.Value())
	if err != nil {
		return s.end(authres.PermError, "signature: "+err.Error()), nil
	}
	need := []string{"a", "b", "d", "s", "i"}
	if !seal {
		need = append(need, "bh", "h")
	}
	for _, name := range need {
		if tags[name] == "" {
			return s.end(authres.PermError, "signature: no "+name+"="), tags
		}
	}
	if s.readName(tags); s.Result != "" {
		return s, tags
	}
	if !seal {
		if s.readHash(tags); s.Result != "" {
			return s, tags
		}
	} else {
		s.readSignature(tags)
	}
	return s.readTimes(tags, now), tags
}

func (s *Signature) end(r authres.Result, reason string) *Signature {
	s.Result, s.Reason = r, reason
	return s
}

// readName reads whose signature it is, and how it was made.
func (s *Signature) readName(tags Tags) {
	domain, err := mail.ParseDomain(compact(tags["d"]))
	if err != nil || mail.IsLiteral(domain) {
		s.end(authres.PermError, "signature: d= is not a domain")
		return
	}
	s.Domain = domain
	// A selector is one or more labels (RFC 6376 section 3.1).
	if s.Selector, err = mail.ParseDomain(compact(tags["s"])); err != nil || mail.IsLiteral(s.Selector) {
		s.Selector = ""
		s.end(authres.PermError, "signature: s= is not a selector")
		return
	}
	s.Algorithm = compact(tags["a"])
	switch s.Algorithm {
	case "rsa-sha256", "ed25519-sha256":
	case "rsa-sha1": // RFC 8301 section 3.1
		s.end(authres.Fail, "signature: rsa-sha1 proves nothing")
	default:
		s.Algorithm = ""
		s.end(authres.Neutral, "signature: unknown algorithm")
	}
}

// readAgent reads i=, whose domain must be d= or below it (RFC 6376 section
// 3.5).
func (s *Signature) readAgent(tags Tags) {
	s.Agent = "@" + s.Domain
	agent, ok := tags["i"]
	if !ok {
		return
	}
	agent = compact(agent)
	at := strings.LastIndexByte(agent, '@')
	domain, err := mail.ParseDomain(agent[at+1:])
	if at < 0 || err != nil || domain != s.Domain && !strings.HasSuffix(domain, "."+s.Domain) {
		s.end(authres.PermError, "signature: i= is not of d=")
		return
	}
	s.Agent = agent[:at+1] + domain
}

func (s *Signature) readHash(tags Tags) {
	s.headerForm, s.bodyForm = Simple, Simple
	if c, ok := tags["c"]; ok {
		h, b, both := strings.Cut(compact(c), "/")
		s.headerForm = Canonicalization(h)
		if both {
			s.bodyForm = Canonicalization(b)
		}
	}
	for _, c := range []Canonicalization{s.headerForm, s.bodyForm} {
		if c != Simple && c != Relaxed {
			s.end(authres.Neutral, "signature: unknown canonicalization")
			return
		}
	}
	if q, ok := tags["q"]; ok && !slices.Contains(list(q), "dns/txt") {
		s.end(authres.Neutral, "signature: no known way to its key")
		return
	}
	for _, name := range list(tags["h"]) {
		s.Signed = append(s.Signed, strings.ToLower(name))
	}
	if !slices.Contains(s.Signed, "from") { // RFC 6376 section 5.4
		s.end(authres.PermError, "signature: From is not signed")
		return
	}
	// RFC 6376 section 8.2: what is added below the length would look as if it
	// were signed.
	if _, s.HasLength = tags["l"]; s.HasLength {
		s.end(authres.Policy, "signature: covers a part of the body only (l=)")
		return
	}
	var err error
	if s.bodyHash, err = decode(tags["bh"]); err != nil {
		s.end(authres.PermError, "signature: bh= is not base64")
		return
	}
	s.readSignature(tags)
}

func (s *Signature) readSignature(tags Tags) {
	var err error
	if s.sig, err = decode(tags["b"]); err != nil && s.Result == "" {
		s.end(authres.PermError, "signature: b= is not base64")
	}
}

// readTimes refuses what has expired, and what has not been signed yet (RFC
// 6376 section 3.5).
func (s *Signature) readTimes(tags Tags, now time.Time) *Signature {
	var ok bool
	if s.Created, ok = readTime(tags, "t"); !ok {
		return s.end(authres.PermError, "signature: t= is not a time")
	}
	if s.Expires, ok = readTime(tags, "x"); !ok {
		return s.end(authres.PermError, "signature: x= is not a time")
	}
	switch {
	case s.Result != "":
	case !s.Expires.IsZero() && !s.Created.IsZero() && s.Expires.Before(s.Created):
		s.end(authres.PermError, "signature: expires before it was made")
	case !s.Expires.IsZero() && now.After(s.Expires):
		s.end(authres.Fail, "signature: expired "+s.Expires.UTC().Format(time.DateOnly))
	case s.Created.After(now.Add(clockSkew)):
		s.end(authres.Fail, fmt.Sprintf("signature: made in the future, %.20s", s.Created.UTC().Format(time.DateOnly)))
	}
	return s
}

func readTime(tags Tags, name string) (time.Time, bool) {
	v, ok := tags[name]
	if !ok {
		return time.Time{}, true
	}
	// RFC 6376 section 3.5 allows twelve digits; the year 9999 has eleven.
	n, err := strconv.ParseUint(compact(v), 10, 64)
	if err != nil || n > 253_402_300_799 {
		return time.Time{}, false
	}
	return time.Unix(int64(n), 0), true
}

// BodyForm is the form of the body that the signature covers.
func (s *Signature) BodyForm() Canonicalization { return s.bodyForm }

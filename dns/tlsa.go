package dns

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"

	mdns "github.com/miekg/dns"
)

// TLSA says what certificate a service shows (RFC 6698 section 2.1). Only an
// answer that is Secure proves anything.
type TLSA struct {
	Usage    uint8  // 0 PKIX-TA, 1 PKIX-EE, 2 DANE-TA, 3 DANE-EE (RFC 7218)
	Selector uint8  // 0 the certificate, 1 its public key
	Matching uint8  // 0 the data itself, 1 its SHA-256, 2 its SHA-512
	Data     []byte // as the record has it, whatever its length
}

// Matches compares a certificate with a record (RFC 6698 section 2.1). A
// selector or matching type that is not known matches nothing.
func (t TLSA) Matches(c *x509.Certificate) bool {
	data := c.Raw
	switch t.Selector {
	case 0:
	case 1:
		data = c.RawSubjectPublicKeyInfo
	default:
		return false
	}
	switch t.Matching {
	case 0:
		return bytes.Equal(data, t.Data)
	case 1:
		sum := sha256.Sum256(data)
		return bytes.Equal(sum[:], t.Data)
	case 2:
		sum := sha512.Sum512(data)
		return bytes.Equal(sum[:], t.Data)
	}
	return false
}

// maxTLSAData bounds what is kept of one record: the largest certificates in
// use are a few kilobytes long.
const maxTLSAData = 16 << 10

var errBadTLSA = errors.New("dns: unreadable TLSA record in the answer")

// TLSA looks up the records of a full owner name such as
// "_25._tcp.mx.capulet.example". Aliases on the way count for Secure like all
// else (RFC 7672 section 2.1.3). A record that cannot be read makes the
// answer Failed, not shorter: leaving it out could leave no record at all, and
// with it no protection.
func (r *Resolver) TLSA(ctx context.Context, name string) Answer[TLSA] {
	bad := false
	ans := lookup(ctx, r, name, mdns.TypeTLSA, func(rr mdns.RR) (TLSA, bool) {
		t, ok := rr.(*mdns.TLSA)
		if !ok {
			bad = true
			return TLSA{}, false
		}
		data, err := hex.DecodeString(t.Certificate)
		if err != nil || len(data) > maxTLSAData {
			bad = true
			return TLSA{}, false
		}
		return TLSA{Usage: t.Usage, Selector: t.Selector, Matching: t.MatchingType, Data: data}, true
	})
	if bad {
		return Answer[TLSA]{Status: Failed, Name: ans.Name, Err: errBadTLSA}
	}
	return ans
}

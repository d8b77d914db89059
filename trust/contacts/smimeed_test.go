package contacts

import (
	"crypto/ed25519"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
)

// The CMS structures of RFC 5652 that an Ed25519 signer writes (RFC 8419). The
// OpenSSL of these tests cannot.
type (
	cmsContent struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
	}
	cmsInfo struct {
		Version    int
		Issuer     cmsIssuer
		Digest     pkix.AlgorithmIdentifier
		Attributes asn1.RawValue `asn1:"optional"`
		Algorithm  pkix.AlgorithmIdentifier
		Signature  []byte
	}
	cmsIssuer struct {
		Name   asn1.RawValue
		Serial *big.Int
	}
	cmsSigned struct {
		Version int
		Digests []pkix.AlgorithmIdentifier `asn1:"set"`
		Content cmsContent
		Signers []cmsInfo `asn1:"set"`
	}
)

func marshal(t *testing.T, v any, params string) []byte {
	t.Helper()
	der, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// signEd25519 makes a whole message with the signature beside its part; made zero
// leaves all attributes out.
func (id identity) signEd25519(t *testing.T, part string, made time.Time) string {
	t.Helper()
	key, err := x509.ParsePKCS8PrivateKey(derOf(t, id.key))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(derOf(t, id.cert))
	if err != nil {
		t.Fatal(err)
	}
	text := crlf(part)
	signed := []byte(text)
	sha := pkix.AlgorithmIdentifier{Algorithm: pkcs7.OIDDigestAlgorithmSHA512}
	info := cmsInfo{Version: 1, Issuer: cmsIssuer{asn1.RawValue{FullBytes: cert.RawIssuer}, cert.SerialNumber}, Digest: sha,
		Algorithm: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 101, 112}}}
	if !made.IsZero() {
		sum := sha512.Sum512([]byte(text))
		value := func(v any) asn1.RawValue {
			return asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSet, IsCompound: true, Bytes: marshal(t, v, "")}
		}
		attributes := []attribute{
			{pkcs7.OIDAttributeContentType, value(pkcs7.OIDData)},
			{pkcs7.OIDAttributeMessageDigest, value(sum[:])},
			{pkcs7.OIDAttributeSigningTime, value(made.UTC())},
		}
		signed = marshal(t, attributes, "set")
		implicit := append([]byte{0xa0}, signed[1:]...) // [0] in the place of SET
		info.Attributes = asn1.RawValue{FullBytes: implicit}
	}
	info.Signature = ed25519.Sign(key.(ed25519.PrivateKey), signed)
	der := marshal(t, cmsContent{Type: pkcs7.OIDSignedData, Content: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true,
		Bytes: marshal(t, cmsSigned{1, []pkix.AlgorithmIdentifier{sha}, cmsContent{Type: pkcs7.OIDData}, []cmsInfo{info}}, "")}}, "")
	return head + "Content-Type: multipart/signed; protocol=\"application/pkcs7-signature\"; micalg=sha-512; boundary=b\r\n\r\n--b\r\n" + text +
		"\r\n--b\r\nContent-Type: application/pkcs7-signature; name=smime.p7s\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		base64.StdEncoding.EncodeToString(der) + "\r\n--b--\r\n"
}

// TestSMIMEWithEd25519: a signature with such a key permits as any other, and does
// not when it is wrong, old, or without attributes.
func TestSMIMEWithEd25519(t *testing.T) {
	id, part := newIdentity(t, romeo, "ed25519"), parts["plain"]
	good := id.signEd25519(t, part, time.Now())
	huge := strings.TrimSuffix(part, "\n") + "\n" + strings.Repeat(strings.Repeat("x", 70)+"\n", maxBare/70)
	for _, c := range []struct {
		name, message string
		permitted     bool
		reason        string
	}{
		{"as it was signed", good, true, goodSMIME},
		{"changed", changed(t, good), false, wrongSignature},
		{"old", id.signEd25519(t, part, time.Now().Add(-40*24*time.Hour)), false, "the signature is 40 days old"},
		{"by another key", newIdentity(t, romeo, "ed25519").signEd25519(t, part, time.Now()), false, "signed with a key that is not known"},
		{"without attributes", id.signEd25519(t, part, time.Time{}), false, undatedGood},
		{"without attributes, changed", changed(t, id.signEd25519(t, part, time.Time{})), false, wrongSignature},
		{"large", id.signEd25519(t, huge, time.Now()), true, goodSMIME},
		{"large, without attributes", id.signEd25519(t, huge, time.Time{}), false, "signature not checked: too large for one of its kind"},
	} {
		if f := ask(t, book(t, Config{}, contact(id.certificate(t))), c.message); f.Permitted != c.permitted || f.Reason != c.reason {
			t.Errorf("%s: got %+v, want %v %q", c.name, f, c.permitted, c.reason)
		}
	}
}

// changed is a message with a word more in its first part.
func changed(t *testing.T, message string) string {
	t.Helper()
	out := strings.Replace(message, "\r\n--b\r\nContent-Type: application/pkcs7-signature", "more\r\n--b\r\nContent-Type: application/pkcs7-signature", 1)
	if out == message {
		t.Fatal("nothing was changed")
	}
	return out
}

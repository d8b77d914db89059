package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"strings"
	"sync"
	"testing"

	"github.com/emersion/go-msgauth/dkim"
)

// keys are made once for all tests.
var keys = sync.OnceValue(func() (k struct {
	rsa     *rsa.PrivateKey
	ed25519 ed25519.PrivateKey
}) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	_, k.ed25519, _ = ed25519.GenerateKey(rand.Reader)
	return k
})

// keyRecord is what a domain publishes for a key.
func keyRecord(t testing.TB, key crypto.Signer) string {
	t.Helper()
	if public, ok := key.Public().(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
}

// sign prepends a signature that an independent library makes.
func sign(t testing.TB, message, domain, selector string, key crypto.Signer) string {
	t.Helper()
	var b bytes.Buffer
	err := dkim.Sign(&b, strings.NewReader(message), &dkim.SignOptions{
		Domain: domain, Selector: selector, Signer: key,
		HeaderCanonicalization: dkim.CanonicalizationRelaxed, BodyCanonicalization: dkim.CanonicalizationRelaxed,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

const plain = "From: Romeo <romeo@montague.example>\r\nTo: juliet@capulet.example\r\nSubject: balcony\r\n" +
	"Date: Mon, 23 Nov 2026 06:00:00 +0000\r\nMessage-ID: <1@montague.example>\r\n\r\nIt is the east.\r\n"

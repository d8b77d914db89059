package dkim

import (
	"bufio"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"io"
	"strings"
	"testing"
	"time"

	other "github.com/emersion/go-msgauth/dkim"

	"mailxmppd/trust/authres"
	"mailxmppd/trust/header"
)

// signOurs prepends a signature of ours.
func signOurs(t testing.TB, message, selector string, key crypto.Signer) string {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(message))
	h, err := header.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	body := NewBody(Relaxed)
	io.Copy(body, r)
	field, err := Signer{Domain: "signer.example", Selector: selector, Key: key}.Sign(h, body, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(field) {
		if len(line) > 80 {
			t.Errorf("a line of %d octets", len(line))
		}
	}
	return field + message
}

// TestSign: what we sign passes with us and with an independent verifier, and
// nothing that is signed can be changed, added or taken away.
func TestSign(t *testing.T) {
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public, seed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	z := zone{
		"r._domainkey.signer.example": {"v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der)},
		"e._domainkey.signer.example": {"v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)},
	}
	const message = "Received: from x by y; now\r\nFrom: Romeo <romeo@signer.example>\r\nTo: juliet@capulet.example\r\n" +
		"Subject:  two   spaces\r\n\tand a fold\r\nDate: Mon, 23 Nov 2026 06:00:00 +0000\r\nMessage-ID: <1@signer.example>\r\n" +
		"Cc: a@b.example\r\nCc: c@d.example\r\n\r\nIt  is the east.\t\r\n\r\n"
	for selector, key := range map[string]crypto.Signer{"r": private, "e": seed} {
		good := signOurs(t, message, selector, key)
		for _, c := range []struct {
			name, message string
			pass          bool
		}{
			{"as it is", good, true},
			{"without a header beyond the oversigned", signOurs(t, "From: romeo@signer.example\r\n\r\nx\r\n", selector, key), true},
			{"no body", signOurs(t, "From: romeo@signer.example\r\n\r\n", selector, key), true},
			{"signed twice", signOurs(t, good, selector, key), true},
			{"white space", strings.Replace(good, "It  is", "It\t is", 1), true},
			{"another hop", "Received: from y by z; now\r\n" + good, true},
			{"body", strings.Replace(good, "east", "west", 1), false},
			{"subject", strings.Replace(good, "two", "too", 1), false},
			{"second from", "From: m@evil.example\r\n" + good, false},
			{"second subject", "Subject: x\r\n" + good, false},
			{"second date", "Date: x\r\n" + good, false},
			{"second to", "To: x\r\n" + good, false},
			{"second message-id", "Message-ID: x\r\n" + good, false},
			{"a cc less", strings.Replace(good, "Cc: a@b.example\r\n", "", 1), false},
			{"cc in another order", strings.Replace(good, "Cc: a@b.example\r\nCc: c@d.example\r\n", "Cc: c@d.example\r\nCc: a@b.example\r\n", 1), false},
		} {
			got := verify(t, c.message, z, time.Now())[0]
			if (got.Result == authres.Pass) != c.pass {
				t.Errorf("%s, %s: %s %s", selector, c.name, got.Result, got.Reason)
			}
			independent, err := other.VerifyWithOptions(strings.NewReader(c.message), &other.VerifyOptions{LookupTXT: func(name string) ([]string, error) {
				return z[name], nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			if (independent[0].Err == nil) != c.pass {
				t.Errorf("%s, %s: go-msgauth says %v", selector, c.name, independent[0].Err)
			}
		}
	}
}

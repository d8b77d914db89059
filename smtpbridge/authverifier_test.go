package smtpbridge

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
)

// signedWithSHA512 makes a certificate.
func signedWithSHA512(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: x509.ECDSAWithSHA512}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// realVerifier costs what one costs, once.
var realVerifier = sync.OnceValues(func() (string, error) {
	v, err := NewVerifier("wherefore")
	return v.Marshal(), err
})

func TestVerifier(t *testing.T) {
	text, err := realVerifier()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text, "wherefore") || strings.ContainsAny(text, "\r\n ") {
		t.Errorf("stored form %q", text)
	}
	v, err := ParseVerifier(text)
	if err != nil {
		t.Fatal(err)
	}
	if v.Marshal() != text {
		t.Errorf("%s, then %s", text, v.Marshal())
	}
	if !v.Matches("wherefore") || v.Matches("Wherefore") || v.Matches("") || v.Matches("wherefore\x00") {
		t.Error("wrong passwords match, or the right one does not")
	}
	again, err := NewVerifier("wherefore")
	if err != nil {
		t.Fatal(err)
	}
	if string(again.Scram.Salt) == string(v.Scram.Salt) || string(again.Argon2.Salt) == string(v.Argon2.Salt) {
		t.Error("salts are not new")
	}
}

func TestVerifierPreparesPasswords(t *testing.T) {
	composed, err := NewVerifier("caf\u00e9 noir")
	if err != nil {
		t.Fatal(err)
	}
	// RFC 8265 section 4.2.2: NFC, and other spaces are spaces.
	if !composed.Matches("cafe\u0301\u00a0noir") {
		t.Error("what looks alike does not match")
	}
	for _, bad := range []string{"", "a\nb", "a\x00b", "\xff", strings.Repeat("x", 1025)} {
		if _, err := NewVerifier(bad); err == nil || strings.Contains(err.Error(), "a\n") {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
}

func TestParseVerifierRefuses(t *testing.T) {
	good, err := realVerifier()
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"another scheme":       {"$scram-sha-256$", "$scram-sha-1$"},
		"few iterations":       {"$i=65536$", "$i=4095$"},
		"many iterations":      {"$i=65536$", "$i=10000001$"},
		"odd number":           {"$i=65536$", "$i=+65536$"},
		"trailing text":        {"$i=65536$", "$i=65536x$"},
		"too much memory":      {"$m=19456,", "$m=4194304,"},
		"too much time":        {",t=2,", ",t=17,"},
		"too many threads":     {",p=1$", ",p=200$"},
		"another version":      {"$v=19$", "$v=16$"},
		"a part less":          {"$argon2id$", "$"},
		"a part more":          {"$argon2id$", "$$argon2id$"},
		"short salt":           {"$i=65536$", "$i=65536$AAAA$"},
		"something in the way": {"$i=65536$", "$i=65536$!"},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if bad == good {
			t.Fatalf("%s: nothing changed in %s", name, good)
		}
		if _, err := ParseVerifier(bad); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzParseVerifier(f *testing.F) {
	good, err := realVerifier()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("$scram-sha-256$i=4096$AAAAAAAAAAA$A$A$argon2id$v=19$m=8,t=1,p=1$AAAAAAAAAAA$A")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := ParseVerifier(s)
		if err == nil && (v.Marshal() != s || !v.sane()) {
			t.Fatalf("%q: %+v", s, v)
		}
	})
}

func TestStoredAuthWantsASecret(t *testing.T) {
	if _, err := NewStoredAuth(someUsers{}, []byte("short")); err == nil {
		t.Error("a short secret is taken")
	}
	if _, err := NewStoredAuth(nil, nil); err == nil {
		t.Error("no users are taken")
	}
	if _, err := NewStoredAuth(someUsers{}, nil); err != nil {
		t.Error(err)
	}
}

// TestUnknownUserCostsTheSame: a password is checked as hard for a name without
// a user as for one with, and waits its turn with the others.
func TestUnknownUserCostsTheSame(t *testing.T) {
	real, err := NewVerifier("wherefore")
	if err != nil {
		t.Fatal(err)
	}
	fake := fakeVerifier([]byte("0123456789abcdef"), "nobody@ours.example")
	a, b := real.Argon2, fake.Argon2
	if a.Memory != b.Memory || a.Time != b.Time || a.Threads != b.Threads || len(a.Salt) != len(b.Salt) || len(a.Hash) != len(b.Hash) {
		t.Errorf("a user's check has other costs: %d KiB, %d times, %d threads; nobody's %d, %d, %d", a.Memory, a.Time, a.Threads, b.Memory, b.Time, b.Threads)
	}
	if fake.Matches("") || fake.Matches("wherefore") {
		t.Error("nobody has a password")
	}
	auth := storedAuth(t)
	for range argonChecks {
		auth.checks <- struct{}{}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, user := range []string{"nobody@ours.example", "juliet@ours.example"} {
		if _, err := auth.Password(ctx, mail.Client{}, user, "wrong"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s did not wait for a check: %v", user, err)
		}
	}
}

package smtpbridge

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

// issuer makes tokens.
type issuer struct {
	rsa   *rsa.PrivateKey
	ecdsa *ecdsa.PrivateKey
	ed    ed25519.PrivateKey
}

func newIssuer(t testing.TB) issuer {
	t.Helper()
	var i issuer
	var err error
	if i.rsa, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	if i.ecdsa, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, i.ed, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	return i
}

func b64url(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// token signs by the key of an algorithm whatever the header says.
func (i issuer) token(t testing.TB, algorithm, header, claims string) string {
	t.Helper()
	text := b64url(header) + "." + b64url(claims)
	sum := sha256.Sum256([]byte(text))
	var signature []byte
	var err error
	switch algorithm {
	case "RS256":
		signature, err = rsa.SignPKCS1v15(rand.Reader, i.rsa, crypto.SHA256, sum[:])
	case "ES256":
		r, s, e := ecdsa.Sign(rand.Reader, i.ecdsa, sum[:])
		signature, err = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), e
	case "EdDSA":
		signature = ed25519.Sign(i.ed, []byte(text))
	case "HS256": // with a public key as the secret
		mac := hmac.New(sha256.New, i.ed.Public().(ed25519.PublicKey))
		mac.Write([]byte(text))
		signature = mac.Sum(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func (i issuer) verifier(t testing.TB) *JWTVerifier {
	t.Helper()
	v, err := NewJWTVerifier(JWTConfig{
		Keys:   []crypto.PublicKey{&i.rsa.PublicKey, &i.ecdsa.PublicKey, i.ed.Public()},
		Issuer: "https://id.example", Audience: "mail", Claim: "email",
	})
	if err != nil {
		t.Fatal(err)
	}
	v.now = func() time.Time { return time.Unix(1000, 0) }
	return v
}

func TestJWT(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	const good = `{"iss":"https://id.example","aud":"mail","exp":1001,"email":"juliet@ours.example"}`
	change := func(old, to string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %s", old)
		}
		return strings.Replace(good, old, to, 1)
	}
	for _, c := range []struct{ name, algorithm, header, claims, wrong string }{
		{"RS256", "RS256", `{"alg":"RS256","kid":"x"}`, good, ""},
		{"ES256", "ES256", `{"alg":"ES256"}`, good, ""},
		{"EdDSA", "EdDSA", `{"alg":"EdDSA","typ":"at+jwt"}`, good, ""},
		{"many audiences", "EdDSA", `{"alg":"EdDSA"}`, change(`"mail"`, `["x","mail"]`), ""},
		{"just expired", "EdDSA", `{"alg":"EdDSA"}`, change("1001", "941"), ""},
		{"with a fraction", "EdDSA", `{"alg":"EdDSA"}`, change("1001", "1001.5"), ""},
		{"counts from now", "EdDSA", `{"alg":"EdDSA"}`, change(`"exp"`, `"nbf":1060,"exp"`), ""},

		{"none", "", `{"alg":"none"}`, good, "not signed"},
		{"no algorithm", "EdDSA", `{}`, good, "not signed"},
		{"another algorithm's name", "EdDSA", `{"alg":"RS256"}`, good, "not signed"},
		{"a public key as a secret", "HS256", `{"alg":"HS256"}`, good, "not signed"},
		{"HMAC under a name that counts", "HS256", `{"alg":"EdDSA"}`, good, "not signed"},
		{"algorithm in other letters", "EdDSA", `{"alg":"eddsa"}`, good, "not signed"},
		{"critical", "EdDSA", `{"alg":"EdDSA","crit":["exp"]}`, good, "critical"},
		{"expired", "EdDSA", `{"alg":"EdDSA"}`, change("1001", "940"), "has expired"},
		{"no end", "EdDSA", `{"alg":"EdDSA"}`, change(`"exp":1001,`, ""), "when it expires"},
		{"null end", "EdDSA", `{"alg":"EdDSA"}`, change("1001", "null"), "when it expires"},
		{"end far away", "EdDSA", `{"alg":"EdDSA"}`, change("1001", "1e300"), "when it expires"},
		{"end in other letters", "EdDSA", `{"alg":"EdDSA"}`, change(`"exp"`, `"EXP"`), "when it expires"},
		{"not yet", "EdDSA", `{"alg":"EdDSA"}`, change(`"exp"`, `"nbf":1062,"exp"`), "not count yet"},
		{"nbf no number", "EdDSA", `{"alg":"EdDSA"}`, change(`"exp"`, `"nbf":"1","exp"`), "not count yet"},
		{"another issuer", "EdDSA", `{"alg":"EdDSA"}`, change("id.example", "id.example.org"), "another issuer"},
		{"another audience", "EdDSA", `{"alg":"EdDSA"}`, change(`"mail"`, `["maild"]`), "not meant for us"},
		{"no audience", "EdDSA", `{"alg":"EdDSA"}`, change(`"aud":"mail",`, ""), "not meant for us"},
		{"no user", "EdDSA", `{"alg":"EdDSA"}`, change("email", "sub"), "names no user"},
		{"odd user", "EdDSA", `{"alg":"EdDSA"}`, change("juliet@", `ju\nliet@`), "names no user"},
		{"no object", "EdDSA", `{"alg":"EdDSA"}`, `[]`, "JSON objects"},
		{"null", "EdDSA", `null`, good, "JSON objects"},
		{"two objects", "EdDSA", `{"alg":"EdDSA"}`, good + good, "JSON objects"},
	} {
		user, err := v.Token(t.Context(), mail.Client{}, i.token(t, c.algorithm, c.header, c.claims))
		switch {
		case c.wrong == "" && (err != nil || user != "juliet@ours.example"):
			t.Errorf("%s: %q, %v", c.name, user, err)
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong) || mail.AsFailure(err).Kind != mail.NotAuthorized):
			t.Errorf("%s: %q, %v; want %q", c.name, user, err, c.wrong)
		}
	}
	whole := i.token(t, "EdDSA", `{"alg":"EdDSA"}`, good)
	other := newIssuer(t).token(t, "EdDSA", `{"alg":"EdDSA"}`, good)
	parts := strings.Split(whole, ".")
	for name, token := range map[string]string{
		"another issuer's key": other, "two parts": parts[0] + "." + parts[1], "four": whole + ".", "padding": whole + "=",
		"empty": "", "other claims": parts[0] + "." + b64url(change("juliet", "romeo")) + "." + parts[2],
		"long": whole + strings.Repeat("A", maxJWT),
	} {
		if user, err := v.verify(token); err == nil {
			t.Errorf("%s: %q", name, user)
		}
	}
}

func TestJWTKeys(t *testing.T) {
	i := newIssuer(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, keys := range map[string][]crypto.PublicKey{
		"none": nil, "weak": {&weak.PublicKey}, "another curve": {&p384.PublicKey}, "private": {i.ed}, "too many": make([]crypto.PublicKey, 17),
	} {
		if _, err := NewJWTVerifier(JWTConfig{Keys: keys, Issuer: "i", Audience: "a", Claim: "sub"}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestJWTByOAuthBearer: a token opens a session, and a wrong one does not.
func TestJWTByOAuthBearer(t *testing.T) {
	i := newIssuer(t)
	v := i.verifier(t)
	rec := &recorder{}
	dialIn := startSubmission(t, rec, func(c *ServerConfig) { c.Tokens = v })
	for _, c := range []struct {
		exp  int
		want []string
	}{{2000, []string{"< 235"}}, {10, []string{"< 334", "> AQ==", "< 535 5.7.8"}}} {
		claims := fmt.Sprintf(`{"iss":"https://id.example","aud":"mail","exp":%d,"email":"juliet@ours.example"}`, c.exp)
		d := dialIn(0)
		d.play("< 220", "> EHLO h", "<* 250", "> AUTH OAUTHBEARER "+b64("n,,\x01auth=Bearer "+i.token(t, "ES256", `{"alg":"ES256"}`, claims)+"\x01\x01"))
		d.play(c.want...)
	}
}

func FuzzJWT(f *testing.F) {
	i := newIssuer(f)
	v := i.verifier(f)
	v.cfg.Keys = v.cfg.Keys[2:]
	good := i.token(f, "EdDSA", `{"alg":"EdDSA"}`, `{"iss":"https://id.example","aud":"mail","exp":1001,"email":"j"}`)
	f.Add(good)
	f.Add("e30.e30.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		// Only what the issuer has signed passes.
		if user, err := v.verify(token); err == nil && token != good {
			t.Errorf("%q for %q", user, token)
		}
	})
}

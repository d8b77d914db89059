package dkim

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	other "github.com/emersion/go-msgauth/dkim"
	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/header"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone answers from a table; names that it does not hold do not exist.
type zone map[string][]string

func (z zone) TXT(_ context.Context, name string) dns.Answer[string] {
	texts, ok := z[name]
	switch {
	case !ok:
		return dns.Answer[string]{Status: dns.NoDomain}
	case texts == nil:
		return dns.Answer[string]{Status: dns.Failed}
	}
	return dns.Answer[string]{Status: dns.Found, Records: texts}
}

func verify(t testing.TB, message string, z zone, now time.Time) []*Signature {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(message))
	h, err := header.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	sigs, _ := Collect(h, 10, now)
	keys := NewKeys(z)
	defer keys.Wait()
	FetchKeys(t.Context(), keys, sigs)
	body := NewBody(BodyForms(sigs)...)
	io.Copy(body, r)
	Verify(h, sigs, keys, body)
	return sigs
}

// vector is the example of RFC 8463 appendix A.
var vector = strings.ReplaceAll(`DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game. Are you hungry yet?

Joe.
`, "\n", "\r\n")

var vectorZone = zone{
	"brisbane._domainkey.football.example.com": {"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="},
	"test._domainkey.football.example.com": {"v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bd" +
		"OKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"},
}

var now = time.Unix(1_795_000_000, 0)

func TestVector(t *testing.T) {
	sigs := verify(t, vector, vectorZone, now)
	if len(sigs) != 2 {
		t.Fatalf("%d signatures", len(sigs))
	}
	for i, want := range []struct {
		algorithm string
		bits      int
	}{{"ed25519-sha256", 256}, {"rsa-sha256", 1024}} {
		s := sigs[i]
		if s.Result != authres.Pass || s.Algorithm != want.algorithm || s.KeyBits != want.bits || s.Domain != "football.example.com" ||
			s.Agent != "@football.example.com" || s.Created.Unix() != 1528637909 || len(s.Signed) != 8 {
			t.Errorf("%s %s: %+v", s.Result, s.Reason, s)
		}
	}
}

// testKeys are made once.
var testKeys = sync.OnceValue(func() (k struct {
	rsa *rsa.PrivateKey
	ed  ed25519.PrivateKey
}) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	return k
})

func record(key crypto.Signer) string {
	if public, ok := key.Public().(ed25519.PublicKey); ok {
		return "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)
	}
	der, _ := x509.MarshalPKIXPublicKey(key.Public())
	return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
}

const plain = "From: a@b.example\r\nSubject: one\r\n\r\nbody\r\n"

// signed is plain with a signature by go-msgauth.
func signed(t testing.TB, change func(*other.SignOptions)) string {
	t.Helper()
	o := &other.SignOptions{Domain: "b.example", Selector: "s", Signer: testKeys().rsa,
		HeaderCanonicalization: other.CanonicalizationRelaxed, BodyCanonicalization: other.CanonicalizationRelaxed}
	if change != nil {
		change(o)
	}
	var out bytes.Buffer
	if err := other.Sign(&out, strings.NewReader(plain), o); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestSignatures(t *testing.T) {
	good := signed(t, nil)
	edit := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	withKey := func(records ...string) zone { return zone{"s._domainkey.b.example": records} }
	fits := record(testKeys().rsa)
	p := strings.TrimPrefix(fits, "v=DKIM1; k=rsa; p=")
	z := withKey(fits)
	for _, c := range []struct {
		name    string
		message string
		zone    zone
		result  authres.Result
		reason  string
	}{
		{"whole", good, z, authres.Pass, ""},
		{"simple forms", signed(t, func(o *other.SignOptions) { o.HeaderCanonicalization, o.BodyCanonicalization = "simple", "simple" }), z, authres.Pass, ""},
		{"relaxed header only", signed(t, func(o *other.SignOptions) { o.BodyCanonicalization = "simple" }), z, authres.Pass, ""},
		{"Ed25519", signed(t, func(o *other.SignOptions) { o.Signer = testKeys().ed }), withKey(record(testKeys().ed)), authres.Pass, ""},
		{"an agent", signed(t, func(o *other.SignOptions) { o.Identifier = "x@sub.b.example" }), z, authres.Pass, ""},
		{"white space in the body", strings.Replace(good, "body\r\n", "body \t\r\n\r\n", 1), z, authres.Pass, ""},
		{"another body", strings.Replace(good, "body", "Body", 1), z, authres.Fail, "the body is not"},
		{"another subject", edit("Subject: one", "Subject: two"), z, authres.Fail, "the header is not"},
		{"more body", good + "x", z, authres.Fail, "the body is not"},
		{"version", edit("v=1", "v=2"), z, authres.Neutral, "version"},
		{"no domain", edit("d=b.example", "z=b.example"), z, authres.PermError, "no d="},
		{"a domain that is none", edit("d=b.example", "d=b..example"), z, authres.PermError, "d= is not"},
		{"a selector that is none", edit("s=s;", "s=-;"), z, authres.PermError, "s= is not"},
		{"a tag twice", edit("s=s;", "s=s; s=s;"), z, authres.PermError, "twice"},
		{"sha1", edit("a=rsa-sha256", "a=rsa-sha1"), z, authres.Fail, "sha1"},
		{"unknown algorithm", edit("a=rsa-sha256", "a=dsa-sha256"), z, authres.Neutral, "unknown algorithm"},
		{"unknown form", edit("c=relaxed/relaxed", "c=relaxed/nowsp"), z, authres.Neutral, "canonicalization"},
		{"unknown query", edit("s=s;", "s=s; q=http;"), z, authres.Neutral, "no known way"},
		{"an agent elsewhere", edit("s=s;", "s=s; i=@evil.example;"), z, authres.PermError, "i= is not"},
		{"From not signed", edit("h=From:", "h=To:"), z, authres.PermError, "From is not signed"},
		{"a length", edit("s=s;", "s=s; l=2;"), z, authres.Policy, "l="},
		{"a length and sha1", strings.Replace(edit("s=s;", "s=s; l=2;"), "rsa-sha256", "rsa-sha1", 1), z, authres.Fail, "sha1"},
		{"expired", edit("t=", "x=1000000000; z="), z, authres.Fail, "expired 2001-09-09"},
		{"of the future", edit("t=", "t=9"), z, authres.Fail, "future"},
		{"expires before it was made", edit("s=s;", "s=s; x=5;"), z, authres.PermError, "before it was made"},
		{"a time that is none", edit("t=", "t=x"), z, authres.PermError, "t= is not"},
		{"a time beyond all times", edit("s=s;", "s=s; x=999999999999999;"), z, authres.PermError, "x= is not"},
		{"a body hash that is none", edit("bh=", "bh=*"), z, authres.PermError, "bh= is not"},
		{"no key", good, zone{}, authres.PermError, "there is no key"},
		{"DNS is down", good, zone{"s._domainkey.b.example": nil}, authres.TempError, "DNS"},
		{"a revoked key", good, withKey("v=DKIM1; p="), authres.PermError, "revoked"},
		{"another key", good, withKey(record(newKey())), authres.Fail, "the header is not"},
		{"a key of another kind", good, withKey(record(testKeys().ed)), authres.PermError, "another kind"},
		{"a key not for this hash", good, withKey("v=DKIM1; h=sha1; p=" + p), authres.PermError, "hash"},
		{"a key not for mail", good, withKey("v=DKIM1; s=tlsrpt; p=" + p), authres.PermError, "not for mail"},
		{"a key without a version", good, withKey("p=" + p), authres.Pass, ""},
		{"a key's version late", good, withKey("p=" + p + "; v=DKIM1"), authres.PermError, "not first"},
		{"a key's version wrong", good, withKey("v=DKIM2; p=" + p), authres.PermError, "version"},
		{"a key that is no key", good, withKey("v=DKIM1; p=AAAA"), authres.PermError, "not an RSA key"},
		{"a key of unknown kind", good, withKey("v=DKIM1; k=pq; p=AAAA"), authres.PermError, "unknown kind"},
		{"a key that is no base64", good, withKey("v=DKIM1; p=***"), authres.PermError, "base64"},
		{"garbage", good, withKey("\x00\xff;;=;"), authres.PermError, "key record"},
		{"a huge record", good, withKey("v=DKIM1; p=" + p + "; n=" + strings.Repeat("x", 60000)), authres.PermError, "too long"},
		{"a key beside garbage", good, withKey("some=other text", "v=spf1 -all", fits), authres.Pass, ""},
		{"two keys", good, withKey(fits, fits), authres.PermError, "several keys"},
		{"a strict key", signed(t, func(o *other.SignOptions) { o.Identifier = "x@sub.b.example" }), withKey("v=DKIM1; t=s; p=" + p), authres.PermError, "t=s"},
		{"a strict key, kept to", good, withKey("v=DKIM1; t=s; p=" + p), authres.Pass, ""},
		{"a short key", good, withKey(oddKey(512)), authres.Fail, "512 bits proves nothing"},
		{"an endless key", good, withKey(oddKey(16384)), authres.Policy, "too much work"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sigs := verify(t, c.message, c.zone, time.Now())
			if len(sigs) != 1 || sigs[0].Result != c.result || !strings.Contains(sigs[0].Reason, c.reason) || c.result != authres.Pass && c.reason == "" {
				t.Errorf("%s %q, want %s %q", sigs[0].Result, sigs[0].Reason, c.result, c.reason)
			}
		})
	}
}

func newKey() *rsa.PrivateKey {
	k, _ := rsa.GenerateKey(rand.Reader, 2048)
	return k
}

// oddKey is the record of a key of any size; nobody has its private half.
func oddKey(bits int) string {
	n := make([]byte, bits/8)
	rand.Read(n)
	n[0], n[len(n)-1] = 0xc1, 0x01
	der := x509.MarshalPKCS1PublicKey(&rsa.PublicKey{N: new(big.Int).SetBytes(n), E: 65537})
	return "v=DKIM1; p=" + base64.StdEncoding.EncodeToString(der)
}

// TestMany: the first signatures are looked at, each key is asked for once, and
// only where the signature could pass.
func TestMany(t *testing.T) {
	var b strings.Builder
	for i := range 50 {
		fmt.Fprintf(&b, "DKIM-Signature: v=1; a=rsa-sha256; d=b.example; s=s%d; h=from; bh=AAAA; b=AAAA\r\n", i%3)
	}
	h, err := header.Read(bufio.NewReader(strings.NewReader(b.String() + plain)))
	if err != nil {
		t.Fatal(err)
	}
	sigs, omitted := Collect(h, 10, now)
	if len(sigs) != 10 || omitted != 40 {
		t.Errorf("%d looked at, %d omitted", len(sigs), omitted)
	}
	sigs[0].end(authres.Fail, "already")
	asked := &counter{}
	keys := NewKeys(asked)
	FetchKeys(t.Context(), keys, sigs[:2])
	keys.Wait()
	if asked.n != 1 {
		t.Errorf("%d lookups for one signature", asked.n)
	}
	FetchKeys(t.Context(), keys, sigs)
	keys.Wait()
	if asked.n != 3 {
		t.Errorf("%d lookups for three keys", asked.n)
	}
}

type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) TXT(context.Context, string) dns.Answer[string] {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return dns.Answer[string]{Status: dns.NoDomain}
}

// crowd answers nobody before so many have asked.
type crowd struct {
	waiting chan struct{} // for those who are not there yet
	all     chan struct{} // closed once all are
}

func (c crowd) TXT(ctx context.Context, _ string) dns.Answer[string] {
	select {
	case c.waiting <- struct{}{}:
	default:
		close(c.all)
	}
	select {
	case <-c.all:
		return dns.Answer[string]{Status: dns.NoDomain}
	case <-ctx.Done():
		return dns.Answer[string]{Status: dns.Failed}
	}
}

// TestNoSignatureWaits: keys that take all the time there is keep nobody from
// learning that another is not there.
func TestNoSignatureWaits(t *testing.T) {
	const signatures = 4 * maxLookups
	var h header.Header
	for i := range signatures {
		h = append(h, header.Field{Name: FieldName, Raw: fmt.Sprintf("DKIM-Signature: v=1; a=rsa-sha256; d=a%d.example; s=s; h=from; bh=AAAA; b=AAAA\r\n", i)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	sigs, _ := Collect(h, signatures, time.Now())
	keys := NewKeys(crowd{make(chan struct{}, signatures-1), make(chan struct{})})
	defer keys.Wait()
	FetchKeys(ctx, keys, sigs)
	Verify(h, sigs, keys, NewBody(BodyForms(sigs)...))
	for _, s := range sigs {
		if s.Result != authres.PermError {
			t.Fatalf("%s: %s (%s)", s.Domain, s.Result, s.Reason)
		}
	}
}

func TestWithoutB(t *testing.T) {
	for in, want := range map[string]string{
		"S: a=1; b=xyz; c=2\r\n":          "S: a=1; b=; c=2\r\n",
		"S: b = x\r\n y; bh=b=\r\n":       "S: b =; bh=b=\r\n",
		"S: bh=abcb= ; b=x\r\n":           "S: bh=abcb= ; b=",
		"S: bb=1;\r\n\tb=\r\n\t x y;\r\n": "S: bb=1;\r\n\tb=;\r\n",
		"S: a=1\r\n":                      "S: a=1\r\n",
		"b=no: d=2; b=3":                  "b=no: d=2; b=",
	} {
		if got := withoutB(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

// FuzzParse: no field panics or is taken without what a signature needs.
func FuzzParse(f *testing.F) {
	f.Add("DKIM-Signature: v=1; a=rsa-sha256; d=b.example; s=s; h=from; bh=AAAA; b=AAAA\r\n")
	f.Add("DKIM-Signature: v=1; a=ed25519-sha256; d=b.example; s=s; h=from:to; bh=AAAA; b=AAAA; t=1; x=2; i=@x.b.example; l=1; q=dns/txt; c=simple\r\n")
	f.Add("DKIM-Signature:;;;=;a=;\r\n")
	f.Fuzz(func(t *testing.T, raw string) {
		field := header.Field{Name: FieldName, Raw: raw}
		s := Parse(field, now)
		if s.Result == authres.Pass || s.Result == "" && (s.Domain == "" || s.Selector == "" || s.Algorithm == "" || s.sig == nil || s.bodyHash == nil) {
			t.Fatalf("%q: %+v", raw, s)
		}
		ParseARC(field, true, now)
		ParseARC(field, false, now)
		if got := withoutB(raw); len(got) > len(raw) || withoutB(got) != got {
			t.Fatalf("without b: %q becomes %q", raw, got)
		}
	})
}

// FuzzParseKey: a record that is taken has a key that can be used.
func FuzzParseKey(f *testing.F) {
	f.Add(record(testKeys().rsa))
	f.Add(record(testKeys().ed))
	f.Add("v=DKIM1; h=sha256; t=y:s; s=email; p=")
	f.Fuzz(func(t *testing.T, text string) {
		k, err := ParseKey(text)
		if err != nil {
			return
		}
		if k.Public == nil || k.Bits <= 0 {
			t.Fatalf("%q: %+v", text, k)
		}
		k.verify(make([]byte, 32), make([]byte, 64))
	})
}

package arc

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/header"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// zone answers from a table; names that it does not hold do not exist.
type zone map[string]string

func (z zone) TXT(_ context.Context, name string) dns.Answer[string] {
	switch text, ok := z[name]; {
	case !ok:
		return dns.Answer[string]{Status: dns.NoDomain}
	case text == "down":
		return dns.Answer[string]{Status: dns.Failed}
	default:
		return dns.Answer[string]{Status: dns.Found, Records: []string{text}}
	}
}

var testKeys = sync.OnceValue(func() []crypto.Signer {
	r, _ := rsa.GenerateKey(rand.Reader, 2048)
	_, e, _ := ed25519.GenerateKey(rand.Reader)
	return []crypto.Signer{r, e}
})

// sealer returns the n-th forwarder; they take turns in the kind of key.
func sealer(n int) Sealer {
	return Sealer{Domain: fmt.Sprintf("hop%d.example", n), Selector: "arc", Key: testKeys()[n%2], AuthservID: fmt.Sprintf("mx.hop%d.example", n)}
}

func sealers() zone {
	z := zone{}
	for n := range 60 {
		s := sealer(n)
		record := "v=DKIM1; k=ed25519; p="
		der, _ := s.Key.Public().(ed25519.PublicKey)
		if der == nil {
			b, _ := x509.MarshalPKIXPublicKey(s.Key.Public())
			record, der = "v=DKIM1; p=", b
		}
		z["arc._domainkey."+s.Domain] = record + base64.StdEncoding.EncodeToString(der)
	}
	return z
}

var now = time.Unix(1_795_000_000, 0)

func validate(t testing.TB, message string, z zone, trusted ...string) Chain {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(message))
	h, err := header.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	c := Collect(h, now)
	keys := dkim.NewKeys(z)
	defer keys.Wait()
	c.FetchKeys(t.Context(), keys)
	body := dkim.NewBody(c.BodyForms()...)
	io.Copy(body, r)
	c.Verify(h, keys, body, trusted)
	return c
}

// forward lets forwarders seal a message in turn.
func forward(t testing.TB, message string, from, to int) string {
	t.Helper()
	z := sealers()
	for n := from; n < to; n++ {
		c := validate(t, message, z)
		set, err := sealer(n).Seal(strings.NewReader(message), c, []authres.Method{
			{Name: "arc", Result: c.Result},
			{Name: "spf", Result: authres.Pass, Props: []authres.Prop{{Type: "smtp", Name: "mailfrom", Value: fmt.Sprintf("from%d.example", n)}}},
		}, now)
		if err != nil {
			t.Fatal(err)
		}
		message = set + message
	}
	return message
}

const plain = "From: a@author.example\r\nTo: b@list.example\r\nSubject: one\r\nDate: Mon, 23 Nov 2026 06:00:00 +0000\r\n\r\nbody\r\n"

func TestSealedChains(t *testing.T) {
	for _, n := range []int{1, 2, 3, 50} {
		message := forward(t, plain, 0, n)
		c := validate(t, message, sealers())
		if c.Result != authres.Pass || c.Length != n || c.Sealer != fmt.Sprintf("hop%d.example", n-1) {
			t.Errorf("%d sets: %s %s, length %d, by %s", n, c.Result, c.Reason, c.Length, c.Sealer)
		}
		if n < maxSets {
			continue
		}
		if _, err := sealer(0).Seal(strings.NewReader(message), c, nil, now); !errors.Is(err, ErrNotSealed) {
			t.Errorf("a full chain: %v", err)
		}
	}
}

func TestBrokenChains(t *testing.T) {
	three := forward(t, plain, 0, 3)
	replace := func(old, new string) string {
		t.Helper()
		if !strings.Contains(three, old) {
			t.Fatalf("%q is not there", old)
		}
		return strings.Replace(three, old, new, 1)
	}
	without := func(i int, names ...string) string {
		var out strings.Builder
		r := bufio.NewReader(strings.NewReader(three))
		h, _ := header.Read(r)
		for _, f := range h {
			if n, _ := instance(f); slices.Contains(names, f.Name) && n == i {
				continue
			}
			out.WriteString(f.Raw)
		}
		rest, _ := io.ReadAll(r)
		return out.String() + "\r\n" + string(rest)
	}
	z := func(change func(zone)) zone {
		all := sealers()
		change(all)
		return all
	}
	for _, c := range []struct {
		name    string
		message string
		zone    zone
		result  authres.Result
		reason  string // part of it
	}{
		{"whole", three, sealers(), authres.Pass, ""},
		{"no chain", plain, sealers(), authres.None, ""},
		{"another body", strings.Replace(three, "body", "bodies", 1), sealers(), authres.Fail, "message signature 3: the body"},
		{"another subject", replace("Subject: one", "Subject: two"), sealers(), authres.Fail, "message signature 3: the header"},
		{"a second author", "From: c@evil.example\r\n" + three, sealers(), authres.Fail, "message signature 3: the header"},
		{"results of the first hop changed", replace("from0.example", "fromX.example"), sealers(), authres.Fail, "seal 3"},
		{"results of the last hop changed", replace("from2.example", "fromX.example"), sealers(), authres.Fail, "seal 3"},
		{"first seal missing", without(1, nameSeal), sealers(), authres.Fail, "set 1 is not complete"},
		{"second set missing", without(2, nameSeal, nameMessage, nameResults), sealers(), authres.Fail, "set 2 is not complete"},
		{"last results missing", without(3, nameResults), sealers(), authres.Fail, "set 3 is not complete"},
		{"a gap", replace("ARC-Seal: i=3;", "ARC-Seal: i=4;"), sealers(), authres.Fail, "not complete"},
		{"instance 0", "ARC-Seal: i=0; b=x\r\n" + three, sealers(), authres.Fail, "valid instance"},
		{"instance 51", "ARC-Seal: i=51; b=x\r\n" + three, sealers(), authres.Fail, "more than 50"},
		{"no number", "ARC-Seal: i=one; b=x\r\n" + three, sealers(), authres.Fail, "valid instance"},
		{"a set twice", "ARC-Authentication-Results: i=2; x; none\r\n" + three, sealers(), authres.Fail, "twice"},
		{"first says pass", replace("cv=none", "cv=pass"), sealers(), authres.Fail, "cv= is wrong"},
		{"second says none", replace("cv=pass", "cv=none"), sealers(), authres.Fail, "cv= is wrong"},
		{"one says fail", replace("cv=pass", "cv=fail"), sealers(), authres.Fail, "broken before"},
		{"a seal with h=", replace("; cv=pass", "; h=from; cv=pass"), sealers(), authres.Fail, "it has h="},
		{"a signature without From", replace("h=from:\r\n\t from:", "h="), sealers(), authres.Fail, "From is not signed"},
		{"a seal with sha1", replace("ARC-Seal: i=3; a=rsa-sha256", "ARC-Seal: i=3; a=rsa-sha1"), sealers(), authres.Fail, "sha1"},
		{"a signature that covers a seal", replace("h=from:", "h=arc-seal:from:"), sealers(), authres.Fail, "covers a seal"},
		{"no key of the first", three, z(func(z zone) { delete(z, "arc._domainkey.hop0.example") }), authres.Fail, "seal 1: there is no key"},
		{"DNS of the first is down", three, z(func(z zone) { z["arc._domainkey.hop0.example"] = "down" }), authres.TempError, "DNS"},
		{"another key of the second", three, z(func(z zone) { z["arc._domainkey.hop1.example"] = z["arc._domainkey.hop0.example"] }), authres.Fail, "seal 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := validate(t, c.message, c.zone)
			if got.Result != c.result || !strings.Contains(got.Reason, c.reason) {
				t.Errorf("%s %q, want %s %q", got.Result, got.Reason, c.result, c.reason)
			}
		})
	}
}

func TestTrustedSealers(t *testing.T) {
	three := forward(t, plain, 0, 3)
	for _, c := range []struct {
		trusted []string
		from    int
	}{
		{nil, 0},
		{[]string{"hop2.example"}, 3},
		{[]string{"hop2.example", "hop1.example"}, 2},
		{[]string{"hop0.example", "hop1.example", "hop2.example"}, 1},
		{[]string{"hop0.example", "hop1.example"}, 0}, // the last one could have made up all before it
		{[]string{"hop0.example", "hop2.example"}, 3},
	} {
		got := validate(t, three, sealers(), c.trusted...)
		if got.From != c.from || got.Trusted != (c.from > 0) {
			t.Errorf("%v: from %d, trusted %v", c.trusted, got.From, got.Trusted)
		}
		if c.from > 0 && (len(got.Results) != 2 || got.Results[1].Prop("smtp", "mailfrom") != fmt.Sprintf("from%d.example", c.from-1)) {
			t.Errorf("%v: results %+v", c.trusted, got.Results)
		}
	}
	if got := validate(t, strings.Replace(three, "body", "x", 1), sealers(), "hop2.example"); got.Trusted || got.Results != nil {
		t.Error("a broken chain is trusted")
	}
}

// TestUnsureSealers: a chain that DNS does not tell of now may be a trusted
// sealer's only if nobody else can have seen to that.
func TestUnsureSealers(t *testing.T) {
	two := forward(t, plain, 0, 2)
	down := func(domains ...string) zone {
		z := sealers()
		for _, d := range domains {
			z["arc._domainkey."+d] = "down"
		}
		return z
	}
	seal, rest, _ := strings.Cut(forward(t, plain, 0, 1), "ARC-Message-Signature")
	above := strings.Replace(seal, "d=hop0.example", "d=hop1.example", 1) + "ARC-Message-Signature" + rest
	for _, c := range []struct {
		name, message string
		z             zone
		trusted       string
		want          authres.Result
		unsure        bool
	}{
		{"the trusted one's key", two, down("hop1.example"), "hop1.example", authres.TempError, true},
		{"the one's before", two, down("hop0.example"), "hop1.example", authres.TempError, true},
		{"nobody's that is trusted", two, down("hop1.example"), "hop0.example", authres.TempError, false},
		{"changed since", strings.Replace(two, "body", "x", 1), down("hop0.example"), "hop1.example", authres.Fail, false},
		{"a trusted name above another's signature", above, down("hop0.example"), "hop1.example", authres.TempError, false},
		{"all is there", two, sealers(), "hop1.example", authres.Pass, false},
	} {
		if got := validate(t, c.message, c.z, c.trusted); got.Result != c.want || got.Unsure != c.unsure {
			t.Errorf("%s: %s (%s), unsure %v", c.name, got.Result, got.Reason, got.Unsure)
		}
	}
}

func TestSealingOfBrokenChains(t *testing.T) {
	changed := strings.Replace(forward(t, plain, 0, 2), "body", "bodies", 1)
	sealed := forward(t, changed, 2, 3)
	if !strings.Contains(sealed, "ARC-Seal: i=3;") || !strings.Contains(sealed, "cv=fail") {
		t.Errorf("sealed as %.300s", sealed)
	}
	got := validate(t, sealed, sealers())
	if got.Result != authres.Fail || !strings.Contains(got.Reason, "broken before") {
		t.Errorf("%s %s", got.Result, got.Reason)
	}
	for name, c := range map[string]Chain{
		"broken before":    got,
		"cannot be told":   {Result: authres.TempError},
		"not looked at":    {},
		"more than enough": validate(t, "ARC-Seal: i=60; b=x\r\n"+plain, sealers()),
	} {
		if _, err := sealer(0).Seal(strings.NewReader(plain), c, nil, now); !errors.Is(err, ErrNotSealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := (Sealer{}).Seal(strings.NewReader(plain), Chain{Result: authres.None}, nil, now); err == nil {
		t.Error("sealed without a key")
	}
}

// FuzzCollect: every header gets a result, and no chain passes but the one that
// the sealers have made.
func FuzzCollect(f *testing.F) {
	f.Add("ARC-Seal: i=1; a=rsa-sha256; d=x.example; s=s; cv=none; b=AA\r\nARC-Message-Signature: i=1; a=rsa-sha256; d=x.example; s=s; h=from; bh=AA; b=AA\r\nARC-Authentication-Results: i=1; x; none\r\n\r\n")
	f.Add(forward(f, plain, 0, 2))
	f.Add("ARC-Seal: i=\r\nARC-Seal: i=;;=\r\n\r\n")
	good := sealers()
	f.Fuzz(func(t *testing.T, message string) {
		if h, err := header.Read(bufio.NewReader(strings.NewReader(message))); err != nil || h == nil {
			return
		}
		c := validate(t, message, good)
		if c.Result == "" || c.Result == authres.Pass && c.Length != 2 {
			t.Fatalf("%s %s, length %d, for %q", c.Result, c.Reason, c.Length, message)
		}
	})
}

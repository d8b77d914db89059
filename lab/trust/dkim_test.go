package trust

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
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	other "github.com/emersion/go-msgauth/dkim"
	"go.uber.org/goleak"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/trust"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/header"
	"mailxmppd/trust/signing"
)

// server is where the zones are served: OpenDKIM asks at port 53 only.
const server = "127.91.0.1"

func TestMain(m *testing.M) {
	if err := Installed(); err != nil {
		if errors.Is(err, ErrNotInstalled) && os.Getenv("MAILXMPPD_LAB") == "optional" {
			fmt.Println("skipped:", err)
			return
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// pair is a key in the forms that the programs want.
type pair struct {
	signer crypto.Signer
	pem    string // for dkimpy: PKCS #1, or the bare seed in base64
	record string
}

func newPair(t testing.TB, kind string, bits int) pair {
	t.Helper()
	if kind == "ed25519" {
		public, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return pair{private, base64.StdEncoding.EncodeToString(private.Seed()), "v=DKIM1; k=ed25519; p=" + base64.StdEncoding.EncodeToString(public)}
	}
	private, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	file := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(private)})
	return pair{private, string(file), "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)}
}

func text(s string) [][2]string { return [][2]string{{"TXT", s}} }

func serve(t testing.TB, z Zone) *dns.Resolver {
	t.Helper()
	r, stop := serveUntil(t, z)
	t.Cleanup(stop)
	return r
}

// serveUntil is for a test that serves one zone after another.
func serveUntil(t testing.TB, z Zone) (*dns.Resolver, func()) {
	t.Helper()
	_, stop, err := z.Serve(server + ":53")
	if err != nil {
		t.Fatal(err)
	}
	r, err := dns.New([]string{server}, 2*time.Second)
	if err != nil {
		stop()
		t.Fatal(err)
	}
	return r, stop
}

func ours(t testing.TB, r *dns.Resolver, message []byte) trust.Evidence {
	t.Helper()
	return trust.New(trust.Config{DNS: r}).Evaluate(t.Context(), trust.Input{Arrival: trust.ByXMPP, Content: mail.Bytes(message)})
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func signGo(t testing.TB, message string, key pair, selector, header, body string) string {
	t.Helper()
	var out bytes.Buffer
	err := other.Sign(&out, strings.NewReader(message), &other.SignOptions{Domain: "signer.example", Selector: selector, Signer: key.signer,
		HeaderCanonicalization: other.Canonicalization(header), BodyCanonicalization: other.Canonicalization(body)})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

const plain = "From: Romeo <romeo@signer.example>\r\nTo: juliet@capulet.example\r\nSubject:  two   spaces\r\n\tand a fold\r\n" +
	"Date: Mon, 23 Nov 2026 06:00:00 +0000\r\nMessage-ID: <1@signer.example>\r\n\r\nIt  is the east.\t\r\n\r\n  indented\r\n\r\n\r\n"

// TestDKIM: four programs say of each message what we say.
func TestDKIM(t *testing.T) {
	r2048, r1024, ed := newPair(t, "rsa", 2048), newPair(t, "rsa", 1024), newPair(t, "ed25519", 0)
	zone := Zone{
		"r._domainkey.signer.example":       text(r2048.record),
		"k._domainkey.signer.example":       text(r1024.record),
		"e._domainkey.signer.example":       text(ed.record),
		"revoked._domainkey.signer.example": text("v=DKIM1; p="),
		"garbage._domainkey.signer.example": text("v=DKIM1; p=****"),
		"sha1._domainkey.signer.example":    text(strings.Replace(r2048.record, "k=rsa", "k=rsa; h=sha1", 1)),
		"web._domainkey.signer.example":     text(strings.Replace(r2048.record, "k=rsa", "k=rsa; s=web", 1)),
	}
	good := signGo(t, plain, r2048, "r", "relaxed", "relaxed")
	type row struct {
		name, message string
		pass          bool
		differ        map[string]bool // what another program says instead
	}
	rows := []row{
		{"another body", strings.Replace(good, "east", "west", 1), false, nil},
		{"another subject", strings.Replace(good, "spaces", "places", 1), false, nil},
		{"more white space", strings.Replace(good, "It  is", "It \t is ", 1), true, nil},
		{"less empty lines", strings.TrimSuffix(good, "\r\n\r\n"), true, nil},
		{"text below", good + "more\r\n", false, nil},
		{"field added above", "X-New: yes\r\n" + good, true, nil},
		// go-msgauth does not oversign, and so the signature is right. OpenDKIM
		// and dkimpy refuse such a message for its form; our evidence has that as
		// a problem of From, which keeps the author from being proven.
		{"second From above", "From: m@evil.example\r\n" + good, true, map[string]bool{"OpenDKIM": false, "dkimpy": false}},
		{"no key", strings.Replace(good, "s=r;", "s=x;", 1), false, nil},
		{"revoked key", signGo(t, plain, r2048, "revoked", "relaxed", "relaxed"), false, nil},
		{"garbage for a key", signGo(t, plain, r2048, "garbage", "relaxed", "relaxed"), false, nil},
		{"key of another", signGo(t, plain, r2048, "k", "relaxed", "relaxed"), false, nil},
		// dkimpy does not look at the key's hashes (RFC 6376 section 3.6.1).
		{"key for sha1 only", signGo(t, plain, r2048, "sha1", "relaxed", "relaxed"), false, map[string]bool{"dkimpy": true}},
		{"expired", strings.Replace(good, "t=", "x=1000000000; z=", 1), false, nil},
		{"no From signed", strings.Replace(good, "h=From:", "h=", 1), false, nil},
	}
	for _, c := range []struct {
		name, selector string
		key            pair
	}{{"RSA 2048", "r", r2048}, {"RSA 1024", "k", r1024}, {"Ed25519", "e", ed}} {
		for _, header := range []string{"simple", "relaxed"} {
			for _, body := range []string{"simple", "relaxed"} {
				m := signGo(t, plain, c.key, c.selector, header, body)
				name := c.name + " " + header + "/" + body
				var differ map[string]bool
				if c.selector == "e" {
					differ = map[string]bool{"Mail::DKIM": false} // it does not know Ed25519
				}
				rows = append(rows, row{name, m, true, differ}, row{name + ", broken", strings.Replace(m, "indented", "outdented", 1), false, nil})
			}
		}
	}

	resolver := serve(t, zone)
	var messages [][]byte
	for _, r := range rows {
		messages = append(messages, []byte(r.message))
	}
	py, err := askPython(within(t), job{Zone: zone, Messages: messages})
	if err != nil {
		t.Fatal(err)
	}
	perl, err := askPerl(within(t), t.TempDir(), server+":53", messages)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			ev := ours(t, resolver, messages[i])
			if len(ev.DKIM) != 1 || (ev.DKIM[0].Result == authres.Pass) != r.pass {
				t.Errorf("ours: %s %s", ev.DKIM[0].Result, ev.DKIM[0].Reason)
			}
			open, err := askOpenDKIM(within(t), dir, server, messages[i])
			if err != nil {
				t.Fatal(err)
			}
			for program, said := range map[string]bool{
				"dkimpy": py.Signatures[i][0] == "pass", "Mail::DKIM": perl[i][1] == "pass", "OpenDKIM": open,
			} {
				want, differs := r.differ[program]
				if !differs {
					want = r.pass
				}
				if said != want {
					t.Errorf("%s says %v: python %v, perl %v", program, said, py.Signatures[i], perl[i])
				}
			}
		})
	}
}

// TestSign: what we sign for our users is right to four programs, and no longer
// once anything is changed or added.
func TestSign(t *testing.T) {
	made, err := signing.GenerateAll("signer.example", time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	zone := Zone{}
	var keys []signing.Key
	for _, m := range made {
		k, err := signing.Open(m)
		if err != nil {
			t.Fatal(err)
		}
		record, err := k.Record()
		if err != nil {
			t.Fatal(err)
		}
		zone[k.RecordName()] = text(record)
		keys = append(keys, k)
	}
	resolver := serve(t, zone)
	type row struct {
		name    string
		message string
		pass    bool
	}
	var rows []row
	for _, k := range keys {
		good := signOurs(t, plain, k)
		rows = append(rows,
			row{k.Kind, good, true},
			row{k.Kind + ", a long subject and no body", signOurs(t, strings.Replace(plain[:strings.Index(plain, "\r\n\r\n")+4], "spaces", strings.Repeat("x y ", 200), 1), k), true},
			row{k.Kind + ", another body", strings.Replace(good, "east", "west", 1), false},
			row{k.Kind + ", a second subject", "Subject: x\r\n" + good, false},
			row{k.Kind + ", a second recipient", "To: x@y.example\r\n" + good, false},
			row{k.Kind + ", another date", strings.Replace(good, "Date: Mon", "Date: Tue", 1), false},
		)
	}
	var messages [][]byte
	for _, r := range rows {
		messages = append(messages, []byte(r.message))
	}
	py, err := askPython(within(t), job{Zone: zone, Messages: messages})
	if err != nil {
		t.Fatal(err)
	}
	perl, err := askPerl(within(t), t.TempDir(), server+":53", messages)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			if ev := ours(t, resolver, messages[i]); (ev.DKIM[0].Result == authres.Pass) != r.pass {
				t.Errorf("ours: %s %s", ev.DKIM[0].Result, ev.DKIM[0].Reason)
			}
			if open, err := askOpenDKIM(within(t), dir, server, messages[i]); err != nil || open != r.pass {
				t.Errorf("OpenDKIM says %v, %v", open, err)
			}
			if (py.Signatures[i][0] == "pass") != r.pass {
				t.Errorf("dkimpy says %v", py.Signatures[i])
			}
			if (perl[i][1] == "pass") != r.pass && strings.HasPrefix(r.name, "rsa") { // Mail::DKIM does not know Ed25519
				t.Errorf("Mail::DKIM says %v", perl[i])
			}
		})
	}
}

// signOurs prepends a signature as the gateway makes it.
func signOurs(t *testing.T, message string, k signing.Key) string {
	t.Helper()
	r := bufio.NewReader(strings.NewReader(message))
	h, err := header.Read(r)
	if err != nil {
		t.Fatal(err)
	}
	body := dkim.NewBody(dkim.Relaxed)
	io.Copy(body, r)
	field, err := dkim.Signer{Domain: k.Domain, Selector: k.Selector, Key: k.Signer}.Sign(h, body, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return field + message
}

// TestRealMessages: real messages, signed by dkimpy in every form, are valid to
// us, and with an octet changed they are not.
func TestRealMessages(t *testing.T) {
	files, err := filepath.Glob("../../.cache/spam-assassin/data/*/*.txt")
	if err != nil || len(files) == 0 {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip("the corpus is not there")
		}
		t.Fatalf("no messages (%v); scripts/corpus fetches them", err)
	}
	every := 60
	if os.Getenv("MAILXMPPD_LONG") != "" {
		every = 1
	}
	r2048, ed := newPair(t, "rsa", 2048), newPair(t, "ed25519", 0)
	zone := Zone{"r._domainkey.signer.example": text(r2048.record), "e._domainkey.signer.example": text(ed.record)}
	resolver := serve(t, zone)
	var jobs []signJob
	for i := 0; i < len(files); i += every {
		b, err := os.ReadFile(files[i])
		if err != nil {
			t.Fatal(err)
		}
		m := strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n")
		if strings.HasPrefix(m, "From ") { // of the mbox that it lay in
			_, m, _ = strings.Cut(m, "\r\n")
		}
		head, _, ok := strings.Cut(m, "\r\n\r\n")
		if !ok || strings.Count(strings.ToLower("\r\n"+head), "\r\nfrom:") != 1 {
			continue // not as it was sent
		}
		n := len(jobs)
		j := signJob{Message: []byte(m), Domain: "signer.example", Selector: "r", Key: r2048.pem, Algorithm: "rsa-sha256",
			Header: []string{"simple", "relaxed"}[n%2], Body: []string{"simple", "relaxed"}[n/2%2]}
		if n%3 == 0 {
			j.Selector, j.Key, j.Algorithm = "e", ed.pem, "ed25519-sha256"
		}
		jobs = append(jobs, j)
	}
	a, err := askPython(within(t), job{Zone: zone, Sign: jobs})
	if err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	for i, j := range jobs {
		m := append(a.Signed[i], j.Message...)
		messages = append(messages, m)
		if ev := ours(t, resolver, m); len(ev.DKIM) == 0 || ev.DKIM[0].Result != authres.Pass {
			t.Errorf("message %d, %s/%s: %v %+v", i, j.Header, j.Body, ev.Header, ev.DKIM)
		}
		body := bytes.Index(m, []byte("\r\n\r\n")) + 4
		at := bytes.IndexFunc(m[body:], func(c rune) bool { return c > ' ' && c < 0x7f })
		if at < 0 {
			continue
		}
		changed := bytes.Clone(m)
		changed[body+at] ^= 1
		if ev := ours(t, resolver, changed); ev.DKIM[0].Result != authres.Fail {
			t.Errorf("message %d, changed: %s", i, ev.DKIM[0].Result)
		}
	}
	perl, err := askPerl(within(t), t.TempDir(), server+":53", messages)
	if err != nil {
		t.Fatal(err)
	}
	rsaSigned, agree := 0, 0
	for i, said := range perl {
		if jobs[i].Algorithm != "rsa-sha256" {
			continue // Mail::DKIM does not know Ed25519
		}
		if rsaSigned++; said[1] == "pass" {
			agree++
		} else {
			t.Logf("message %d: Mail::DKIM says %s", i, said[1])
		}
	}
	t.Logf("%d messages; of %d signed with RSA Mail::DKIM passes %d", len(messages), rsaSigned, agree)
	if len(messages) < 50 || agree < rsaSigned*95/100 {
		t.Error("too few")
	}
}

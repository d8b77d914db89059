package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "write the messages into testdata instead of comparing")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every bad-*.toml must be refused with exactly the messages of its bad-*.txt.
func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	writeMaterial(t, dir, "capulet.example")
	files, err := filepath.Glob("testdata/config/bad-*.toml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	said := map[string]string{}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".toml"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, filepath.Base(file))
			writeFile(t, path, string(text))
			_, err = Load(path)
			problems, ok := errors.AsType[*Errors](err)
			if !ok || len(problems.List) == 0 {
				t.Fatalf("loaded, or a wrong kind of error: %v", err)
			}
			got := strings.ReplaceAll(problems.Error(), dir+"/", "") + "\n"
			golden := strings.TrimSuffix(file, ".toml") + ".txt"
			if *update {
				writeFile(t, golden, got)
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
			if first := said[got[strings.IndexByte(got, ':'):]]; first != "" {
				t.Errorf("says the same as %s", first)
			}
			said[got[strings.IndexByte(got, ':'):]] = file
		})
	}
	for _, golden := range mustGlob(t, "testdata/config/bad-*.txt") {
		if !slices.Contains(files, strings.TrimSuffix(golden, ".txt")+".toml") {
			t.Errorf("%s has no file beside it", golden)
		}
	}
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		filepath.Join(dir, "absent.toml"): filepath.Join(dir, "absent.toml") + ": no such file or directory",
		dir:                               dir + ": is a directory",
	} {
		if _, err := Load(path); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	big := filepath.Join(dir, "big.toml")
	writeFile(t, big, strings.Repeat("# filler\n", maxFile/8))
	if _, err := Load(big); err == nil || !strings.Contains(err.Error(), "is longer than") {
		t.Errorf("a file without end was read: %v", err)
	}
}

// The smallest file that works, and what is made of it.
func TestCompleted(t *testing.T) {
	dir := t.TempDir()
	writeMaterial(t, dir, "xn--bcher-kva.example")
	path := filepath.Join(dir, "mailxmppd.toml")
	writeFile(t, path, `
[[domain]]
name = "Bücher.Example"
certificate = "good.pem"
key = "good.key"
deliver = "lmtp:///run/dovecot/lmtp"
verify = "table"
recipients = ["juliet", "\"the nurse\"@bücher.example"]

[[domain]]
name = "verona.example"
certificate = "good.pem"
key = "good.key"
deliver = "smtp://[::1]:26"
default = true

[[listener]]
kind = "relay"
address = "127.0.0.1:0"
trusted = ["127.0.0.1", "2001:db8::/32"]

[store]
url = "sqlite:mail.db"

[dns]
servers = ["127.0.0.1", "::1", "192.0.2.1:5353"]

[[route]]
domain = "*"
next = "smtp://smarthost.example:587"
user = "capulet"
password_file = "secret"

[[route]]
domain = "legacy.example"
`)
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	first := cfg.Domains[0]
	boxes, err := first.Mailboxes()
	if err != nil {
		t.Fatal(err)
	}
	database, isSQLite := cfg.Store.SQLitePath()
	smart, mx := cfg.Routes[0], cfg.Routes[1]
	for _, c := range []struct{ what, got, want string }{
		{"domain", first.Name, "xn--bcher-kva.example"},
		{"certificate", first.Certificate, filepath.Join(dir, "good.pem")},
		{"socket", first.Deliver, "lmtp:///run/dovecot/lmtp"},
		{"recipient", boxes[0].String(), "juliet@xn--bcher-kva.example"},
		{"quoted recipient", boxes[1].String(), `"the nurse"@xn--bcher-kva.example`},
		{"default domain", cfg.DefaultDomain().Name, "verona.example"},
		{"hostname", cfg.SMTP.Hostname, "xn--bcher-kva.example"},
		{"database", database, filepath.Join(dir, "mail.db")},
		{"servers", strings.Join(cfg.DNS.Servers, " "), "127.0.0.1:53 [::1]:53 192.0.2.1:5353"},
		{"single address", cfg.Listeners[0].Trusted[0].String(), "127.0.0.1/32"},
		{"listener TLS", cfg.Listeners[0].TLS, ListenStartTLS},
		{"smarthost TLS", smart.TLS, TLSVerified},
		{"password", string(smart.Password), "hush"},
		{"password file", smart.PasswordFile, filepath.Join(dir, "secret")},
		{"route next", mx.Next, NextMX},
		{"route TLS", mx.TLS, TLSOpportunistic},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, c.got, c.want)
		}
	}
	if !isSQLite || first.Default {
		t.Errorf("SQLite %v, first domain default %v", isSQLite, first.Default)
	}
	if _, err := first.LoadCertificate(); err != nil {
		t.Error(err)
	}
	if pool, err := cfg.TLS.Pool(); pool != nil || err != nil {
		t.Error("the system's roots are nil", err)
	}
}

func TestSecretsFromEnvironment(t *testing.T) {
	dir := t.TempDir()
	writeMaterial(t, dir, "capulet.example")
	t.Setenv("MAILXMPPD_TEST_URL", "postgres://mail:hush@db.example/mail")
	t.Setenv("MAILXMPPD_TEST_PASSWORD", "hush")
	path := filepath.Join(dir, "mailxmppd.toml")
	writeFile(t, path, minimal+`
[store]
url_env = "MAILXMPPD_TEST_URL"

[[route]]
domain = "*"
next = "smtp://smarthost.example:587"
user = "capulet"
password_env = "MAILXMPPD_TEST_PASSWORD"
`)
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Store.URL != "postgres://mail:hush@db.example/mail" || cfg.Routes[0].Password != "hush" {
		t.Errorf("got %q and %q", cfg.Store.URL, string(cfg.Routes[0].Password))
	}
	text, err := cfg.TOML()
	if err != nil || strings.Contains(string(text), "hush") {
		t.Errorf("%v, or a secret is printed:\n%s", err, text)
	}
	writeFile(t, path, string(text))
	again, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	normalise(reflect.ValueOf(cfg).Elem())
	normalise(reflect.ValueOf(again).Elem())
	if !reflect.DeepEqual(again, cfg) {
		t.Errorf("what is printed does not load as the same:\n%+v\n%+v", again, cfg)
	}
}

const minimal = `[[domain]]
name = "capulet.example"
certificate = "good.pem"
key = "good.key"
deliver = "lmtp://127.0.0.1:24"
`

// writeMaterial writes what the files of the tests name: a certificate with
// its key, another key, files that are neither, and a secret.
func writeMaterial(t *testing.T, dir, domain string) {
	t.Helper()
	cert, key := makeCertificate(t, domain)
	_, other := makeCertificate(t, domain)
	for name, text := range map[string]string{
		"good.pem": cert, "good.key": key, "other.key": other,
		"text.pem": "This is\nnot PEM.\n", "secret": "hush\n", "empty": "\n",
	} {
		writeFile(t, filepath.Join(dir, name), text)
	}
}

func makeCertificate(t *testing.T, domain string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: domain}, DNSNames: []string{domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func mustGlob(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

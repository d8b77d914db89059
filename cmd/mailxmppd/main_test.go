package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// asProgram makes the test binary behave as mailxmppd itself, for what only a
// process of its own shows.
const asProgram = "MAILXMPPD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// call runs a command line inside this process.
func call(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestCommandLines(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent.toml")
	bad := filepath.Join(dir, "bad.toml")
	writeFile(t, bad, "[queue]\nlifetime = 5\nspeed = 1\n")
	id := "01JDX2V9N0000000000000000A"
	for _, c := range []struct {
		args   string
		code   int
		stderr string // all of it
	}{
		{"", 2, "mailxmppd: no command given; see mailxmppd --help\n"},
		{"frobnicate", 2, "mailxmppd: unknown command \"frobnicate\" for \"mailxmppd\"; see mailxmppd --help\n"},
		{"serve", 2, "mailxmppd: required flag(s) \"config\" not set; see mailxmppd serve --help\n"},
		{"serve --config " + absent + " x", 2, "mailxmppd: unknown command \"x\" for \"mailxmppd serve\"; see mailxmppd serve --help\n"},
		{"serve --frobnicate", 2, "mailxmppd: unknown flag: --frobnicate; see mailxmppd serve --help\n"},
		{"serve --config " + absent, 1, "mailxmppd: " + absent + ": no such file or directory\n"},
		{"serve --config " + bad, 1, "mailxmppd: " + bad + ":1: domain: is missing: at least one [[domain]] is needed\n" +
			"mailxmppd: " + bad + ":2: queue.lifetime: wants a string, not an integer\n" +
			"mailxmppd: " + bad + ":3: queue.speed: unknown key\n"},
		{"demo x", 2, "mailxmppd: unknown command \"x\" for \"mailxmppd demo\"; see mailxmppd demo --help\n"},
		{"queue", 2, "mailxmppd: no queue command given; see mailxmppd queue --help\n"},
		{"queue list", 2, "mailxmppd: required flag(s) \"config\" not set; see mailxmppd queue list --help\n"},
		{"queue list --config " + absent, 1, "mailxmppd: " + absent + ": no such file or directory\n"},
		{"queue list --limit 0 --config " + absent, 2, "mailxmppd: --limit wants a number from 1 to 10000; see mailxmppd queue list --help\n"},
		{"queue list --domain a..b --config " + absent, 2, "mailxmppd: domain \"a..b\": empty label; see mailxmppd queue list --help\n"},
		{"queue show --config " + absent, 2, "mailxmppd: accepts 1 arg(s), received 0; see mailxmppd queue show --help\n"},
		{"queue show X --config " + absent, 2, "mailxmppd: message id \"X\": want 26 characters of Crockford base32; see mailxmppd queue show --help\n"},
		{"queue list --state waiting --config " + absent, 2, "mailxmppd: --state waiting: want one of due, deferred, leased, held, delivered, bounced, expired, dropped; see mailxmppd queue list --help\n"},
		{"queue list --older soon --config " + absent, 2, "mailxmppd: invalid argument \"soon\" for \"--older\" flag: \"soon\" is not a time span such as \"90s\", \"4h\" or \"5d\"; see mailxmppd queue list --help\n"},
		{"queue list --sender @a..b --config " + absent, 2, "mailxmppd: domain \"a..b\": empty label; see mailxmppd queue list --help\n"},
		{"queue list --after " + id + " --config " + absent, 2, "mailxmppd: --after wants ID.N, the last delivery of the page before; see mailxmppd queue list --help\n"},
		{"queue totals --top -1 --config " + absent, 2, "mailxmppd: --top wants a number from 0 to 10000; see mailxmppd queue totals --help\n"},
		{"queue retry --config " + absent, 2, "mailxmppd: wants either ID, or ID.N, or --all, which the other flags narrow; see mailxmppd queue retry --help\n"},
		{"queue retry --all " + id + " --config " + absent, 2, "mailxmppd: wants either ID, or ID.N, or --all, which the other flags narrow; see mailxmppd queue retry --help\n"},
		{"queue drop --domain verona.example --config " + absent, 2, "mailxmppd: wants --all too: it is for more than one delivery; see mailxmppd queue drop --help\n"},
		{"queue redirect " + id + " --config " + absent, 2, "mailxmppd: wants either --next or --back; see mailxmppd queue redirect --help\n"},
		{"queue redirect --next http://x " + id + " --config " + absent, 2, "mailxmppd: --next: hop: scheme \"http\": want \"mx\", \"smtp://host:port\", \"smtps://host:port\", \"lmtp://host:port\" or \"lmtp:///path\"; see mailxmppd queue redirect --help\n"},
		{"queue retry " + id + " --config " + absent, 1, "mailxmppd: " + absent + ": no such file or directory\n"},
		{"queue drop " + id + ".x --config " + absent, 2, "mailxmppd: delivery \"" + id + ".x\": want ID.N with N from 0; see mailxmppd queue drop --help\n"},
		{"user", 2, "mailxmppd: no user command given; see mailxmppd user --help\n"},
		{"user add --config " + absent, 2, "mailxmppd: accepts 1 arg(s), received 0; see mailxmppd user add --help\n"},
		{"user add juliet secret --config " + absent, 2, "mailxmppd: accepts 1 arg(s), received 2; see mailxmppd user add --help\n"},
		{"user add juliet --config " + absent, 1, "mailxmppd: " + absent + ": no such file or directory\n"},
		{"user add juliet --address a..b --config " + absent, 2, "mailxmppd: address \"a..b\": misplaced dot in the local part; see mailxmppd user add --help\n"},
		{"user add juliet --address postmaster --config " + absent, 2, "mailxmppd: address \"postmaster\": no domain; see mailxmppd user add --help\n"},
		{"user passwd a\x01b --config " + absent, 2, "mailxmppd: \"a b\" is not a user name: wants at most 255 octets without spaces and control characters; see mailxmppd user passwd --help\n"},
		{"user addresses juliet --config " + absent, 2, "mailxmppd: requires at least 2 arg(s), only received 1; see mailxmppd user addresses --help\n"},
		{"user addresses juliet @a..b --config " + absent, 2, "mailxmppd: domain \"a..b\": empty label; see mailxmppd user addresses --help\n"},
		{"user del juliet --config " + absent, 1, "mailxmppd: " + absent + ": no such file or directory\n"},
		{"keys", 2, "mailxmppd: no keys command given; see mailxmppd keys --help\n"},
		{"keys remove capulet.example --config " + absent, 2, "mailxmppd: accepts 2 arg(s), received 1; see mailxmppd keys remove --help\n"},
		{"version --json=maybe", 2, "mailxmppd: invalid argument \"maybe\" for \"--json\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax; see mailxmppd version --help\n"},
		{"version", 0, ""},
		{"help", 0, ""},
		{"queue retry --help", 0, ""},
	} {
		code, _, stderr := call(t, strings.Fields(c.args)...)
		if code != c.code || stderr != c.stderr {
			t.Errorf("%s: got %d %q, want %d %q", c.args, code, stderr, c.code, c.stderr)
		}
	}
}

// The demo's flags reach it: it names the file that is not there.
func TestDemoFlags(t *testing.T) {
	absent := filepath.Join(t.TempDir(), "absent.eml")
	code, _, stderr := call(t, "demo", "--message", absent)
	if code != 1 || !strings.Contains(stderr, absent) || strings.Count(stderr, "\n") != 1 {
		t.Errorf("got %d %q", code, stderr)
	}
}

func TestVersion(t *testing.T) {
	code, stdout, _ := call(t, "version")
	if code != 0 || !strings.HasPrefix(stdout, "mailxmppd ") || !strings.Contains(stdout, " go1.") {
		t.Errorf("got %d %q", code, stdout)
	}
	code, stdout, _ = call(t, "version", "--json")
	var b build
	if err := json.Unmarshal([]byte(stdout), &b); code != 0 || err != nil || b.Version == "" || b.Go == "" {
		t.Errorf("got %d %q, %v", code, stdout, err)
	}
}

// The exit codes are those of the process, too.
func TestProcess(t *testing.T) {
	for args, want := range map[string]int{"version": 0, "frobnicate": 2, "serve --config /nowhere/absent.toml": 1} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], strings.Fields(args)...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		err := cmd.Run()
		code := 0
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			code, err = exit.ExitCode(), nil
		}
		if err != nil || code != want || strings.Count(stderr.String(), "\n") != min(want, 1) {
			t.Errorf("%s: got %d %q, %v", args, code, stderr.String(), err)
		}
	}
}

// certificate says what a test certificate is like.
type certificate struct {
	names  []string
	after  time.Duration // from now to its end
	parent *authority    // nil: self-signed
}

// authority is a throwaway CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(100000 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
}

// write puts a certificate and its key into dir as cert.pem and key.pem.
func (c certificate) write(t *testing.T, dir string) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: c.names, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-999 * time.Hour), NotAfter: time.Now().Add(c.after),
	}
	parent, signer := template, key
	if c.parent != nil {
		parent, signer = c.parent.cert, c.parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	writeFile(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

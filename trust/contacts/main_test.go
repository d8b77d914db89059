package contacts

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

func TestMain(m *testing.M) {
	if os.Getenv("MAILXMPPD_LAB") == "optional" {
		for _, name := range []string{"gpg", "openssl"} {
			if _, err := exec.LookPath(name); err != nil {
				fmt.Fprintln(os.Stderr, "not tested:", err)
				os.Exit(0)
			}
		}
	}
	code := m.Run()
	if shared.store != nil {
		if err := shared.store.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.RemoveAll(shared.dir)
	if pgp.dir != "" {
		// Ends the agent of this home directory, and no other.
		exec.Command("gpgconf", "--homedir", pgp.dir, "--kill", "all").Run()
		os.RemoveAll(pgp.dir)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// pgp is GnuPG with a home of its own, the independent signer of these tests.
// Its sockets want a short path, which a test's directory has not.
var pgp gnupg

type gnupg struct {
	once sync.Once
	dir  string
	err  error
	keys map[string]string // fingerprint by name
}

// The keys of the tests, one for each thing that a key can be.
var gpgKeys = []struct{ name, user, algo, usage, expire string }{
	{"romeo", "Romeo <romeo@montague.example>", "ed25519", "sign", "never"},
	{"romeo rsa", "Romeo Montague <Romeo@montague.example>", "rsa2048", "sign", "2y"},
	{"weak", "Romeo <romeo@montague.example>", "rsa1024", "sign", "never"},
	{"nist", "Romeo <romeo@montague.example>", "nistp256", "sign", "never"},
	{"tybalt", "Tybalt <tybalt@capulet.example>", "ed25519", "sign", "never"},
}

func (g *gnupg) start(t testing.TB) {
	t.Helper()
	g.once.Do(func() {
		g.keys = map[string]string{}
		if g.dir, g.err = os.MkdirTemp("", "gpg"); g.err != nil {
			return
		}
		for _, k := range gpgKeys {
			g.make(k.name, "", k.user, k.algo, k.usage, k.expire)
		}
		g.make("expired", "20200101T000000", "Romeo <romeo@montague.example>", "ed25519", "sign", "1y")
		g.make("revoked", "", "Romeo <romeo@montague.example>", "ed25519", "sign", "never")
		if g.err == nil {
			rev, err := os.ReadFile(filepath.Join(g.dir, "openpgp-revocs.d", g.keys["revoked"]+".rev"))
			if err != nil {
				g.err = err
				return
			}
			_, g.err = g.run(bytes.ReplaceAll(rev, []byte(":-----BEGIN"), []byte("-----BEGIN")), "--import")
		}
	})
	if g.err != nil {
		t.Fatal(g.err)
	}
}

func (g *gnupg) make(name, when, user, algo, usage, expire string) {
	if g.err != nil {
		return
	}
	args := []string{"--status-fd", "1", "--quick-generate-key", user, algo, usage, expire}
	if when != "" {
		args = append([]string{"--faked-system-time", when}, args...)
	}
	out, err := g.run(nil, args...)
	if err != nil {
		g.err = err
		return
	}
	_, rest, _ := strings.Cut(string(out), "KEY_CREATED P ")
	g.keys[name], _, _ = strings.Cut(rest, "\n")
}

func (g *gnupg) run(in []byte, args ...string) ([]byte, error) {
	cmd := exec.Command("gpg", append([]string{"--homedir", g.dir, "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", "",
		"--no-auto-key-locate", "--disable-dirmngr", "--quiet"}, args...)...)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("gpg %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, err
}

func (g *gnupg) must(t testing.TB, in []byte, args ...string) []byte {
	t.Helper()
	g.start(t)
	out, err := g.run(in, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (g *gnupg) fingerprint(t testing.TB, name string) string {
	t.Helper()
	g.start(t)
	return g.keys[name]
}

// public exports a key.
func (g *gnupg) public(t testing.TB, name string) []byte {
	t.Helper()
	g.start(t)
	return g.must(t, nil, "--export", g.keys[name])
}

// detach makes an armoured detached signature.
func (g *gnupg) detach(t testing.TB, signed, name string, args ...string) string {
	t.Helper()
	g.start(t)
	return crlf(string(g.must(t, []byte(signed), append(args, "--armor", "--local-user", g.keys[name]+"!", "--detach-sign")...)))
}

// shared is the store of all tests, opened once: each test has what is in it for
// itself, one after the other.
var shared struct {
	once  sync.Once
	dir   string
	store *sqlite.Store
	err   error
}

// book is a Book over a real store, in which there are these keys alone.
func book(t testing.TB, conf Config, keys ...store.ContactKey) *Book {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "contacts"); shared.err == nil {
			shared.store, shared.err = sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(shared.dir, "mail.db")})
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	st := shared.store
	old, err := st.ListContactKeys(t.Context(), "", store.ContactKey{}, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range old {
		if _, err := st.DeleteContactKeys(t.Context(), k.Owner, k.Address, k.Fingerprint); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range keys {
		if err := st.PutContactKey(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	conf.Store = st
	return New(conf)
}

const (
	juliet = "juliet@capulet.example"
	romeo  = "romeo@montague.example"
)

// key is one of GnuPG's keys as juliet knows it of romeo.
func (g *gnupg) key(t testing.TB, name string) store.ContactKey {
	t.Helper()
	certs, err := readOpenPGP(g.public(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return contact(certs[0])
}

func contact(c *Certificate) store.ContactKey {
	return store.ContactKey{Owner: juliet, Address: romeo, Kind: c.Kind, Fingerprint: c.Fingerprint, Origin: store.Imported, Certificate: c.Data}
}

func address(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// ask tells what juliet's keys of romeo say of a message.
func ask(t testing.TB, b *Book, message string) Finding {
	t.Helper()
	f, err := b.Check(t.Context(), address(t, "Juliet@capulet.example"), address(t, "Romeo@montague.example"), NewMessage(mail.Bytes(message)))
	if err != nil {
		t.Fatal(err)
	}
	f.Method = nil // see TestVerdict
	return f
}

func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

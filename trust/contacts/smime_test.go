package contacts

import (
	"bytes"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl runs OpenSSL, the independent signer of these tests.
func openssl(t testing.TB, in string, args ...string) string {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = strings.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %s: %v: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return string(out)
}

// identity is a certificate with its private key, in files.
type identity struct{ cert, key string }

func newIdentity(t testing.TB, email, kind string, more ...string) identity {
	t.Helper()
	dir := t.TempDir()
	id := identity{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	args := []string{"req", "-x509", "-nodes", "-subj", "/CN=Romeo", "-addext", "subjectAltName=email:" + email, "-out", id.cert, "-keyout", id.key}
	if !strings.Contains(strings.Join(more, " "), "-days") {
		args = append(args, "-days", "30")
	}
	switch kind {
	case "ec":
		args = append(args, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
	default:
		args = append(args, "-newkey", kind)
	}
	openssl(t, "", append(args, more...)...)
	return id
}

func (id identity) certificate(t testing.TB) *Certificate {
	t.Helper()
	data, err := os.ReadFile(id.cert)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := readCertificates(data)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// sign makes a whole message with openssl cms.
func (id identity) sign(t testing.TB, part string, args ...string) string {
	t.Helper()
	return head + crlf(openssl(t, part, append([]string{"cms", "-sign", "-signer", id.cert, "-inkey", id.key, "-crlfeol"}, args...)...))
}

const goodSMIME = "signed with the S/MIME key of romeo@montague.example"

func TestSMIME(t *testing.T) {
	ids := map[string]identity{"rsa": newIdentity(t, romeo, "rsa:2048"), "ec": newIdentity(t, "Romeo@montague.example", "ec")}
	b := book(t, Config{}, contact(ids["rsa"].certificate(t)), contact(ids["ec"].certificate(t)))
	try := func(name, kind string, args ...string) {
		if f := ask(t, b, ids[kind].sign(t, parts[name], args...)); !f.Permitted || f.Reason != goodSMIME {
			t.Errorf("%s, %s, %v: got %+v", name, kind, args, f)
		}
	}
	for name, part := range parts {
		if part == "" {
			continue // OpenSSL signs nothing
		}
		try(name, "rsa")
		try(name, "rsa", "-nodetach")
		try(name, "ec", "-nodetach", "-stream")
	}
	try("plain", "rsa", "-md", "sha512", "-nocerts")
	try("plain", "ec", "-md", "sha384")
	try("plain", "rsa", "-keyopt", "rsa_padding_mode:pss")
}

func TestSMIMEWrong(t *testing.T) {
	part := parts["protected headers"]
	id, other := newIdentity(t, romeo, "rsa:2048"), newIdentity(t, romeo, "rsa:2048")
	whole, inside := id.sign(t, part), id.sign(t, part, "-nodetach")
	const wrong = "the signature is wrong: the message was changed, or is not from them"
	for _, c := range []struct {
		name, message string
		permitted     bool
		reason        string
	}{
		{"as it was signed", whole, true, goodSMIME},
		{"the old name of the type", strings.NewReplacer("pkcs7-signature", "x-pkcs7-signature").Replace(whole), true, goodSMIME},
		{"by openssl smime", head + crlf(openssl(t, part, "smime", "-sign", "-signer", id.cert, "-inkey", id.key, "-crlfeol")), true, goodSMIME},
		{"one letter changed", strings.Replace(whole, "<p>High", "<p>high", 1), false, wrong},
		{"one octet of the object changed", strings.Replace(inside, "\r\n\r\nMI", "\r\n\r\nMJ", 1), false, "the signature cannot be read"},
		{"another certificate of the same name", other.sign(t, part), false, "signed with a key that is not known"},
		{"another author inside", id.sign(t, strings.ReplaceAll(part, "Romeo@montague", "paris@montague")), false, "what is signed names another author"},
		{"SHA-1", id.sign(t, part, "-md", "sha1"), false, "the signature uses a hash that is too weak"},
		{"no attributes", id.sign(t, part, "-noattr"), false, undatedGood},
		{"no attributes, content inside", id.sign(t, part, "-noattr", "-nodetach"), false, undatedGood},
		{"no attributes, PSS", id.sign(t, part, "-noattr", "-keyopt", "rsa_padding_mode:pss"), false, undatedGood},
		{"no attributes, one letter changed", strings.Replace(id.sign(t, part, "-noattr"), "<p>High", "<p>high", 1), false, wrong},
		{"encrypted, not signed", head + "Content-Type: application/pkcs7-mime; smime-type=enveloped-data\r\nContent-Transfer-Encoding: base64\r\n\r\nMIIB\r\n", false, ""},
		{"inside of a list's mail", head + "Content-Type: multipart/mixed; boundary=list\r\n\r\n--list\r\n" + strings.TrimPrefix(inside, head) +
			"\r\n--list\r\nContent-Type: text/plain\r\n\r\nfooter\r\n--list--\r\n", false, "only a part of the message is signed"},
		{"too large for memory", head + "Content-Type: application/pkcs7-mime; smime-type=signed-data\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
			strings.Repeat(strings.Repeat("A", 76)+"\r\n", 2*maxOpaque/76), false, "signature not checked: too large for one with its content inside"},
	} {
		if f := ask(t, book(t, Config{}, contact(id.certificate(t))), c.message); f.Permitted != c.permitted || f.Reason != c.reason {
			t.Errorf("%s: got %+v, want %v %q", c.name, f, c.permitted, c.reason)
		}
	}
}

// Certificates that prove nothing, whatever was signed with them.
func TestSMIMEKeys(t *testing.T) {
	part := parts["plain"]
	for _, c := range []struct {
		name   string
		id     identity
		later  time.Duration
		reason string
	}{
		{"short", newIdentity(t, romeo, "rsa:1024"), 0, errWeakKey.Error()},
		{"expired", newIdentity(t, romeo, "ec", "-days", "1"), 48 * time.Hour, errExpired.Error()},
		{"for servers", newIdentity(t, romeo, "ec", "-addext", "extendedKeyUsage=serverAuth"), 0, errPurpose.Error()},
		{"for encryption", newIdentity(t, romeo, "ec", "-addext", "keyUsage=keyAgreement"), 0, errPurpose.Error()},
		{"for mail", newIdentity(t, romeo, "ec", "-addext", "extendedKeyUsage=emailProtection", "-addext", "keyUsage=digitalSignature"), 0, ""},
	} {
		b := book(t, Config{}, contact(c.id.certificate(t)))
		b.now = func() time.Time { return time.Now().Add(c.later) }
		f := ask(t, b, c.id.sign(t, part))
		if want := c.reason; f.Permitted != (want == "") || want != "" && f.Reason != want {
			t.Errorf("%s: got %+v, want %q", c.name, f, want)
		}
	}
}

// TestKeyOfTheOtherKind: a message is verified with the keys of its kind.
func TestKeyOfTheOtherKind(t *testing.T) {
	id, part := newIdentity(t, romeo, "ec"), parts["plain"]
	b := book(t, Config{}, contact(id.certificate(t)), pgp.key(t, "romeo"))
	for want, message := range map[string]string{
		goodSMIME: id.sign(t, part),
		"signed with the OpenPGP key of romeo@montague.example": pgpMessage(part, pgp.detach(t, part, "romeo")),
	} {
		if f := ask(t, b, message); !f.Permitted || f.Reason != want {
			t.Errorf("got %+v, want %q", f, want)
		}
	}
}

func derOf(t testing.TB, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s is no PEM", file)
	}
	return block.Bytes
}

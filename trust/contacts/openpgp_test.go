package contacts

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

const head = "From: Romeo <romeo@montague.example>\r\nTo: juliet@capulet.example\r\nSubject: night\r\nMIME-Version: 1.0\r\n"

// What mail programs sign: each octet of it counts, up to the spaces at the end
// of a line.
var parts = map[string]string{
	"plain": "Content-Type: text/plain; charset=utf-8\r\n\r\nWith love's light wings\r\n",
	"8-bit and trailing spaces": "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n" +
		"caf\xc3\xa9 \t \r\n-- \r\n   \r\nRom\xc3\xa9o  \r\n\r\n\r\n",
	"no line end": "Content-Type: text/plain\r\n\r\nlast line without an end",
	"protected headers": "Content-Type: multipart/mixed; boundary=\"inner\"; protected-headers=\"v1\"\r\nFrom: =?utf-8?q?Rom=C3=A9o?= <Romeo@montague.example>\r\nSubject: night\r\n\r\n" +
		"--inner\r\nContent-Type: multipart/alternative; boundary=\"outer-2\"\r\n\r\n--outer-2\r\nContent-Type: text/plain\r\n\r\nHigh\r\n--outer-2\r\nContent-Type: text/html\r\n\r\n<p>High</p>\r\n--outer-2--\r\n\r\n" +
		"--inner\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAECAwQ=\r\n--inner--\r\n",
	"empty": "",
}

// pgpMessage puts a signed part and its signature together as RFC 3156 has it.
func pgpMessage(part, signature string) string {
	return head + "Content-Type: multipart/signed; micalg=pgp-sha512;\r\n protocol=\"application/pgp-signature\"; boundary=\"outer\"\r\n\r\n" +
		"This is an OpenPGP/MIME signed message (RFC 4880 and 3156)\r\n--outer\r\n" + part + "\r\n--outer\r\n" +
		"Content-Type: application/pgp-signature; name=\"signature.asc\"\r\nContent-Description: OpenPGP digital signature\r\n\r\n" + signature + "\r\n--outer--\r\n"
}

func TestPGPMIME(t *testing.T) {
	const good = "signed with the OpenPGP key of romeo@montague.example"
	keys := []store.ContactKey{pgp.key(t, "tybalt"), pgp.key(t, "romeo"), pgp.key(t, "romeo rsa"), pgp.key(t, "nist")}
	b := book(t, Config{}, keys...)
	try := func(name, key string, args ...string) {
		if f := ask(t, b, pgpMessage(parts[name], pgp.detach(t, parts[name], key, args...))); !f.Permitted || f.Reason != good {
			t.Errorf("%s, %s, %v: got %+v", name, key, args, f)
		}
	}
	for name := range parts {
		try(name, "romeo")
		try(name, "romeo rsa", "--textmode")
	}
	try("plain", "nist", "--digest-algo", "SHA256")
	try("plain", "romeo rsa", "--digest-algo", "SHA384")
}

func TestPGPMIMEWrong(t *testing.T) {
	part := parts["protected headers"]
	sig := pgp.detach(t, part, "romeo")
	whole := pgpMessage(part, sig)
	binary := string(pgp.must(t, []byte(part), "--local-user", pgp.fingerprint(t, "romeo"), "--detach-sign"))
	other := strings.ReplaceAll(part, "Romeo@montague", "paris@montague")
	both := crlf(string(pgp.must(t, []byte(part), "--armor", "-u", pgp.fingerprint(t, "tybalt"), "-u", pgp.fingerprint(t, "romeo"), "--detach-sign")))
	for _, c := range []struct {
		name, message string
		permitted     bool
		reason        string
	}{
		{"as it was signed", whole, true, "signed with the OpenPGP key of romeo@montague.example"},
		{"a binary signature", pgpMessage(part, "") + "", false, "the signature cannot be read"},
		{"signed by two", pgpMessage(part, both), true, "signed with the OpenPGP key of romeo@montague.example"},
		{"base64 around a binary signature", strings.Replace(pgpMessage(part, base64.StdEncoding.EncodeToString([]byte(binary))),
			"name=\"signature.asc\"\r\n", "name=\"signature.asc\"\r\nContent-Transfer-Encoding: base64\r\n", 1), true, "signed with the OpenPGP key of romeo@montague.example"},
		{"one letter changed", strings.Replace(whole, "<p>High", "<p>high", 1), false, "the signature is wrong: the message was changed, or is not from them"},
		{"a space added at a line's end", strings.Replace(whole, "<p>High</p>\r\n", "<p>High</p> \r\n", 1), false, "the signature is wrong: the message was changed, or is not from them"},
		{"somebody else's key", pgpMessage(part, pgp.detach(t, part, "tybalt")), false, "signed with a key that is not known"},
		{"another author inside", pgpMessage(other, pgp.detach(t, other, "romeo")), false, "what is signed names another author"},
		{"SHA-1", pgpMessage(part, pgp.detach(t, part, "romeo", "--digest-algo", "SHA1", "--allow-weak-digest-algos")), false, "the signature uses a hash that is too weak"},
		{"from the future", pgpMessage(part, pgp.detach(t, part, "romeo", "--faked-system-time", "20400101T000000")), false, "the signature is from the future"},
		{"a list's footer below", head + "Content-Type: multipart/mixed; boundary=list\r\n\r\n--list\r\n" + strings.TrimPrefix(whole, head) +
			"\r\n--list\r\nContent-Type: text/plain\r\n\r\nfooter\r\n--list--\r\n", false, "only a part of the message is signed"},
		{"a third part", strings.Replace(whole, "\r\n--outer--", "\r\n--outer\r\nContent-Type: text/plain\r\n\r\nmore\r\n--outer--", 1), false, "the signature cannot be read"},
		{"not closed", strings.TrimSuffix(whole, "--outer--\r\n"), false, "the signature cannot be read"},
		{"no boundary", strings.Replace(whole, "boundary=\"outer\"", "x=y", 1), false, "the signature cannot be read"},
		{"not signed", head + "\r\nhello\r\n", false, ""},
		{"two content types", strings.Replace(whole, "MIME-Version", "Content-Type: text/plain\r\nMIME-Version", 1), false, ""},
	} {
		b := book(t, Config{}, pgp.key(t, "romeo"))
		if f := ask(t, b, c.message); f.Permitted != c.permitted || f.Reason != c.reason {
			t.Errorf("%s: got %+v, want %v %q", c.name, f, c.permitted, c.reason)
		}
	}
}

// Keys that prove nothing, whatever they have signed.
func TestPGPKeys(t *testing.T) {
	part := parts["plain"]
	for _, c := range []struct{ key, reason string }{
		{"weak", "the key is too weak or of a kind that is not taken"},
		{"expired", "the key has expired"},
		{"revoked", "the key is revoked"},
	} {
		args := []string{}
		if c.key == "expired" {
			args = []string{"--faked-system-time", "20200601T000000"}
		}
		var sig string
		if c.key == "revoked" { // GnuPG does not sign with it either
			sig = pgp.detach(t, part, "romeo")
		} else {
			sig = pgp.detach(t, part, c.key, args...)
		}
		k := pgp.key(t, c.key)
		if c.key == "revoked" {
			certs, err := readOpenPGP(k.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			if err := certs[0].Usable(New(Config{}).now()); err == nil || err.Error() != c.reason {
				t.Errorf("revoked: got %v", err)
			}
			continue
		}
		b := book(t, Config{}, k)
		f := ask(t, b, pgpMessage(part, sig))
		if c.key == "expired" { // an old signature is found before the old key
			if f.Permitted || !strings.Contains(f.Reason, "days old") {
				t.Errorf("expired: got %+v", f)
			}
			certs, err := readOpenPGP(k.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			if err := certs[0].Usable(b.now()); err == nil || err.Error() != c.reason {
				t.Errorf("expired: got %v", err)
			}
			continue
		}
		if f.Permitted || f.Reason != c.reason {
			t.Errorf("%s: got %+v, want %q", c.key, f, c.reason)
		}
	}
}

// TestReplay: what was signed long ago does not let anybody in any more.
func TestReplay(t *testing.T) {
	part := parts["plain"]
	signed := pgpMessage(part, pgp.detach(t, part, "romeo"))
	b := book(t, Config{}, pgp.key(t, "romeo"))
	b.now = func() time.Time { return time.Now().Add(40 * 24 * time.Hour) }
	if f, want := ask(t, b, signed), (Finding{Permitted: false, Reason: "the signature is 40 days old"}); f != want {
		t.Errorf("got %+v", f)
	}
}

func TestClearText(t *testing.T) {
	text := "Dear Juliet,  \r\n- a dash\r\n-----BEGIN nothing-----\r\n\r\nFrom the heart\t\r\nRom\xc3\xa9o\r\n"
	pgp.start(t)
	signed := crlf(string(pgp.must(t, []byte(text), "-u", pgp.fingerprint(t, "romeo"), "--clearsign")))
	const good = "signed with the OpenPGP key of romeo@montague.example"
	quoted := strings.NewReplacer("=", "=3D", "\xc3\xa9", "=C3=A9").Replace(signed)
	for _, c := range []struct {
		name, message string
		permitted     bool
		reason        string
	}{
		{"plain", head + "\r\n" + signed, true, good},
		{"spaces at line ends lost", head + "\r\n" + strings.ReplaceAll(signed, "  \r\n", "\r\n"), true, good},
		{"quoted-printable", head + "Content-Type: text/plain\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + quoted, true, good},
		{"base64", head + "Content-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString([]byte(signed)) + "\r\n", true, good},
		{"blank lines around", head + "\r\n\r\n \r\n" + signed + "\r\n\r\n", true, good},
		{"text before", head + "\r\nsend money\r\n" + signed, false, "only a part of the message is signed"},
		{"text after", head + "\r\n" + signed + "\r\nsend money\r\n", false, "only a part of the message is signed"},
		{"changed", head + "\r\n" + strings.Replace(signed, "Dear", "dear", 1), false, "the signature is wrong: the message was changed, or is not from them"},
		{"cut off", head + "\r\n" + signed[:len(signed)/2], false, "the signature cannot be read"},
		{"a header smuggled in", head + "\r\n" + strings.Replace(signed, "Hash: ", "Comment: pay\r\nHash: ", 1), false, "the signature cannot be read"},
		{"beside HTML", head + "Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\n\r\n" + signed + "\r\n--b\r\nContent-Type: text/html\r\n\r\npay\r\n--b--\r\n", false, "only a part of the message is signed"},
		{"too large", head + "\r\n" + signed + strings.Repeat(strings.Repeat(" ", 998)+"\r\n", 1200), false, "signature not checked: the signed text is too large"},
	} {
		if f := ask(t, book(t, Config{}, pgp.key(t, "romeo")), c.message); f.Permitted != c.permitted || f.Reason != c.reason {
			t.Errorf("%s: got %+v, want %v %q", c.name, f, c.permitted, c.reason)
		}
	}
}

// TestUsual: whoever uses to sign, and does not, is shown as such.
func TestUsual(t *testing.T) {
	part := parts["plain"]
	signed, plain := pgpMessage(part, pgp.detach(t, part, "romeo")), head+"\r\nhello\r\n"
	b := book(t, Config{MaxMessage: 1 << 20}, pgp.key(t, "romeo"))
	for _, c := range []struct {
		name, message string
		want          Finding
	}{
		{"before the first signature", plain, Finding{}},
		{"the first signature", signed, Finding{Permitted: true, Reason: "signed with the OpenPGP key of romeo@montague.example"}},
		{"without", plain, Finding{Permitted: false, Reason: "the usual signature is missing"}},
		{"with another key", pgpMessage(part, pgp.detach(t, part, "tybalt")), Finding{Permitted: false, Reason: "not signed with the usual key"}},
		{"too large", signed + strings.Repeat("x", 1<<20), Finding{Permitted: false, Reason: "signature not checked: the message is too large"}},
	} {
		if f := ask(t, b, c.message); f != c.want {
			t.Errorf("%s: got %+v, want %+v", c.name, f, c.want)
		}
	}
	if f, err := b.Check(t.Context(), address(t, "nurse@capulet.example"), address(t, romeo), NewMessage(mail.Bytes(signed))); err != nil || f != (Finding{}) {
		t.Errorf("to somebody who has no key: got %+v, %v", f, err)
	}
	if f, err := b.Check(t.Context(), address(t, juliet), address(t, "paris@verona.example"), NewMessage(mail.Bytes(signed))); err != nil || f != (Finding{}) {
		t.Errorf("of somebody else: got %+v, %v", f, err)
	}
}

// TestLearntKey: a key that nobody vouched for counts as the setting says.
func TestLearntKey(t *testing.T) {
	part := parts["plain"]
	signed := pgpMessage(part, pgp.detach(t, part, "romeo"))
	k := pgp.key(t, "romeo")
	k.Origin = store.FromMail
	for _, permit := range []bool{false, true} {
		want := Finding{Permitted: permit, Reason: "signed with the OpenPGP key of romeo@montague.example that was learnt (autocrypt)"}
		if f := ask(t, book(t, Config{LearntPermit: permit}, k), signed); f != want {
			t.Errorf("permit %v: got %+v", permit, f)
		}
	}
}

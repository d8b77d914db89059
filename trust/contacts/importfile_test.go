package contacts

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"mailxmppd/store"
)

// fold breaks a line as vCards do.
func fold(s string) string {
	var b strings.Builder
	for len(s) > 70 {
		b.WriteString(s[:70] + "\r\n ")
		s = s[70:]
	}
	return b.String() + s + "\r\n"
}

func card(lines ...string) string {
	out := "BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Romeo Montague\r\n"
	for _, l := range lines {
		out += fold(l)
	}
	return out + "END:VCARD\r\n"
}

// TestReadFile: the forms in which people have keys, made by the programs that
// make them.
func TestReadFile(t *testing.T) {
	id := newIdentity(t, romeo, "rsa:2048")
	der := derOf(t, id.cert)
	binary := pgp.public(t, "romeo rsa")
	armoured := pgp.must(t, nil, "--armor", "--export", pgp.fingerprint(t, "romeo rsa"))
	p7 := filepath.Join(t.TempDir(), "bundle.p7b")
	openssl(t, "", "crl2pkcs7", "-nocrl", "-certfile", id.cert, "-out", p7, "-outform", "DER")
	bundle, err := os.ReadFile(p7)
	if err != nil {
		t.Fatal(err)
	}
	pemFile, err := os.ReadFile(id.cert)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	for name, data := range map[string][]byte{
		"binary.gpg":   binary,
		"armoured.asc": armoured,
		"v4.vcf":       []byte(card("EMAIL;TYPE=home:Romeo@montague.example", "EMAIL:other@montague.example", "KEY:data:application/pgp-keys;base64,"+b64(binary))),
		"v4text.vcf":   []byte(card("EMAIL:romeo@montague.example", "KEY;VALUE=text:"+strings.NewReplacer("\n", "\\n", ",", "\\,").Replace(string(armoured)))),
		"v3.vcf":       []byte("\xef\xbb\xbf" + card("item1.EMAIL;type=INTERNET:romeo@montague.example", "KEY;TYPE=PGP;ENCODING=b:"+b64(binary))),
		"two.vcf":      []byte(card("EMAIL:nurse@capulet.example") + card("EMAIL:romeo@montague.example", "KEY;ENCODING=B:"+b64(binary))),
	} {
		found, err := ReadFile(name, data)
		if err != nil || len(found) != 1 || found[0].Kind != store.OpenPGP || found[0].Fingerprint != pgp.fingerprint(t, "romeo rsa") ||
			!reflect.DeepEqual(found[0].Addresses, []string{romeo}) || found[0].Name != "Romeo Montague" || found[0].Expires.IsZero() {
			t.Errorf("%s: got %+v, %v", name, found, err)
			continue
		}
		if again, err := Stored(contact(found[0].Certificate)); err != nil || again.Fingerprint != found[0].Fingerprint {
			t.Errorf("%s: does not read back: %v", name, err)
		}
	}
	for name, data := range map[string][]byte{
		"cert.pem": pemFile, "cert.der": der, "bundle.p7b": bundle,
		"v3.vcf": []byte(card("EMAIL:romeo@montague.example", "KEY;TYPE=X509;ENCODING=b:"+b64(der))),
	} {
		found, err := ReadFile(name, data)
		if err != nil || len(found) != 1 || found[0].Kind != store.SMIME || !reflect.DeepEqual(found[0].Addresses, []string{romeo}) {
			t.Errorf("%s: got %+v, %v", name, found, err)
			continue
		}
		if again, err := Stored(contact(found[0].Certificate)); err != nil || again.Fingerprint != found[0].Fingerprint {
			t.Errorf("%s: does not read back: %v", name, err)
		}
	}
}

// TestReadFileWrong: what cannot be taken is said with the place.
func TestReadFileWrong(t *testing.T) {
	id := newIdentity(t, romeo, "rsa:2048")
	private, err := os.ReadFile(id.key)
	if err != nil {
		t.Fatal(err)
	}
	secret := pgp.must(t, nil, "--export-secret-keys", pgp.fingerprint(t, "romeo"))
	sig := pgp.must(t, []byte("x"), "-u", pgp.fingerprint(t, "romeo"), "--detach-sign")
	b64 := base64.StdEncoding.EncodeToString(pgp.public(t, "romeo"))
	for _, c := range []struct{ name, data, says string }{
		{"empty.asc", " \r\n", "empty.asc: empty"},
		{"large.asc", strings.Repeat("x", MaxFile+1), "large.asc: larger than 1048576 octets"},
		{"photo.jpg", "\xff\xd8\xff\xe0\x00\x10JFIF", "photo.jpg: not OpenPGP data, or cut off"},
		{"note.txt", "hello", "note.txt: no vCard, OpenPGP key or certificate"},
		{"secret.gpg", string(secret), "secret.gpg: this is a private key"},
		{"key.pem", string(private), "key.pem: PEM block 1: this is a private key"},
		{"sig.gpg", string(sig), "sig.gpg: the OpenPGP key cannot be read"},
		{"bomb.gpg", "\xc8\x05\x02\xff\xff\xff\xff", "bomb.gpg: OpenPGP packet of type 8, which is no part of a key"},
		{"cut.gpg", string(pgp.public(t, "romeo"))[:60], "cut.gpg: not OpenPGP data, or cut off"},
		{"many.gpg", strings.Repeat("\xcd\x01x", maxKeyPackets+1), "many.gpg: more than 5000 OpenPGP packets"},
		{"deep.p7b", strings.Repeat("\x30\x80", 30_000), "deep.p7b: the certificate cannot be read"},
		{"armour.asc", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!!\n-----END PGP PUBLIC KEY BLOCK-----\n", "armour.asc: the OpenPGP armour is damaged"},
		{"message.asc", "-----BEGIN PGP MESSAGE-----\n\nAAAA\n-----END PGP MESSAGE-----\n", "message.asc: OpenPGP data, but no key"},
		{"none.vcf", card("EMAIL:romeo@montague.example"), "none.vcf: no card has a key"},
		{"other.vcf", card("EMAIL:paris@verona.example", "KEY:data:application/pgp-keys;base64,"+b64), "other.vcf: card 1: KEY 1: the key names none of the card's addresses"},
		{"link.vcf", card("EMAIL:romeo@montague.example", "KEY:https://montague.example/romeo.asc"), "link.vcf: card 1: KEY 1: a link, which is not followed"},
		{"base64.vcf", card("EMAIL:romeo@montague.example") + card("EMAIL:romeo@montague.example", "KEY;ENCODING=b:!"), "base64.vcf: card 2: KEY 1: not base64"},
		{"address.vcf", card("EMAIL:romeo", "KEY;ENCODING=b:"+b64), `address.vcf: card 1: EMAIL "romeo" is no address`},
		{"open.vcf", "BEGIN:VCARD\r\nFN:x\r\n", "open.vcf: card 1: not a vCard"},
		{"folds.vcf", "BEGIN:VCARD\r\nNOTE:" + strings.Repeat("\r\n x", 200_000) + "\r\nEND:VCARD\r\n", "folds.vcf: no card has a key"},
		{"cards.vcf", strings.Repeat("BEGIN:VCARD\nEND:VCARD\n", maxCards+2), fmt.Sprintf("cards.vcf: more than %d cards", maxCards)},
	} {
		found, err := ReadFile(c.name, []byte(c.data))
		if err == nil || !strings.HasPrefix(err.Error(), c.says) {
			t.Errorf("%s: got %v, %v, want %q", c.name, found, err, c.says)
		}
	}
}

func FuzzReadFile(f *testing.F) {
	f.Add([]byte(card("EMAIL:romeo@montague.example", "KEY:data:application/pgp-keys;base64,mDMEZ")))
	f.Add(pgp.public(f, "romeo"))
	f.Add([]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDM=\n-----END PGP PUBLIC KEY BLOCK-----\n"))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Add([]byte{0x30, 0x80, 0x06, 0x09, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := ReadFile("x", data)
		if err != nil && (len(found) > 0 || !strings.HasPrefix(err.Error(), "x: ")) {
			t.Errorf("found %v with %v", found, err)
		}
		for _, c := range found {
			if _, err := Stored(contact(c.Certificate)); err != nil {
				t.Errorf("does not read back: %v", err)
			}
		}
	})
}

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"mailxmppd/config"
)

// The verbs do the same through the socket of a running gateway and on the
// store itself.
func TestContactVerbs(t *testing.T) {
	e, err := openpgp.NewEntity("Romeo", "", "Romeo@montague.example", nil)
	if err != nil {
		t.Fatal(err)
	}
	var key bytes.Buffer
	if err := e.Serialize(&key); err != nil {
		t.Fatal(err)
	}
	fingerprint := strings.ToUpper(hex.EncodeToString(e.PrimaryKey.Fingerprint))
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			s := newSite(t)
			file := s.write(t)
			cfg, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if running {
				serveAdmin(t, cfg)
			}
			card, bad := filepath.Join(s.dir, "romeo.vcf"), filepath.Join(s.dir, "note.txt")
			writeFile(t, card, "BEGIN:VCARD\nVERSION:3.0\nFN:Romeo M.\nEMAIL:romeo@montague.example\nKEY;ENCODING=b:"+base64.StdEncoding.EncodeToString(key.Bytes())+"\nEND:VCARD\n")
			writeFile(t, bad, "hello")
			for _, c := range []struct {
				args         string
				code         int
				stdout, says string // all of standard output; part of standard error
			}{
				{"import --for Juliet@capulet.example " + card, 0, "juliet@capulet.example knows the openpgp key " + fingerprint + " of romeo@montague.example\n", ""},
				{"import --for juliet@capulet.example --address R@verona.example " + card, 0, "juliet@capulet.example knows the openpgp key " + fingerprint + " of r@verona.example\n", ""},
				{"import --for juliet@capulet.example " + card + " " + bad, 1, "", "note.txt: no vCard, OpenPGP key or certificate"},
				{"import --for juliet@capulet.example " + filepath.Join(s.dir, "absent"), 1, "", "absent: no such file"},
				{"import --for juliet@verona.example " + card, 1, "", `"verona.example" is no domain of ours`},
				{"list --for nurse@capulet.example", 0, "FOR  CONTACT  KIND  FINGERPRINT  FROM  EXPIRES  LAST SIGNED\n", ""},
				{"remove --for juliet@capulet.example r@verona.example " + strings.ToLower(fingerprint), 0, "1 removed\n", ""},
				{"remove --for juliet@capulet.example r@verona.example", 1, "", "juliet@capulet.example knows no such key of r@verona.example"},
				{"list", 0, "FOR                     CONTACT                 KIND     FINGERPRINT                               FROM    EXPIRES  LAST SIGNED\n" +
					"juliet@capulet.example  romeo@montague.example  openpgp  " + fingerprint + "  import  never    never\n", ""},
			} {
				code, stdout, stderr := call(t, append(append([]string{"contact"}, strings.Fields(c.args)...), "--config", file)...)
				if code != c.code || stdout != c.stdout || !strings.Contains(stderr, c.says) || (c.says == "") != (stderr == "") {
					t.Errorf("%s: got %d %q %q", c.args, code, stdout, stderr)
				}
			}
			code, stdout, _ := call(t, "contact", "list", "--json", "--config", file)
			var rows []contactRow
			if err := json.Unmarshal([]byte(stdout), &rows); err != nil || code != 0 || len(rows) != 1 || rows[0].Name != "Romeo M." || rows[0].Fingerprint != fingerprint {
				t.Errorf("got %d %+v, %v", code, rows, err)
			}
		})
	}
}

package verdicts

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// program runs one of the signers.
func program(t *testing.T, in string, argv ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(in), &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, errs.String())
	}
	return out
}

func crlf(b []byte) string {
	return strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n")
}

// signers is GnuPG with a home of its own, and OpenSSL.
type signers struct {
	t   *testing.T
	dir string
}

func newSigners(t *testing.T) signers {
	t.Helper()
	dir, err := os.MkdirTemp("", "gpg") // its sockets want a short path
	must(t, err)
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", dir, "--kill", "all").Run()
		os.RemoveAll(dir)
	})
	return signers{t, dir}
}

func (s signers) gpg(in string, args ...string) []byte {
	s.t.Helper()
	return program(s.t, in, append([]string{"gpg", "--homedir", s.dir, "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase", "",
		"--no-auto-key-locate", "--disable-dirmngr", "--quiet"}, args...)...)
}

// key makes an OpenPGP key and exports it.
func (s signers) key(address string) []byte {
	s.t.Helper()
	s.gpg("", "--quick-generate-key", "Someone <"+address+">", "ed25519", "sign", "never")
	return s.gpg("", "--export", address)
}

// certificate makes an S/MIME certificate and returns its file.
func (s signers) certificate(address string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, address)
	program(s.t, "", "openssl", "req", "-x509", "-nodes", "-subj", "/CN=Someone", "-addext", "subjectAltName=email:"+address, "-days", "30",
		"-newkey", "rsa:2048", "-out", file+".pem", "-keyout", file+".key")
	return file + ".pem"
}

const signedPart = "Content-Type: text/plain; charset=utf-8\r\n\r\nIt is the east, and Juliet is the sun.\r\n"

// pgpMIME signs as RFC 3156 has it.
func (s signers) pgpMIME(by string) string {
	s.t.Helper()
	return "MIME-Version: 1.0\r\nContent-Type: multipart/signed; micalg=pgp-sha512;\r\n protocol=\"application/pgp-signature\"; boundary=\"b\"\r\n\r\n--b\r\n" +
		signedPart + "\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\n" + crlf(s.gpg(signedPart, "--armor", "--local-user", by, "--detach-sign")) + "\r\n--b--\r\n"
}

// cleartext signs the text alone.
func (s signers) cleartext(by string) string {
	s.t.Helper()
	return "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n" + crlf(s.gpg("It is the east,\nand Juliet is the sun.\n", "--local-user", by, "--clearsign"))
}

// smime signs with openssl, in the form that the further arguments name.
func (s signers) smime(certificate string, args ...string) string {
	s.t.Helper()
	return crlf(program(s.t, signedPart, append([]string{"openssl", "cms", "-sign", "-signer", certificate, "-inkey", strings.TrimSuffix(certificate, "pem") + "key",
		"-crlfeol"}, args...)...))
}

// TestContactKeys: strangers, whose domain proves nothing, write to who takes
// permitted mail only. What one of the imported keys has signed is permitted,
// whoever carries it; anything else is refused, and shown as what it is to who
// takes all.
func TestContactKeys(t *testing.T) {
	w := start(t)
	s := newSigners(t)
	const ann, ben, cat = "ann@stranger.example", "ben@stranger.example", "cat@stranger.example"
	const mallory = "mallory@evil.example"
	const notWanted = "550 5.7.1 recipient has not permitted this sender"
	paths := []struct{ name, listener, client, from, early string }{
		{"SMTP", w.judged, evil, "x@stranger.example", "rcpt " + notWanted},
		{"XMPP", w.montague.SMTP, good, "paris@montague.example", "data " + notWanted}, // others of the domain have grants
	}
	count := 0
	write := func(path int, author, to, body string) (mark, refusal string) {
		t.Helper()
		count++
		mark = fmt.Sprintf("contact-%d", count)
		content := fmt.Sprintf("From: Someone <%s>\r\nTo: %s@capulet.example\r\nSubject: %s\r\nMessage-ID: <%s@x.example>\r\n%s", author, to, mark, mark, body)
		p := paths[path]
		return mark, send(t, p.listener, p.client, nil, p.from, to+"@capulet.example", content)
	}

	annKey := s.key(ann)
	for i, p := range paths {
		if _, refusal := write(i, ann, "nurse", s.pgpMIME(ann)); refusal != p.early {
			t.Fatalf("%s, a key that nobody knows: %q", p.name, refusal)
		}
	}

	// The three forms in which people hand out keys.
	card, cert := filepath.Join(s.dir, "ann.vcf"), filepath.Join(s.dir, "ben.asc")
	must(t, os.WriteFile(card, []byte("BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Ann\r\nEMAIL:"+ann+"\r\nKEY:data:application/pgp-keys;base64,"+
		base64.StdEncoding.EncodeToString(annKey)+"\r\nEND:VCARD\r\n"), 0o600))
	must(t, os.WriteFile(cert, s.key(ben), 0o600))
	catCert := s.certificate(cat)
	s.key(mallory)
	for _, mailbox := range []string{"nurse@capulet.example", "juliet@capulet.example"} {
		out := program(t, "", w.capulet.Exe, "contact", "import", "--config", w.capulet.Config, "--for", mailbox, card, cert, catCert)
		for _, address := range []string{ann, ben, cat} {
			if !strings.Contains(string(out), address) {
				t.Fatalf("contact import says\n%s", out)
			}
		}
	}

	wrongCert := filepath.Join(s.dir, "other")
	must(t, os.Mkdir(wrongCert, 0o700))
	wrongCert = signers{t, wrongCert}.certificate(cat) // her name, and not her key
	for i, p := range paths {
		for _, c := range []struct {
			name, author, body string
			permitted          string // the reason; "" where the mailbox that denies refuses
			shown              string // what the mailbox that allows is shown
		}{
			{"vCard, PGP/MIME", ann, s.pgpMIME(ann), "signed with the OpenPGP key of " + ann, ""},
			{"OpenPGP key, cleartext", ben, s.cleartext(ben), "signed with the OpenPGP key of " + ben, ""},
			{"S/MIME, detached", cat, s.smime(catCert), "signed with the S/MIME key of " + cat, ""},
			{"S/MIME, opaque", cat, s.smime(catCert, "-nodetach"), "signed with the S/MIME key of " + cat, ""},
			// From here on each of them has signed before.
			{"no signature, OpenPGP", ann, "\r\nhello\r\n", "", "the usual signature is missing"},
			{"no signature, S/MIME", cat, "\r\nhello\r\n", "", "the usual signature is missing"},
			{"another key, PGP/MIME", ann, s.pgpMIME(mallory), "", "not signed with the usual key"},
			{"another key, cleartext", ben, s.cleartext(mallory), "", "not signed with the usual key"},
			{"another key of that name, S/MIME", cat, s.smime(wrongCert), "", "not signed with the usual key"},
			{"one contact's key, another's name", ben, s.pgpMIME(ann), "", "not signed with the usual key"},
			{"changed on the way", ann, strings.Replace(s.pgpMIME(ann), "the east", "the west", 1), "", "the signature is wrong"},
			{"changed on the way, S/MIME", cat, strings.Replace(s.smime(catCert), "the east", "the west", 1), "", "the signature is wrong"},
			{"text around it", ben, "MIME-Version: 1.0\r\n\r\nSend money.\r\n" + strings.SplitN(s.cleartext(ben), "\r\n\r\n", 2)[1], "", "only a part of the message is signed"},
		} {
			name := p.name + ", " + c.name
			mark, refusal := write(i, c.author, "nurse", c.body)
			switch {
			case c.permitted == "" && refusal != "data "+notWanted:
				t.Errorf("%s: refused with %q", name, refusal)
			case c.permitted != "" && refusal != "":
				t.Errorf("%s: refused with %q", name, refusal)
			case c.permitted != "":
				if got := w.arrived(t, mark); !strings.HasPrefix(got, "X-Mail-Trust: permitted; "+c.permitted) {
					t.Errorf("%s: arrived as\n%.400s", name, got)
				}
			}
			mark, refusal = write(i, c.author, "juliet", c.body)
			if refusal != "" {
				t.Errorf("%s, juliet: refused with %q", name, refusal)
				continue
			}
			got := w.arrived(t, mark)
			field, _, _ := strings.Cut(strings.ReplaceAll(got, "\r\n\t", " "), "\r\n")
			want, reason := "X-Mail-Trust: unproven; ", c.shown
			if c.permitted != "" {
				want, reason = "X-Mail-Trust: permitted; ", c.permitted
			}
			if !strings.HasPrefix(field, want) || !strings.Contains(field, reason) || !strings.HasSuffix(got, "\r\n"+c.body) {
				t.Errorf("%s, juliet: want %s%s, arrived as\n%.600s", name, want, reason, got)
			}
		}
	}

	// What is forgotten lets nobody in any more.
	program(t, "", w.capulet.Exe, "contact", "remove", "--config", w.capulet.Config, "--for", "nurse@capulet.example", ann)
	for i, p := range paths {
		if _, refusal := write(i, ann, "nurse", s.pgpMIME(ann)); refusal != "data "+notWanted {
			t.Errorf("%s, a key that is forgotten: %q", p.name, refusal)
		}
	}
}

// TestLearntKey: the key that comes with mail that the recipient has permitted is
// known from then on, and what it has signed is permitted wherever it comes from;
// the key that comes with a stranger's mail is not.
func TestLearntKey(t *testing.T) {
	w := start(t)
	s := newSigners(t)
	const friend, stranger = "f@friend.example", "s@stranger.example"
	count := 0
	write := func(client, from, author, to, fields, body string) (mark, refusal string) {
		t.Helper()
		count++
		mark = fmt.Sprintf("learn-%d", count)
		return mark, send(t, w.judged, client, nil, from, to+"@capulet.example", fmt.Sprintf("From: <%s>\r\n%sMessage-ID: <%s@x.example>\r\nSubject: %s\r\n%s", author, fields, mark, mark, body))
	}
	autocrypt := func(address string) string {
		key := base64.StdEncoding.EncodeToString(s.key(address))
		var b strings.Builder
		for len(key) > 70 {
			b.WriteString("\r\n " + key[:70])
			key = key[70:]
		}
		return "Autocrypt: addr=" + address + "; keydata=" + b.String() + "\r\n " + key + "\r\n"
	}
	known := func(mailbox string) string {
		return string(program(t, "", w.capulet.Exe, "contact", "list", "--config", w.capulet.Config, "--for", mailbox+"@capulet.example"))
	}

	mark, refusal := write(evil, "x@stranger.example", stranger, "juliet", autocrypt(stranger), "\r\nhello\r\n")
	if refusal != "" {
		t.Fatal(refusal)
	}
	w.arrived(t, mark)
	if mark, refusal = write(good, friend, friend, "nurse", autocrypt(friend), "\r\nhello\r\n"); refusal != "" {
		t.Fatal(refusal)
	}
	w.arrived(t, mark)
	for end := time.Now().Add(30 * time.Second); !strings.Contains(known("nurse"), friend); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nurse knows\n%s", known("nurse"))
		}
	}
	if got := known("nurse"); !strings.Contains(got, "autocrypt") {
		t.Errorf("nurse knows\n%s", got)
	}
	if got := known("juliet"); strings.Contains(got, stranger) {
		t.Errorf("learnt of a stranger: juliet knows\n%s", got)
	}

	// From where the author's domain does not send.
	mark, refusal = write(evil, "x@stranger.example", friend, "nurse", "", s.pgpMIME(friend))
	if refusal != "" {
		t.Fatal(refusal)
	}
	if got := w.arrived(t, mark); !strings.HasPrefix(strings.ReplaceAll(got, "\r\n\t", " "), "X-Mail-Trust: permitted; signed with the OpenPGP key of "+friend+" that was learnt (autocrypt)") {
		t.Errorf("arrived as\n%.300s", got)
	}
	const notWanted = "data 550 5.7.1 recipient has not permitted this sender"
	for name, body := range map[string]string{"not signed": "\r\nhello\r\n", "signed with a stranger's key": s.pgpMIME(stranger)} {
		if _, refusal := write(evil, "x@stranger.example", friend, "nurse", "", body); refusal != notWanted {
			t.Errorf("%s: %q", name, refusal)
		}
	}
}

package contacts

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"mailxmppd/mail"
)

// packet frames an OpenPGP packet.
func pgpPacket(tag byte, body []byte) []byte {
	n := len(body)
	return append([]byte{0xc0 | tag, 0xff, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, body...)
}

func armoured(data []byte) string {
	var b strings.Builder
	b.WriteString("-----BEGIN PGP SIGNATURE-----\r\n\r\n")
	for s := base64.StdEncoding.EncodeToString(data); s != ""; {
		n := min(64, len(s))
		b.WriteString(s[:n] + "\r\n")
		s = s[n:]
	}
	return b.String() + "-----END PGP SIGNATURE-----\r\n"
}

// endless is content that goes on for a while without being held anywhere.
type endless struct {
	head string
	line string
	size int64
}

func (e endless) Size() int64 { return e.size }
func (e endless) Open() (io.ReadCloser, error) {
	rest := e.size - int64(len(e.head))
	return io.NopCloser(io.MultiReader(strings.NewReader(e.head), io.LimitReader(&repeated{line: e.line}, rest))), nil
}

type repeated struct {
	line string
	at   int
}

func (r *repeated) Read(p []byte) (n int, err error) {
	for n < len(p) {
		c := copy(p[n:], r.line[r.at:])
		r.at = (r.at + c) % len(r.line)
		n += c
	}
	return n, nil
}

// TestHostile: what strangers can send costs bounded memory, permits nothing,
// and is named.
func TestHostile(t *testing.T) {
	part := parts["plain"]
	good := pgp.must(t, []byte(part), "-u", pgp.fingerprint(t, "romeo"), "--detach-sign")
	id := newIdentity(t, romeo, "ec")
	var bomb bytes.Buffer
	bomb.WriteByte(1) // ZIP
	z, err := flate.NewWriter(&bomb, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	z.Close()
	smime := func(der []byte) string {
		return head + "Content-Type: application/pkcs7-mime; smime-type=signed-data\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString(der) + "\r\n"
	}
	nested := "Content-Type: text/plain\r\n\r\nx\r\n"
	for i := range 5000 {
		nested = fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i) + nested
	}
	opaque := []byte(id.sign(t, part, "-nodetach", "-outform", "DER"))[len(head):]
	const unreadable = "the signature cannot be read"
	for _, c := range []struct {
		name    string
		content mail.Content
		reason  string
	}{
		{"50 signatures", mail.Bytes(pgpMessage(part, armoured(bytes.Repeat(good, 50)))), "more than 8 signatures"},
		{"a compressed bomb for a signature", mail.Bytes(pgpMessage(part, armoured(pgpPacket(8, bomb.Bytes())))), "what stands for the signature is something else"},
		{"an encrypted packet for a signature", mail.Bytes(pgpMessage(part, armoured(pgpPacket(18, make([]byte, 100))))), "what stands for the signature is something else"},
		{"a packet in a packet", mail.Bytes(pgpMessage(part, armoured(pgpPacket(2, pgpPacket(2, good))))), "signed with a key that is not known"},
		{"a packet that promises 4 GiB", mail.Bytes(pgpMessage(part, armoured(append([]byte{0xc2, 0xff, 0xff, 0xff, 0xff, 0xff}, good...)))), unreadable},
		{"a signature of 200 KiB", mail.Bytes(pgpMessage(part, strings.Repeat(strings.Repeat("A", 76)+"\r\n", 2700))), unreadable},
		{"garbage for a signature", mail.Bytes(pgpMessage(part, "\x00\xff\x01\x80\r\n")), unreadable},
		{"an empty signature", mail.Bytes(pgpMessage(part, "")), unreadable},
		{"garbage for armour", mail.Bytes(pgpMessage(part, "-----BEGIN PGP SIGNATURE-----\r\n\r\n====\r\n")), unreadable},
		{"BER nested 500,000 deep", mail.Bytes(smime(bytes.Repeat([]byte{0x30, 0x80}, 500_000))), unreadable},
		{"a million BER elements", mail.Bytes(smime(append([]byte{0x30, 0x80}, bytes.Repeat([]byte{5, 0}, 1_000_000)...))), unreadable},
		{"BER that promises 2 GiB", mail.Bytes(smime([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff})), unreadable},
		{"BER of long tags", mail.Bytes(smime(bytes.Repeat([]byte{0x3f, 0xff}, 1000))), unreadable},
		{"a CMS object cut off", mail.Bytes(smime(opaque[:len(opaque)/2])), unreadable},
		{"garbage for CMS", mail.Bytes(smime([]byte("garbage"))), unreadable},
		{"multiparts nested 5,000 deep", mail.Bytes(head + nested), ""},
		{"a header of 1 MiB", mail.Bytes("X: " + strings.Repeat("x", 1<<20) + "\r\n" + head + "\r\n"), "signature not checked: the header is too large"},
		{"2,000 fields", mail.Bytes(strings.Repeat("X: y\r\n", 2000) + head + "\r\n"), "signature not checked: the header is too large"},
		{"a line of 12 MiB", endless{strings.TrimSuffix(pgpMessage("", ""), "--outer--\r\n"), strings.Repeat("x", 4096), 12 << 20}, unreadable},
		{"12 MiB that is never closed", endless{pgpMessage(part, "")[:len(head)+200], strings.Repeat("--oute\r\n", 100), 12 << 20}, unreadable},
		{"12 MiB of plain text", endless{head + "\r\n", strings.Repeat("-----BEGIN PGP \r\n", 100), 12 << 20}, ""},
		{"12 MiB of text after the mark", endless{head + "\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\n\r\n", strings.Repeat(strings.Repeat("x", 70)+"\r\n", 10), 12 << 20}, "signature not checked: the signed text is too large"},
		{"100 MiB", endless{head, "x\r\n", 100 << 20}, "signature not checked: the message is too large"},
	} {
		b := book(t, Config{}, pgp.key(t, "romeo"), contact(id.certificate(t)))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err := b.Check(t.Context(), address(t, juliet), address(t, romeo), NewMessage(c.content))
		runtime.ReadMemStats(&after)
		if err != nil || f.Permitted || f.Reason != c.reason {
			t.Errorf("%s: got %+v, %v, want %q", c.name, f, err, c.reason)
		}
		// All that was allocated, not only what was held at a time.
		if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 40 {
			t.Errorf("%s: allocated %d MiB", c.name, n)
		}
	}
}

// TestLargeStreams: the signature of a large message is verified without
// holding the message.
func TestLargeStreams(t *testing.T) {
	line := strings.Repeat("x", 70) + "\r\n"
	part := "Content-Type: text/plain\r\n\r\n" + strings.Repeat(line, 8<<20/len(line))
	content := NewMessage(mail.Bytes(pgpMessage(part, pgp.detach(t, part, "romeo"))))
	b := book(t, Config{}, pgp.key(t, "romeo"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f, err := b.Check(t.Context(), address(t, juliet), address(t, romeo), content)
	runtime.ReadMemStats(&after)
	if err != nil || !f.Permitted {
		t.Errorf("got %+v, %v", f, err)
	}
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 2 {
		t.Errorf("allocated %d MiB for 8 MiB", n)
	}
}

// broken fails in the middle, as a full or broken disk does.
type broken struct{ mail.Bytes }

func (b broken) Open() (io.ReadCloser, error) {
	return io.NopCloser(io.MultiReader(bytes.NewReader(b.Bytes[:len(b.Bytes)/2]), failing{})), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestContentFails: content that cannot be read is no wrong signature.
func TestContentFails(t *testing.T) {
	part := parts["plain"]
	b := book(t, Config{}, pgp.key(t, "romeo"))
	content := broken{mail.Bytes(pgpMessage(part, pgp.detach(t, part, "romeo")))}
	if f, err := b.Check(t.Context(), address(t, juliet), address(t, romeo), NewMessage(content)); err == nil || f.Permitted || f.Reason != "" {
		t.Errorf("got %+v, %v", f, err)
	}
}

func FuzzCheck(f *testing.F) {
	part := parts["plain"]
	id := newIdentity(f, romeo, "ec")
	f.Add([]byte(pgpMessage(part, pgp.detach(f, part, "romeo"))))
	f.Add([]byte(id.sign(f, part)))
	f.Add([]byte(id.sign(f, part, "-nodetach")))
	f.Add([]byte(head + "\r\n" + crlf(string(pgp.must(f, []byte(part), "-u", pgp.fingerprint(f, "romeo"), "--clearsign")))))
	pgpKey, certificate := pgp.key(f, "romeo"), contact(id.certificate(f))
	now := New(Config{}).now()
	f.Fuzz(func(t *testing.T, data []byte) {
		m := NewMessage(mail.Bytes(data))
		part, err := m.signed()
		if err != nil {
			t.Fatal(err)
		}
		if part.start > part.end || part.end > int64(len(data)) {
			t.Errorf("signed octets %d to %d of %d", part.start, part.end, len(data))
		}
		if part.problem != "" {
			return
		}
		if _, err := m.by(t.Context(), pgpKey, romeo, now); err != nil {
			t.Error(err)
		}
		if _, err := m.by(t.Context(), certificate, romeo, now); err != nil {
			t.Error(err)
		}
	})
}

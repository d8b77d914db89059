package wire

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"
)

// decodesLikeLibrary holds DecodeBase64 against the standard library, which
// skips line ends where we refuse them, and in place against itself.
func decodesLikeLibrary(t *testing.T, text []byte) {
	t.Helper()
	want, wantErr := base64.StdEncoding.Strict().DecodeString(string(text))
	refuse := wantErr != nil || bytes.ContainsAny(text, "\r\n")
	got, err := DecodeBase64([]byte("kept"), text)
	if (err != nil) != refuse {
		t.Fatalf("%q: error %v, the library has %v", text, err, wantErr)
	}
	if err == nil && string(got) != "kept"+string(want) {
		t.Fatalf("%q gave %q", text, got)
	}
	own := bytes.Clone(text)
	inPlace, err := DecodeBase64(own[:0], own)
	if (err != nil) != refuse || err == nil && !bytes.Equal(inPlace, want) {
		t.Fatalf("%q in place: %q, %v", text, inPlace, err)
	}
}

func TestDecodeBase64(t *testing.T) {
	for _, text := range []string{
		"", "QQ==", "QUI=", "QUJD", "QUJDRA==", "QUJDREU=", "QUJDREVG", // good
		"Q", "QQ", "QQ=", "QUJDR", "=", "====", "QQ==QQ==", "QQ==QUJDREVG", "QUJDREVG=", "QUI=\n", "QU\nJD", "QUJD\r\n",
		"QR==", "QUJ=", "QUJDREVGQR==", // stray bits
		"QU D", "QUJDREVG QUJ", "QU-_", "QUJDQU-_QUJD", "QUJD\x00UJDQUJD", "QUJD\xc3\xa4JDQUJD", "....QUJDREVG",
	} {
		decodesLikeLibrary(t, []byte(text))
	}
	random := rand.New(rand.NewPCG(3, 4))
	for n := range 100 {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		text := []byte(base64.StdEncoding.EncodeToString(p))
		decodesLikeLibrary(t, text)
		for range 20 { // one octet wrong, wherever it is
			if n == 0 {
				break
			}
			wrong := bytes.Clone(text)
			wrong[random.IntN(len(wrong))] = byte(random.Uint32())
			decodesLikeLibrary(t, wrong)
		}
	}
}

func FuzzDecodeBase64(f *testing.F) {
	for _, s := range []string{"", "QQ==", "QUJDREVGR0hJSktM", "QUJDREVGR0hJSktMTQ==", "QUJD\nQUJD", strings.Repeat("+/aZ", 20) + "=="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) { decodesLikeLibrary(t, text) })
}

func BenchmarkDecodeBase64(b *testing.B) {
	text := []byte(base64.StdEncoding.EncodeToString(make([]byte, 20<<10)))
	var buf []byte
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		var err error
		if buf, err = DecodeBase64(buf[:0], text); err != nil {
			b.Fatal(err)
		}
	}
}

package trust

import (
	"bytes"
	"strings"
	"testing"

	"github.com/emersion/go-msgauth/dkim"

	"mailxmppd/trust/authres"
)

// tenKilobytes is a message with one RSA signature.
func tenKilobytes(b *testing.B) string {
	return sign(b, plain+strings.Repeat("It is the east, and Juliet is the sun, and other words on a line of text.\r\n", 135), "montague.example", "s1", keys().rsa)
}

// BenchmarkEvaluate is all evidence for a message, with DNS from memory;
// BenchmarkBare is go-msgauth's verification of it alone. lab/bench prints the
// ratio.
func BenchmarkEvaluate(b *testing.B) {
	e := New(Config{DNS: startDNS(b, montague(b)...).resolver(b)})
	in := bySMTP(tenKilobytes(b), "romeo@montague.example")
	for b.Loop() {
		if ev := e.Evaluate(b.Context(), in); ev.DMARC[0].Result != authres.Pass {
			b.Fatalf("%+v", ev)
		}
	}
}

func BenchmarkBare(b *testing.B) {
	message, record := []byte(tenKilobytes(b)), keyRecord(b, keys().rsa)
	for b.Loop() {
		v, err := dkim.VerifyWithOptions(bytes.NewReader(message), &dkim.VerifyOptions{LookupTXT: func(string) ([]string, error) { return []string{record}, nil }})
		if err != nil || v[0].Err != nil {
			b.Fatal(err)
		}
	}
}

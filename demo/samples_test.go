package demo

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSamples(t *testing.T) {
	n := newTestNetwork(t)
	samples, err := n.letters()
	if err != nil {
		t.Fatal(err)
	}
	record, err := n.signer.record()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.dns.add(record); err != nil {
		t.Fatal(err)
	}
	verify := func(p []byte) error { return verifySignature(t.Context(), n.dns, p) }
	byName := map[string]letter{}
	for _, s := range samples {
		if _, err := withCRLF(s.content); err != nil {
			t.Errorf("%s: %v", s.source, err)
		}
		if !bytes.Contains(s.content, []byte("\r\n\r\n")) || !bytes.Contains(s.content, []byte("From: ")) {
			t.Errorf("%s is no message", s.source)
		}
		byName[s.source[:1]] = s
	}
	if len(byName) != 7 {
		t.Fatalf("%d samples", len(byName))
	}
	if !bytes.Contains(byName["1"].content, []byte("\r\n.\r\n..\r\n")) {
		t.Error("plain: no lines with dots")
	}
	if byName["2"].utf8Header() || !byName["3"].utf8Header() {
		t.Error("raw UTF-8 is in the wrong header")
	}
	if utf8.Valid(byName["4"].content) {
		t.Error("latin1 is valid UTF-8")
	}
	if !bytes.Contains(byName["5"].content, []byte("Content-Disposition: attachment")) {
		t.Error("multipart: no attachment")
	}
	if size := len(byName["7"].content); size < 5_000_000 || size > 6_000_000 {
		t.Errorf("large: %d octets", size)
	}
	signed := byName["6"].content
	if !byName["6"].signed {
		t.Error("dkim: not marked as signed")
	}
	if err := verify(append([]byte(overXMPP), signed...)); err != nil {
		t.Errorf("dkim: %v", err)
	}
	for name, change := range map[string][2]string{
		"a blank less in the body":   {"the sea,  \r\n", "the sea, \r\n"},
		"a blank less in the header": {"are,   blanks", "are,  blanks"},
	} {
		changed := strings.Replace(string(signed), change[0], change[1], 1)
		if changed == string(signed) {
			t.Fatalf("%s: nothing to change", name)
		}
		if verify([]byte(changed)) == nil {
			t.Errorf("%s: the signature still holds", name)
		}
	}
	if verify(byName["1"].content) == nil {
		t.Error("an unsigned message verifies")
	}
}

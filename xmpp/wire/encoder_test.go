package wire

import (
	"encoding/base64"
	"math/rand/v2"
	"testing"
)

func TestEncoder(t *testing.T) {
	e := NewEncoder([]byte("before"))
	e.Start("iq", "")
	e.Attr("a", "<'\">&\t\r\n é")
	e.AttrInt("n", -42)
	e.Start("x", "urn:x")
	e.Start("y", "urn:x")
	e.Text("a<b>&'\"]]>\r\n")
	e.End()
	e.Start("z", "urn:z")
	e.End()
	e.End()
	e.Raw([]byte("<raw/>"))
	e.Raw(nil)
	e.Start("b", "")
	e.Base64([]byte("abcd"))
	e.End()
	e.End()
	got, err := e.Bytes()
	want := `before<iq a='&lt;&apos;"&gt;&amp;&#x9;&#xD;&#xA; é' n='-42'><x xmlns='urn:x'><y>a&lt;b&gt;&amp;'"]]&gt;&#xD;` + "\n" +
		`</y><z xmlns='urn:z'/></x><raw/><b>YWJjZA==</b></iq>`
	if err != nil || string(got) != want {
		t.Fatalf("error %v\n got %s\nwant %s", err, got, want)
	}
	if e.Len() != len(want) {
		t.Error("length", e.Len())
	}
}

func TestEncoderRefuses(t *testing.T) {
	for name, build := range map[string]func(*Encoder){
		"control":        func(e *Encoder) { e.Start("a", ""); e.Text("\x00"); e.End() },
		"not UTF-8":      func(e *Encoder) { e.Start("a", ""); e.Attr("b", "\xff"); e.End() },
		"U+FFFE":         func(e *Encoder) { e.Start("a", ""); e.Text("\ufffe"); e.End() },
		"surrogate":      func(e *Encoder) { e.Start("a", ""); e.Text("\xed\xa0\x80"); e.End() },
		"left open":      func(e *Encoder) { e.Start("a", "") },
		"end too many":   func(e *Encoder) { e.Start("a", ""); e.End(); e.End() },
		"attribute late": func(e *Encoder) { e.Start("a", ""); e.Text("x"); e.Attr("b", "c"); e.End() },
	} {
		e := NewEncoder(nil)
		build(e)
		if b, err := e.Bytes(); err == nil {
			t.Errorf("%s: gave %q", name, b)
		}
	}
}

// TestBase64 compares with the standard library, over every length that ends
// differently and every digit pair.
func TestBase64(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		p := make([]byte, n)
		if n == 299 {
			p = make([]byte, 64<<10)
		}
		for i := range p {
			p[i] = byte(random.Uint32())
		}
		e := NewEncoder([]byte("x"))
		e.Start("a", "")
		e.Base64(p)
		e.End()
		got, err := e.Bytes()
		if want := "x<a>" + base64.StdEncoding.EncodeToString(p) + "</a>"; err != nil || string(got) != want {
			t.Fatalf("%d octets: %v", n, err)
		}
	}
}

package mail

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct{ in, local, domain, out string }{
		{"a@b.example", "a", "b.example", "a@b.example"},
		{"A.b+c@B.Example", "A.b+c", "b.example", "A.b+c@b.example"},
		{`"a b"@b.example`, "a b", "b.example", `"a b"@b.example`},
		{`"a\"\\b"@b.example`, `a"\b`, "b.example", `"a\"\\b"@b.example`},
		{`"plain"@b.example`, "plain", "b.example", "plain@b.example"},
		{`"x@y"@b.example`, "x@y", "b.example", `"x@y"@b.example`},
		{"postmaster", "postmaster", "", "postmaster"},
		{"u@[192.0.2.1]", "u", "[192.0.2.1]", "u@[192.0.2.1]"},
		{"u@[IPv6:2001:DB8::1]", "u", "[IPv6:2001:db8::1]", "u@[IPv6:2001:db8::1]"},
		{"ü@bücher.example", "ü", "xn--bcher-kva.example", "ü@xn--bcher-kva.example"},
		{"_a@_b.example", "_a", "_b.example", "_a@_b.example"},
	} {
		a, err := ParseAddress(c.in)
		if err != nil || a.Local != c.local || a.Domain != c.domain || a.String() != c.out {
			t.Errorf("%q: %+v %q, %v", c.in, a, a.String(), err)
		}
	}
	for _, in := range []string{
		"", "a", "@b.example", "a@", "a@b..example", ".a@b.example", "a.@b.example", "a..b@c.example", "a b@c.example",
		"a@b.example>", "<a@b.example", "a@b.example ", "a@-b.example", "a@b_.exa mple", `"a@b.example`, `""@b.example`, "\"a\r\n\"@b.example",
		"a\x00@b.example", "\"a\x00\"@b.example", "\"a\\\x00\"@b.example", "a\x7f@b.example", "\xff@b.example", "\"\u0085\"@b.example", "\u2028@b.example",
		"a@[300.1.1.1]", "a@[192.0.2.1", "a@[IPv6:fe80::1%eth0]", "a@b.example\r\n", "a,b@c.example", "@x,@y:a@b.example",
		strings.Repeat("a", 65) + "@b.example", "a@" + strings.Repeat("a", 64) + ".example", "a@" + strings.Repeat("aaa.", 70) + "example",
		`victim@x> ORCPT=rfc822;y"@ours.example`,
	} {
		if a, err := ParseAddress(in); err == nil {
			t.Errorf("%q taken as %+v", in, a)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@b.example", `"a b"@b.example`, "ü@bücher.example", "u@[IPv6:::1]", `"\\"@x`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		again, err := ParseAddress(a.String())
		if err != nil || again != a {
			t.Fatalf("%q -> %q -> %+v, %v", s, a.String(), again, err)
		}
		if strings.ContainsAny(a.String(), "\r\n\x00") {
			t.Fatalf("control character in %q", a.String())
		}
	})
}

func TestDomains(t *testing.T) {
	for in, want := range map[string]string{"Bücher.Example": "xn--bcher-kva.example", "XN--BCHER-KVA.example": "xn--bcher-kva.example", "a.b": "a.b"} {
		if got, err := ParseDomain(in); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
	if got := UnicodeDomain("xn--bcher-kva.example"); got != "bücher.example" {
		t.Errorf("U-labels %q", got)
	}
}

func TestNotify(t *testing.T) {
	for _, c := range []struct {
		in string
		ok bool
	}{{"NEVER", true}, {"SUCCESS FAILURE DELAY", true}, {"FAILURE", true}, {"NEVER FAILURE", false}, {"FAILURE FAILURE", false}, {"OTHER", false}} {
		names := strings.Fields(c.in)
		n, ok := ParseNotify(names)
		if ok != c.ok || ok && strings.Join(n.Names(), " ") != c.in {
			t.Errorf("%q: %v %v", c.in, n.Names(), ok)
		}
	}
}

func TestID(t *testing.T) {
	seen := map[ID]bool{}
	for range 1000 {
		id := NewID()
		if _, err := ParseID(string(id)); err != nil || seen[id] {
			t.Fatalf("%q: %v, seen before: %v", id, err, seen[id])
		}
		seen[id] = true
	}
	if got := encodeID([16]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); got != "7ZZZZZZZZZZZZZZZZZZZZZZZZZ" {
		t.Errorf("all ones: %s", got)
	}
	for _, bad := range []string{"", "8ZZZZZZZZZZZZZZZZZZZZZZZZZ", "7ZZZZZZZZZZZZZZZZZZZZZZZZI", "7zzzzzzzzzzzzzzzzzzzzzzzzz"} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q taken", bad)
		}
	}
}

// TestFailureTable: no two columns of a row may disagree.
func TestFailureTable(t *testing.T) {
	kinds := map[Kind]bool{}
	for _, r := range Failures() {
		f := Fail(r.Kind, "", nil)
		if kinds[r.Kind] || f.Kind != r.Kind {
			t.Errorf("%s: row not found or double", r.Kind)
		}
		kinds[r.Kind] = true
		if permanent := r.Code >= 500; permanent != (r.Class == Permanent) || f.Status()[0] != fmt.Sprint(r.Code)[0] {
			t.Errorf("%s: code %d, status %s, class %d disagree", r.Kind, r.Code, f.Status(), r.Class)
		}
		if r.Class == InDoubt {
			continue
		}
		back := FromStanza("p", r.Condition, f.Status(), f.Text, r.Kind == TooLarge, 0)
		if back.Class != r.Class || back.Status() != f.Status() {
			t.Errorf("%s over XMPP comes back as %s %s", r.Kind, back.Kind, back.Status())
		}
	}
}

func TestAsFailure(t *testing.T) {
	if AsFailure(nil) != nil {
		t.Error("nil is a failure")
	}
	f := Fail(TooLarge, "", nil)
	if got := AsFailure(fmt.Errorf("wrapped: %w", f)); got != f {
		t.Errorf("got %v", got)
	}
	secret := errors.New("password=1234")
	if got := AsFailure(secret); got.Class != Temporary || strings.Contains(got.Text, "1234") || !errors.Is(got, secret) {
		t.Errorf("unknown error: %+v", got)
	}
}

func TestFromReply(t *testing.T) {
	for _, c := range []struct {
		code   int
		status string
		class  Class
		want   string
	}{
		{550, "5.1.1", Permanent, "5.1.1"}, {550, "4.1.1", Permanent, "5.0.0"}, {451, "4.7.1", Temporary, "4.7.1"},
		{421, "", Temporary, "4.0.0"}, {354, "", Temporary, "4.0.0"}, {599, "5.1000.1", Permanent, "5.0.0"}, {550, "5.7.1", Permanent, "5.7.1"},
	} {
		f := FromReply("mx", c.code, c.status, "no")
		if f.Class != c.class || f.Status() != c.want {
			t.Errorf("%d %q: class %d, %s, want %s", c.code, c.status, f.Class, f.Status(), c.want)
		}
	}
}

func TestSanitise(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nb": "a b", "  a ": "a", "\x00\x1b[31mred": "[31mred", "\xff\xfe": "", "ü": "ü", "a\u2028b": "a b", "": "",
	} {
		if got := Sanitise(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := Sanitise(strings.Repeat("ü", 1000)); len(got) > maxText+utf8.UTFMax || !utf8.ValidString(got) {
		t.Errorf("%d octets kept", len(got))
	}
}

// TestBuffer: any content in any pieces comes back as it went in, with the
// facts that a look at the whole finds.
func TestBuffer(t *testing.T) {
	lines := rapid.SampledFrom([]string{
		"Received: by x\r\n", "RECEIVED:x\r\n", "Message-ID: <1>\r\n", "message-id : x\r\n", " folded Received: no\r\n", "Subject: \xc3\xbc\r\n",
		"\r\n", "body\r\n", "Received: in body\r\n", strings.Repeat("x", 998) + "\r\n", strings.Repeat("x", 999) + "\r\n", "\x00", "\xff", "no end", "",
		strings.Repeat("0123456789abcde\r\n", 10_000),
	})
	rapid.Check(t, func(t *rapid.T) {
		whole := strings.Join(rapid.SliceOfN(lines, 0, 12).Draw(t, "lines"), "")
		b := NewBuffer("")
		defer b.Close()
		for rest := []byte(whole); len(rest) > 0; {
			n := min(len(rest), rapid.SampledFrom([]int{1, 2, 7, 4096, 100_000}).Draw(t, "piece"))
			if len(rest) > 100_000 {
				n = min(len(rest), 100_000)
			}
			if _, err := b.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		got, want := b.Facts(), factsOf(whole)
		if got != want {
			t.Fatalf("facts %+v, want %+v", got, want)
		}
		for range 2 {
			rc, err := b.Open()
			if err != nil {
				t.Fatal(err)
			}
			back, err := io.ReadAll(rc)
			if err != nil || string(back) != whole {
				t.Fatalf("read back %d octets of %d, %v", len(back), len(whole), err)
			}
		}
	})
}

// factsOf finds the facts in the plainest way.
func factsOf(s string) Facts {
	f := Facts{Size: int64(len(s)), SHA256: sha256.Sum256([]byte(s)), Null: strings.Contains(s, "\x00")}
	inBody := false
	for _, line := range strings.SplitAfter(s, "\n") {
		if line == "" {
			continue
		}
		text := strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		f.LongLine = f.LongLine || len(text) > 998
		high := bytes.ContainsFunc([]byte(line), func(r rune) bool { return r >= 0x80 || r == utf8.RuneError })
		f.EightBit = f.EightBit || high
		if inBody {
			continue
		}
		f.HeaderUTF8 = f.HeaderUTF8 || high
		name, _, ok := strings.Cut(text, ":")
		switch {
		case text == "" && strings.HasSuffix(line, "\n"):
			inBody = true
		case ok && strings.EqualFold(strings.TrimRight(name, " \t"), "received"):
			f.Received++
		case ok && strings.EqualFold(strings.TrimRight(name, " \t"), "message-id"):
			f.HasID = true
		}
	}
	return f
}

func TestTransferID(t *testing.T) {
	a, b := Address{"a", "x.example"}, Address{"b", "x.example"}
	f := Facts{HasID: true, SHA256: [32]byte{1}}
	if TransferID(a, f) != TransferID(a, f) || TransferID(a, f) == TransferID(b, f) || TransferID(a, f) == TransferID(a, Facts{HasID: true}) {
		t.Error("the id does not follow from reverse-path and content")
	}
	f.HasID = false
	if TransferID(a, f) == TransferID(a, f) {
		t.Error("two messages without Message-ID and Received got one id")
	}
	if len(TransferID(a, f)) != 64 {
		t.Error("not 64 digits")
	}
}

// TestClosedBuffer: content that is gone is not empty content.
func TestClosedBuffer(t *testing.T) {
	for _, size := range []int{10, memoryContent + 1} {
		b := NewBuffer(t.TempDir())
		b.Write(make([]byte, size))
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Open(); err == nil {
			t.Errorf("%d octets open after Close", size)
		}
	}
}

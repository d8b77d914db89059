package author

import (
	"bufio"
	"fmt"
	"strings"
	"testing"

	"mailxmppd/trust/header"
)

func read(t testing.TB, message string, known ...string) From {
	t.Helper()
	h, err := header.Read(bufio.NewReader(strings.NewReader(message)))
	if err != nil {
		t.Fatal(err)
	}
	return Read(h, known)
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		from     string // the value of From, or whole fields
		authors  string
		problems string
	}{
		{"a@b.example", "a@b.example", ""},
		{"Alice <a@b.example>", "a@b.example", ""},
		{`"Alice, the first" <a@B.Example>`, "a@b.example", ""},
		{"Doe, John <j@b.example>", "j@b.example", ""},
		{strings.Repeat(`"a", `, 30) + "<j@b.example>", "j@b.example", ""},
		{strings.Repeat(`"a", `, 64) + "<j@b.example>", "", "From cannot be read"},
		{"John Q. Public <j@b.example> (at home)", "j@b.example", ""},
		{"(comment) a@b.example (another (nested))", "a@b.example", ""},
		{"=?utf-8?Q?J=C3=BCrgen?= <j@b.example>", "j@b.example", ""},
		{`"a b"@b.example`, `"a b"@b.example`, ""},
		{"a@[192.0.2.1]", "a@[192.0.2.1]", ""},
		{"jürgen@bücher.example", "jürgen@xn--bcher-kva.example", ""},
		{"Friends: a@b.example, C <c@d.example>;", "a@b.example c@d.example", "several authors"},
		{"a@b.example, c@d.example", "a@b.example c@d.example", "several authors"},
		{"Nobody:;", "", "From cannot be read"},
		{"", "", "From cannot be read"},
		{"Alice", "", "From cannot be read"},
		{"a@b.example c@d.example", "", "From cannot be read"},
		{"<a@b.example> <c@d.example>", "", "From cannot be read"},
		{"<a@b.example> c@d.example", "", "From cannot be read"},
		{"<a@b.example", "", "From cannot be read"},
		{"a@b.example, Mallory", "", "From cannot be read"},
		{"<@relay.example:a@b.example>", "", "From cannot be read"},
		{"a@b@c.example", "", "From cannot be read"},
		{`"never ends <a@b.example>`, "", "From cannot be read"},
		{"(never ends <a@b.example>", "", "From cannot be read"},
		{strings.Repeat("(", 50) + strings.Repeat(")", 50) + "a@b.example", "", "From cannot be read"},
		{strings.Repeat("a@b.example,", 50) + "a@b.example", "", "From cannot be read"},
		{"postmaster", "", "From cannot be read"},
		{"a@b.example\r\nFrom: c@d.example", "a@b.example c@d.example", "several From fields; several authors"},
		{"a@b.example\r\nFROM : c@d.example", "a@b.example c@d.example", "several From fields; several authors"},
		{"ceo@bank.example <m@evil.example>", "m@evil.example", "the display name shows another address"},
		{`"ceo@bank.example" <m@evil.example>`, "m@evil.example", "the display name shows another address"},
		{`"CEO <ceo@bank.example>" <m@evil.example>`, "m@evil.example", "the display name shows another address"},
		{"=?utf-8?B?Y2VvQGJhbmsuZXhhbXBsZQ==?= <m@evil.example>", "m@evil.example", "the display name shows another address"},
		{"=?utf-8?Q?ceo=EF=BC=A0bank=2Eexample?= <m@evil.example>", "m@evil.example", "the display name shows another address"},
		{`"ceo@bank.example" <m@bank.example>`, "m@bank.example", "the display name shows another address"},
		{`"m@evil.example" <m@evil.example>`, "m@evil.example", ""},
		{`"M@Evil.example" <m+lists@evil.example>`, "m+lists@evil.example", ""},
		{`"M (at work) me@home" <m@evil.example>`, "m@evil.example", ""},
		{"=?utf-8?Q?a=40bank.example?= <=?utf-8?Q?b?=@evil.example>", "=?utf-8?Q?b?=@evil.example", "an encoded word where the address is; the display name shows another address"},
		{"=?utf-8?Q?=E2=80=AEelpmaxe?= <m@evil.example>", "m@evil.example", "invisible or direction characters in the display name"},
		{"=?utf-8?Q?a=0D=0AFrom=3A_b?= <m@evil.example>", "m@evil.example", "invisible or direction characters in the display name"},
		{"a@pаypal.example", "a@xn--pypal-4ve.example", "a domain with letters of several scripts; a domain that looks like another"},
		{"a@раураl.example", "a@xn--l-7sba6dbr.example", "a domain with letters of several scripts; a domain that looks like another"},
		{"a@paypa1.example", "a@paypa1.example", "a domain that looks like another"},
		{"a@paypal.example.evil.example", "a@paypal.example.evil.example", "a domain that looks like another"},
		{"a@mail.paypal.example", "a@mail.paypal.example", ""},
		{"a@paypal.example", "a@paypal.example", ""},
	} {
		f := read(t, "From: "+c.from+"\r\n\r\n", "paypal.example")
		var authors, problems []string
		for _, a := range f.Authors {
			authors = append(authors, a.Address.String())
		}
		for _, p := range f.Problems {
			problems = append(problems, string(p))
		}
		if got := strings.Join(authors, " "); got != c.authors {
			t.Errorf("%.60q: authors %q, want %q", c.from, got, c.authors)
		}
		if got := strings.Join(problems, "; "); got != c.problems {
			t.Errorf("%.60q: problems %q, want %q", c.from, got, c.problems)
		}
	}
}

func TestNoFrom(t *testing.T) {
	if f := read(t, "Subject: x\r\n\r\nFrom: a@b.example\r\n"); !f.Has(NoFrom) || f.Authors != nil || f.Domains() != nil {
		t.Errorf("%+v", f)
	}
}

func TestDomains(t *testing.T) {
	f := read(t, "From: a@b.example, c@d.example, e@B.example\r\n\r\n")
	if got := fmt.Sprint(f.Domains()); got != "[b.example d.example]" {
		t.Error(got)
	}
}

// FuzzRead: every value is either unreadable or gives authors whose addresses
// read back as themselves.
func FuzzRead(f *testing.F) {
	f.Add("Alice <a@b.example>, \"x\\\"y\" (c(d)) <z@w.example>")
	f.Add("G: a@b.example, =?utf-8?Q?x?= <c@d.example>;")
	f.Add("[::]:<>,;\"\\")
	f.Fuzz(func(t *testing.T, value string) {
		if strings.ContainsAny(value, "\r\n") {
			return
		}
		from := read(t, "From: "+value+"\r\n\r\n", "b.example")
		if (len(from.Authors) == 0) != from.Has(Unreadable) {
			t.Fatalf("%q: %+v", value, from)
		}
		for _, a := range from.Authors {
			again := read(t, "From: "+a.Address.String()+"\r\n\r\n")
			if len(again.Authors) != 1 || again.Authors[0].Address != a.Address {
				t.Fatalf("%q: %q reads %+v", value, a.Address, again)
			}
		}
	})
}

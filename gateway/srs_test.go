package gateway

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"mailxmppd/mail"
)

const srsDomain = "home.example"

var (
	srsKey1 = []byte("0123456789abcdef")
	srsKey2 = []byte("fedcba9876543210")
)

func newSRS(t testing.TB, keys ...[]byte) *SRS {
	t.Helper()
	s, err := NewSRS(keys, srsDomain)
	if err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) }
	return s
}

func srsAddress(t testing.TB, s string) mail.Address {
	t.Helper()
	var a mail.Address
	if err := a.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestSRSThereAndBack(t *testing.T) {
	s := newSRS(t, srsKey1)
	for _, c := range []struct{ from, prefix, back string }{
		{"romeo@verona.example", "SRS0=", "romeo@verona.example"},
		{"Romeo.M@verona.example", "SRS0=", "Romeo.M@verona.example"},
		{`"a b\"c"@verona.example`, "SRS0=", `"a b\"c"@verona.example`},
		{"a=b=c@verona.example", "SRS0=", "a=b=c@verona.example"},
		{"=@verona.example", "SRS0=", "=@verona.example"},
		{"romeo@[192.0.2.1]", "SRS0=", "romeo@[192.0.2.1]"},
		{"Ῥωμαῖος@verona.example", "SRS0=", "Ῥωμαῖος@verona.example"},
		{"SRS2=x=y@verona.example", "SRS0=", "SRS2=x=y@verona.example"},
		{"SRS1=broken@verona.example", "SRS0=", "SRS1=broken@verona.example"},
		{"SRS0=HHHH=TT=verona.example=romeo@fwd.example", "SRS1=", "SRS0=HHHH=TT=verona.example=romeo@fwd.example"},
		{"SRS0+HHHH=TT=verona.example=romeo@fwd.example", "SRS1=", "SRS0+HHHH=TT=verona.example=romeo@fwd.example"},
		{"srs0-h=T=v.example=r@fwd.example", "SRS1=", "SRS0-h=T=v.example=r@fwd.example"},
		{"SRS1=HHHH=fwd.example==HH=TT=v.example=r@fwd2.example", "SRS1=", "SRS0=HH=TT=v.example=r@fwd.example"},
	} {
		f, err := s.Forward(srsAddress(t, c.from))
		if err != nil || f.Domain != srsDomain || !strings.HasPrefix(f.Local, c.prefix) {
			t.Errorf("%s forward: %s, %v", c.from, f, err)
			continue
		}
		for _, as := range []mail.Address{f, {Local: strings.ToUpper(f.Local[:14]) + f.Local[14:], Domain: f.Domain}} {
			if b, err := s.Reverse(as); err != nil || b.String() != c.back {
				t.Errorf("%s as %s and back: %s, %v, want %s", c.from, as, b, err, c.back)
			}
		}
		if b, err := s.Reverse(mail.Address{Local: lowerASCII(f.Local), Domain: f.Domain}); err != nil || !strings.EqualFold(b.String(), c.back) {
			t.Errorf("%s in lower case and back: %s, %v", c.from, b, err)
		}
	}
}

func TestSRSLeavesAlone(t *testing.T) {
	s := newSRS(t, srsKey1)
	for _, from := range []string{"", "juliet@home.example"} {
		if f, err := s.Forward(srsAddress(t, from)); err != nil || f.String() != from {
			t.Errorf("%q forward: %q, %v", from, f, err)
		}
	}
	for _, to := range []string{"juliet@home.example", "SRS@home.example", "SRS0@home.example", "SRS0=@home.example.net",
		"SRS2=x=y=z=a@home.example", "SRSX=a@home.example", "SRS0=a=b=c.example=d@other.example"} {
		if _, err := s.Reverse(srsAddress(t, to)); !errors.Is(err, ErrNotSRS) {
			t.Errorf("%s back: %v", to, err)
		}
	}
	if _, err := s.Forward(mail.Address{Local: "postmaster"}); err == nil {
		t.Error("an address without a domain was rewritten")
	}
}

func TestSRSRefusesForgeries(t *testing.T) {
	s := newSRS(t, srsKey1)
	made, err := s.Forward(srsAddress(t, "romeo@verona.example"))
	if err != nil {
		t.Fatal(err)
	}
	double, err := s.Forward(srsAddress(t, "SRS0=HHHH=TT=verona.example=romeo@fwd.example"))
	if err != nil {
		t.Fatal(err)
	}
	for _, good := range []string{made.Local, double.Local} {
		for i := 5; i < len(good); i++ {
			c := byte('q')
			if good[i]|0x20 == 'q' {
				c = 'r'
			}
			forged := mail.Address{Local: good[:i] + string(c) + good[i+1:], Domain: srsDomain}
			if b, err := s.Reverse(forged); !errors.Is(err, ErrSRSForged) {
				t.Errorf("%s back: %s, %v", forged, b, err)
			}
		}
	}
	for _, local := range []string{"SRS0=x", "SRS0==", "SRS0====", "SRS1====", "SRS1==x", "SRS0=AAAAAAAA=AA=verona.example=", "SRS1=AAAAAAAA=fwd.example==x",
		"SRS0=" + made.Local[5:12] + "=", strings.Replace(made.Local, "SRS0", "SRS1", 1), strings.Replace(double.Local, "SRS1", "SRS0", 1)} {
		if b, err := s.Reverse(mail.Address{Local: local, Domain: srsDomain}); !errors.Is(err, ErrSRSForged) {
			t.Errorf("%s back: %s, %v", local, b, err)
		}
	}
	// What is signed for one domain of ours means nothing at another.
	other, err := NewSRS([][]byte{srsKey1}, "second.example")
	if err != nil {
		t.Fatal(err)
	}
	other.now = s.now
	if _, err := other.Reverse(mail.Address{Local: made.Local, Domain: "second.example"}); !errors.Is(err, ErrSRSForged) {
		t.Errorf("at another domain: %v", err)
	}
}

func TestSRSKeysAndDays(t *testing.T) {
	old := newSRS(t, srsKey1)
	made, err := old.Forward(srsAddress(t, "romeo@verona.example"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newSRS(t, srsKey2, srsKey1).Reverse(made); err != nil {
		t.Errorf("with the old key second: %v", err)
	}
	if _, err := newSRS(t, srsKey2).Reverse(made); !errors.Is(err, ErrSRSForged) {
		t.Errorf("with another key: %v", err)
	}
	made2, err := newSRS(t, srsKey2, srsKey1).Forward(srsAddress(t, "romeo@verona.example"))
	if err != nil || made2 == made {
		t.Errorf("the first key does not sign: %v", err)
	}
	for days, want := range map[int]error{-2: ErrSRSExpired, -1: nil, 0: nil, 1: nil, 21: nil, 22: ErrSRSExpired, 500: ErrSRSExpired} {
		later := newSRS(t, srsKey1)
		at := old.now().AddDate(0, 0, days)
		later.now = func() time.Time { return at }
		if _, err := later.Reverse(made); !errors.Is(err, want) {
			t.Errorf("%d days later: %v, want %v", days, err, want)
		}
	}
	for _, keys := range [][][]byte{nil, {[]byte("short")}, {srsKey1, nil}} {
		if _, err := NewSRS(keys, srsDomain); err == nil {
			t.Errorf("keys %q were taken", keys)
		}
	}
	for _, domain := range []string{"", "UPPER.example", "a b"} {
		if _, err := NewSRS([][]byte{srsKey1}, domain); err == nil {
			t.Errorf("domain %q was taken", domain)
		}
	}
}

// TestSRSStored: an address that is too long becomes a name, always the same,
// which only the key finds.
func TestSRSStored(t *testing.T) {
	s := newSRS(t, srsKey1)
	long := srsAddress(t, strings.Repeat("x", 64)+"@verona.example")
	f, err := s.Forward(long)
	name, ok := s.Stored(long)
	if err != nil || !ok || !strings.HasPrefix(f.Local, "SRST=") || len(f.Local) > 64 || len(name) != srsName {
		t.Fatalf("%s, %q, %v, %v", f, name, ok, err)
	}
	for _, c := range []struct {
		local string
		want  error
	}{
		{f.Local, ErrSRSStored},
		{strings.ToLower(f.Local), ErrSRSStored},
		{f.Local[:len(f.Local)-1] + "0", ErrSRSForged},
		{"SRST=" + name, ErrSRSForged},
		{"SRST==", ErrSRSForged},
		{"SRST=AAAAAAAA=" + name, ErrSRSForged},
	} {
		got, err := s.Reverse(mail.Address{Local: c.local, Domain: srsDomain})
		if !errors.Is(err, c.want) || c.want == ErrSRSStored && got.Local != name {
			t.Errorf("%s: %s, %v", c.local, got, err)
		}
	}
	if _, ok := s.Stored(srsAddress(t, "romeo@verona.example")); ok {
		t.Error("a short one is stored")
	}
	if other, _ := s.Stored(srsAddress(t, "X"+strings.Repeat("x", 63)+"@verona.example")); other == name {
		t.Error("another address, the same name")
	}
	if other, _ := newSRS(t, srsKey2).Stored(long); other == name {
		t.Error("another key, the same name")
	}
	if f, err := newSRS(t, srsKey2, srsKey1).Reverse(f); !errors.Is(err, ErrSRSStored) || f.Local != name {
		t.Errorf("with an older key: %s, %v", f, err)
	}
	if f, err := s.Forward(srsAddress(t, "SRST=x=y@fwd.example")); err != nil || !strings.HasPrefix(f.Local, "SRS0=") {
		t.Errorf("another's name: %s, %v", f, err)
	}
}

// TestSRSProperties: whatever address is rewritten comes back as it was, and
// what was rewritten by others comes back to them.
func TestSRSProperties(t *testing.T) {
	s := newSRS(t, srsKey1, srsKey2)
	rapid.Check(t, func(t *rapid.T) {
		local := rapid.StringMatching(`[ -~]{1,24}`).Draw(t, "local")
		domain := rapid.StringMatching(`[a-z]{1,8}\.[a-z]{2,6}`).Draw(t, "domain")
		a, err := mail.ParseAddress(mail.Address{Local: local, Domain: domain}.String())
		if err != nil {
			return // not every string is an address
		}
		f, err := s.Forward(a)
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		if parsed, err := mail.ParseAddress(f.String()); err != nil || parsed != f {
			t.Fatalf("%s became %s, which is none: %v", a, f, err)
		}
		b, err := s.Reverse(f)
		if err != nil {
			t.Fatalf("%s came back as %v", a, err)
		}
		if kind, _ := cutSRS(a.Local); kind < 0 && b != a {
			t.Fatalf("%s came back as %s", a, b)
		}
		again, err := s.Forward(f) // already ours
		if err != nil || again != f {
			t.Fatalf("%s was rewritten again: %s, %v", f, again, err)
		}
	})
}

func FuzzSRSReverse(f *testing.F) {
	s := newSRS(f, srsKey1)
	for _, from := range []string{"romeo@verona.example", "SRS0=H=T=v.example=r@fwd.example", `"a b"@verona.example`} {
		a, err := s.Forward(srsAddress(f, from))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a.Local)
	}
	for _, local := range []string{"", "SRS0", "SRS0=", "SRS1====", "srs1-x=y=+z", "SRST=", "SRST=x", "SRST==", "SRS0=\xff=\x00=a=b", "juliet"} {
		f.Add(local)
	}
	f.Fuzz(func(t *testing.T, local string) {
		for _, domain := range []string{srsDomain, "verona.example"} {
			a := mail.Address{Local: local, Domain: domain}
			if b, err := s.Reverse(a); err == nil {
				if parsed, err := mail.ParseAddress(b.String()); err != nil || parsed != b {
					t.Errorf("%q back is %q, which is no address: %v", a, b, err)
				}
			}
			if b, err := s.Forward(a); err == nil && local != "" && domain != srsDomain {
				if parsed, err := mail.ParseAddress(b.String()); err != nil || parsed != b {
					t.Errorf("%q forward is %q, which is no address: %v", a, b, err)
				}
			}
		}
	})
}

package header

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRead(t *testing.T) {
	in := "Received: from x\r\n\tby y\r\nFrom : a@b.example\r\nno field\r\nSubject:\r\n \r\nX-\x80: bad\r\n\r\nbody"
	r := bufio.NewReaderSize(strings.NewReader(in), 16)
	h, err := Read(r)
	if err != nil {
		t.Fatal(err)
	}
	var names, raw []string
	for _, f := range h {
		names = append(names, f.Name)
		raw = append(raw, f.Raw)
	}
	if got := fmt.Sprintf("%q", names); got != `["received" "from" "" "subject" ""]` {
		t.Errorf("names %s", got)
	}
	if got := strings.Join(raw, "") + "\r\n"; !strings.HasPrefix(in, got) || len(got) != len(in)-len("body") {
		t.Errorf("the header is not whole: %q", got)
	}
	if got := h[0].Unfolded(); got != "from x\tby y" {
		t.Errorf("unfolded %q", got)
	}
	if len(h.All("from")) != 1 || h.All("from")[0].Unfolded() != "a@b.example" {
		t.Errorf("From is %+v", h.All("from"))
	}
	if rest, _ := io.ReadAll(r); string(rest) != "body" {
		t.Errorf("the body is %q", rest)
	}
}

func TestReadEnds(t *testing.T) {
	for in, want := range map[string]int{"": 0, "\r\n": 0, "A: b": 1, "A: b\r\n": 1, "A: b\r\n\r\n": 1, "A: b\n\nC: d": 1, " A: b\r\n\r\n": 1} {
		h, err := Read(bufio.NewReader(strings.NewReader(in)))
		if err != nil || len(h) != want {
			t.Errorf("%q: %d fields, %v", in, len(h), err)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name string
		in   string
		ok   bool
	}{
		{"1,000 fields", strings.Repeat("A: b\r\n", MaxFields) + "\r\n", true},
		{"1,001 fields", strings.Repeat("A: b\r\n", MaxFields+1) + "\r\n", false},
		{"a long field", "A: " + strings.Repeat("x", MaxField-5) + "\r\n\r\n", true},
		{"a field too long", "A: " + strings.Repeat("x", MaxField-4) + "\r\n\r\n", false},
		{"a folded field too long", "A: b\r\n" + strings.Repeat(" x\r\n", MaxField/4) + "\r\n", false},
		{"too much in all", strings.Repeat("A: "+strings.Repeat("x", MaxField/2)+"\r\n", 2*MaxHeader/MaxField+1) + "\r\n", false},
	} {
		_, err := Read(bufio.NewReader(strings.NewReader(c.in)))
		if c.ok != (err == nil) || err != nil && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// An endless field is not read on.
	endless := io.MultiReader(strings.NewReader("A: b"), iotest.DataErrReader(&spaces{}))
	if _, err := Read(bufio.NewReader(endless)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("endless: %v", err)
	}
	broken := errors.New("broken")
	if _, err := Read(bufio.NewReader(iotest.ErrReader(broken))); !errors.Is(err, broken) {
		t.Errorf("broken: %v", err)
	}
}

type spaces struct{}

func (*spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// FuzzRead: what is read is the header, octet by octet.
func FuzzRead(f *testing.F) {
	f.Add("A: b\r\n c\r\n\r\nbody")
	f.Add("\r\n")
	f.Add(" x\ny:z")
	f.Fuzz(func(t *testing.T, in string) {
		h, err := Read(bufio.NewReaderSize(strings.NewReader(in), 16))
		if err != nil {
			return
		}
		var all string
		for _, field := range h {
			all += field.Raw
		}
		if !strings.HasPrefix(in, all) {
			t.Fatalf("%q reads %q", in, all)
		}
	})
}

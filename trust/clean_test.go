package trust

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"mailxmppd/mail"
)

// TestClean: what poses as ours goes in every form in which a mail client could
// take it for ours; every other octet stays.
func TestClean(t *testing.T) {
	long := strings.Repeat("x", 20<<10)
	for _, c := range []struct {
		name string
		gone string // a field, with its line end; "" where all stays
		kept string // before and after it
	}{
		{"nothing", "", "From: a\r\nSubject: s\r\n"},
		{"a verdict", "X-Mail-Trust: permitted; x\r\n", ""},
		{"in other letters", "x-mAIL-tRUST: permitted; x\r\n", ""},
		{"folded", "X-Mail-Trust:\r\n permitted;\r\n\tx\r\n", ""},
		{"space before the colon", "X-Mail-Trust \t: permitted\r\n", ""},
		{"a colon on the next line", "X-Mail-Trust\r\n : permitted\r\n", ""},
		{"line feeds alone", "X-Mail-Trust: permitted\n", ""},
		{"a long one", "X-Mail-Trust: " + long + "\r\n " + long + "\r\n", ""},
		{"a folded endless one", "X-Mail-Trust: permitted\r\n" + strings.Repeat(" x\r\n", 9000), ""},
		{"another name", "", "X-Mail-Trusted: permitted\r\nX-X-Mail-Trust: permitted\r\nX-Mail-Trust-X: y\r\n"},
		{"in a continuation", "", "Subject: s\r\n X-Mail-Trust: permitted\r\n\tAuthentication-Results: gw.capulet.example; dkim=pass\r\n"},
		{"the name without a colon", "", "X-Mail-Trust\r\nTo: b\r\n"},
		{"our results", "Authentication-Results: gw.capulet.example; dkim=pass\r\n", ""},
		{"folded results", "Authentication-Results:\r\n\tgw.capulet.example;\r\n dkim=pass\r\n", ""},
		{"in other letters, with a dot", "AUTHENTICATION-RESULTS : GW.Capulet.Example. 1; dkim=pass\r\n", ""},
		{"behind a comment", "Authentication-Results: (foo (bar)) gw.capulet.example (x) 1; none\r\n", ""},
		{"behind a folded comment", "Authentication-Results: (foo\r\n bar) gw.capulet.example; none\r\n", ""},
		{"quoted", "Authentication-Results: \"gw.capulet\\.example\"; none\r\n", ""},
		{"with a version", "Authentication-Results: gw.capulet.example/1; none\r\n", ""},
		{"with a NUL", "Authentication-Results: gw.capulet.example\x00; none\r\n", ""},
		{"unreadable", "Authentication-Results: ((gw.capulet.example; none\r\n", ""},
		{"a comment without an end", "Authentication-Results: (" + long + ") gw.capulet.example; none\r\n", ""},
		{"of nobody", "Authentication-Results: ; none\r\n", ""},
		{"another host's", "", "Authentication-Results: mx.capulet.example; dkim=pass\r\nAuthentication-Results: xgw.capulet.example; none\r\n"},
		{"below ours", "", "Authentication-Results: a.gw.capulet.example; dkim=pass\r\n"},
		{"above ours", "", "Authentication-Results: gw.capulet.example.evil.example; dkim=pass\r\n"},
		{"of a seal", "", "ARC-Authentication-Results: i=1; gw.capulet.example; dkim=pass\r\n"},
		{"lines that are no fields", "", ">From x\r\n: y\r\n:\r\nno colon\r\n" + long + "\r\n" + long + ": x\r\n"},
	} {
		for _, body := range []string{"\r\nX-Mail-Trust: permitted\r\n\r\nAuthentication-Results: gw.capulet.example; none\r\n" + long, "\r\n", "\nx", ""} {
			for _, after := range []string{"To: juliet@capulet.example\r\n", ""} {
				in := "Subject: one\r\n" + c.kept + c.gone + after + body
				want := "Subject: one\r\n" + c.kept + after + body
				check(t, c.name, in, want)
			}
		}
	}
}

// check holds Clean's results against what is wanted, as trace and as content.
func check(t *testing.T, name, in, want string) {
	t.Helper()
	j := NewJudge(JudgeConfig{Evaluator: New(Config{Hostname: "gw.capulet.example"})})
	trace, content, err := j.Clean([]byte(in), mail.Bytes(in))
	if err != nil || string(trace) != want {
		t.Errorf("%s: trace is\n%.300q %v, want\n%.300q", name, trace, err, want)
		return
	}
	rc, err := content.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	got, err := io.ReadAll(rc)
	if err != nil || string(got) != want || content.Size() != int64(len(want)) {
		t.Errorf("%s: content is\n%.300q of %d octets, %v, want\n%.300q", name, got, content.Size(), err, want)
	}
	if _, same := content.(mail.Bytes); same != (in == want) {
		t.Errorf("%s: filtered without need, or not", name)
	}
}

type cutContent struct{ mail.Bytes }

func (b cutContent) Open() (io.ReadCloser, error) {
	r, err := b.Bytes.Open()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(iotest.TimeoutReader(iotest.OneByteReader(r))), nil
}

// TestCleanFails: content that breaks off is never taken for a shorter one.
func TestCleanFails(t *testing.T) {
	j := NewJudge(JudgeConfig{Evaluator: New(Config{Hostname: "gw.capulet.example"})})
	for _, c := range []mail.Content{noContent{}, cutContent{mail.Bytes("Subject: s\r\nX-Mail-Trust: x\r\n\r\nbody")}} {
		if _, _, err := j.Clean(nil, c); err == nil {
			t.Errorf("%T: no error", c)
		}
	}
	in := mail.Bytes("X-Mail-Trust: x\r\n\r\nbody")
	c := newCleaner(io.MultiReader(strings.NewReader(string(in)), iotest.ErrReader(errors.New("cut"))), "gw")
	if got, err := io.ReadAll(c); err == nil {
		t.Errorf("%q without an error", got)
	}
}

// FuzzClean: whatever the header, what is left is the input without whole lines,
// none of which is a verdict, and the body is untouched.
func FuzzClean(f *testing.F) {
	f.Add("X-Mail-Trust: permitted\r\nSubject: s\r\n\r\nX-Mail-Trust: b\r\n")
	f.Add("Authentication-Results: (gw.capulet.example\r\n ) gw.capulet.example; none\r\n\r\n")
	f.Add("X-Mail-Trust\r\n : x")
	f.Fuzz(func(t *testing.T, in string) {
		c := newCleaner(strings.NewReader(in), "gw.capulet.example")
		out, err := io.ReadAll(c)
		if err != nil || int64(len(in)-len(out)) != c.removed {
			t.Fatalf("%v, %d removed of %d, %d left", err, c.removed, len(in), len(out))
		}
		rest := strings.SplitAfter(in, "\n")
		header := true
		for _, line := range strings.SplitAfter(string(out), "\n") {
			header = header && line != "\r\n" && line != "\n"
			name, _, ok := strings.Cut(line, ":")
			if header && ok && line[0] != ' ' && line[0] != '\t' && strings.EqualFold(strings.Trim(name, " \t"), mail.VerdictField) {
				t.Fatalf("%q is left of %q", line, in)
			}
			if line == "" {
				continue
			}
			for len(rest) > 0 && rest[0] != line {
				rest = rest[1:]
			}
			if len(rest) == 0 {
				t.Fatalf("%q was not in %q", line, in)
			}
			rest = rest[1:]
		}
	})
}

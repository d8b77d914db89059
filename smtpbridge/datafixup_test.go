package smtpbridge

import (
	"bytes"
	"crypto/sha256"
	"regexp"
	"strings"
	"testing"

	"mailxmppd/mail"
)

var (
	dateField = `Date: [A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\r\n`
	idField   = `Message-ID: <[0-9A-Z]{26}@ours\.example>\r\n`
)

func TestHeaderFixer(t *testing.T) {
	tests := []struct{ name, content, prefix string }{
		{"both missing", "Subject: x\r\n\r\nbody\r\n", dateField + idField},
		{"date there", "Subject: x\r\nDATE: y\r\n\r\nbody", idField},
		{"id there", "message-id : <a@b>\r\n\r\n", dateField},
		{"both there", "Date: x\r\nMessage-ID: <a@b>\r\n\r\nbody", ""},
		{"in a continuation they are not there", "Subject: x\r\n Date: y\r\n\tMessage-ID: z\r\n\r\n", dateField + idField},
		{"in the body they are not there", "Subject: x\r\n\r\nDate: y\r\nMessage-ID: z\r\n", dateField + idField},
		{"only like them", "Dated: x\r\nX-Message-ID: y\r\nDate\r\n", dateField + idField},
		{"empty", "", dateField + idField + "\r\n"},
		{"no header", "\r\nbody", dateField + idField},
		{"no header and no empty line", "body\r\n", dateField + idField + "\r\n"},
		{"header without end", "Subject: x", dateField + idField},
		{"fields without end", "Message-ID: x\r\nDate: y", ""},
		{"header only", "Subject: x\r\n", dateField + idField},
		{"a header beyond the limit", "Subject: " + strings.Repeat("x", 5000) + "\r\nDate: y\r\n\r\n", "(" + dateField + ")?" + idField},
	}
	for _, test := range tests {
		for how, write := range map[string]int{"whole": 1 << 20, "octets": 1} {
			var out bytes.Buffer
			f := &headerFixer{w: &out, host: "ours.example", limit: 1000}
			for rest := []byte(test.content); len(rest) > 0; {
				n := min(write, len(rest))
				if _, err := f.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			prefix, ok := strings.CutSuffix(out.String(), test.content)
			if !ok || !regexp.MustCompile("^"+test.prefix+"$").MatchString(prefix) {
				t.Errorf("%s, %s: %q", test.name, how, out.String())
			}
		}
	}
}

func TestLineRepairer(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "a\n": "a\r\n", "a\r\n": "a\r\n", "\n\n": "\r\n\r\n", "a\nb\r\nc\n": "a\r\nb\r\nc\r\n", "\r\n\n": "\r\n\r\n",
	} {
		var out bytes.Buffer
		w := &lineRepairer{w: &out}
		for _, c := range []byte(in) {
			if _, err := w.Write([]byte{c}); err != nil {
				t.Fatal(err)
			}
		}
		var whole bytes.Buffer
		if _, err := (&lineRepairer{w: &whole}).Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		if out.String() != want || whole.String() != want {
			t.Errorf("%q: %q, %q, want %q", in, out.String(), whole.String(), want)
		}
	}
}

// TestSubmissionFixups: what is added is part of the content, hence of its
// facts; the rest is as it was sent.
func TestSubmissionFixups(t *testing.T) {
	const fixed = "^" + `Date: [^\r\n]*\r\nMessage-ID: <[^\r\n]*@mx\.ours\.example>\r\n`
	login := []string{"< 220", "> EHLO h", "<* 250", "> AUTH " + plain("juliet@ours.example", "wherefore"), "< 235"}
	transaction := []string{"> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250"}
	tests := []struct {
		name   string
		repair bool
		script []string
		want   string // regular expression; "" for nothing arrives
	}{
		{"missing fields", false, []string{"> DATA", "< 354", `>"Subject: x\r\n\r\n..y\r\n.\r\n"`, "< 250"}, fixed + `Subject: x\r\n\r\n\.y\r\n$`},
		{"missing fields by BDAT", false, []string{`>"BDAT 9\r\nSubject: "`, "< 250", `>"BDAT 6 LAST\r\nx\r\n\r\ny"`, "< 250"}, fixed + `Subject: x\r\n\r\ny$`},
		{"nothing missing", false, []string{"> DATA", "< 354", `>"Date: x\r\nMessage-Id: y\r\n\r\n.\r\n"`, "< 250"}, `^Date: x\r\nMessage-Id: y\r\n\r\n$`},
		{"bare LF without repair", false, []string{"> DATA", "< 354", `>"Subject: x\ny\r\n.\r\n"`, "< 550 5.6.0 bare"}, ""},
		{"bare LF repaired", true, []string{"> DATA", "< 354", `>"Subject: x\n\nDate: y\nz\r\n.\r\n"`, "< 250"}, fixed + `Subject: x\r\n\r\nDate: y\r\nz\r\n$`},
		{"bare LF repaired in BDAT", true, []string{`>"BDAT 15 LAST\r\nSubject: x\n\n.\nz"`, "< 250"}, fixed + `Subject: x\r\n\r\n\.\r\nz$`},
		{"bare CR is not repaired", true, []string{"> DATA", "< 354", `>"Subject: x\ry\r\n.\r\n"`, "< 550 5.6.0 bare"}, ""},
		{"a dot after a repaired line end", true, []string{"> DATA", "< 354", `>"Subject: x\n\n.y\r\n.\r\n"`, "< 550 5.6.0 dot after"}, ""},
		{"an end after a repaired line end is none", true, []string{"> DATA", "< 354", `>"x\n.\r\nMAIL FROM:<e@v.example>\r\n.\r\n"`, "< 550 5.6.0 dot after", "> NOOP", "< 250 2.0.0 ok"}, ""},
		{"an LF end after a repaired line end is none", true, []string{"> DATA", "< 354", `>"x\n.\nMAIL FROM:<e@v.example>\r\n.\r\n"`, "< 550 5.6.0 dot after", "> NOOP", "< 250 2.0.0 ok"}, ""},
		{"repair beyond the size", true, []string{"> DATA", "< 354", `>"` + strings.Repeat(`\n`, 600) + `\r\n.\r\n"`, "< 552 5.3.4"}, ""},
		{"repair beyond the size by BDAT", true, []string{`>"BDAT 600 LAST\r\n` + strings.Repeat(`\n`, 600) + `"`, "< 552 5.3.4"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			d := startSubmission(t, rec, func(c *ServerConfig) { c.RepairLF, c.Limits.MaxSize = test.repair, 1000 })(0)
			d.play(login...)
			d.play(transaction...)
			d.play(test.script...)
			got := rec.got()
			if test.want == "" {
				if len(got) != 0 {
					t.Errorf("arrived: %q", got[0].content)
				}
				return
			}
			if len(got) != 1 || !regexp.MustCompile(test.want).MatchString(got[0].content) {
				t.Fatalf("arrived: %+v", got)
			}
			facts := got[0].message.Facts
			if !facts.HasID || facts.Size != int64(len(got[0].content)) || facts.SHA256 != sha256.Sum256([]byte(got[0].content)) {
				t.Errorf("facts %+v", facts)
			}
		})
	}
}

// TestRelayChangesNothing: what a submission server fixes up stays as it is.
func TestRelayChangesNothing(t *testing.T) {
	for _, kind := range []Kind{KindRelay, KindLMTP} {
		rec := &recorder{}
		_, addr := startServer(t, rec, func(c *ServerConfig) { c.Kind = kind })
		d := dial(t, addr)
		hello := "> EHLO h"
		if kind == KindLMTP {
			hello = "> LHLO h"
		}
		d.play("< 220", hello, "<* 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> x", "> .", "< 250")
		if got := rec.got(); len(got) != 1 || got[0].content != "x\r\n" {
			t.Errorf("%s: %+v", kind, got)
		}
	}
}

// FuzzFixups holds that the content sent is the end of what comes out, and that
// the header then has what was missing, however it is cut.
func FuzzFixups(f *testing.F) {
	for _, seed := range []string{"Subject: x\r\n\r\n", "", "\r\n", "x", "Date: y\r\n x\r\nMessage-ID: z\r\n\r\nb"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		buffer := mail.NewBuffer("") // inputs are small: no file
		defer buffer.Close()
		fixer := &headerFixer{w: buffer, host: "ours.example", limit: 1 << 20}
		if _, err := fixer.Write(content); err != nil {
			t.Fatal(err)
		}
		if err := fixer.Close(); err != nil {
			t.Fatal(err)
		}
		var whole bytes.Buffer
		again := &headerFixer{w: &whole, host: "ours.example", limit: 1 << 20}
		for _, c := range content {
			if _, err := again.Write([]byte{c}); err != nil {
				t.Fatal(err)
			}
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		memory, _ := buffer.Memory()
		if !bytes.HasSuffix(memory, content) || !bytes.HasSuffix(whole.Bytes(), content) || len(memory) != whole.Len() {
			t.Fatalf("%q became %q, octet by octet %q", content, memory, whole.Bytes())
		}
		if !buffer.Facts().HasID {
			t.Fatalf("%q became %q, without a Message-ID", content, memory)
		}
	})
}

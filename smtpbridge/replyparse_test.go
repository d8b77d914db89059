package smtpbridge

import (
	"bufio"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"mailxmppd/mail"
)

func TestReadHopReply(t *testing.T) {
	for _, c := range []struct {
		in   string
		want hopReply
		err  error
	}{
		{"250 ok\r\n", hopReply{250, "", []string{"ok"}}, nil},
		{"250\r\n", hopReply{250, "", []string{""}}, nil},
		{"250 \r\n", hopReply{250, "", []string{""}}, nil},
		{"250 ok\n", hopReply{250, "", []string{"ok"}}, nil},
		{"250 2.1.5 ok\r\n", hopReply{250, "2.1.5", []string{"ok"}}, nil},
		{"250 2.1.5\r\n", hopReply{250, "2.1.5", []string{""}}, nil},
		{"550-5.1.1 no such\r\n550-5.1.1 user\r\n550 5.1.1 here\r\n", hopReply{550, "5.1.1", []string{"no such", "user", "here"}}, nil},
		{"550 4.1.1 class differs\r\n", hopReply{550, "", []string{"4.1.1 class differs"}}, nil},
		{"550 5.1 short\r\n", hopReply{550, "", []string{"5.1 short"}}, nil},
		{"550 5.1.1234 long\r\n", hopReply{550, "", []string{"5.1.1234 long"}}, nil},
		{"550 5.1.x odd\r\n", hopReply{550, "", []string{"5.1.x odd"}}, nil},
		{"250-mx.example\r\n250-SIZE 10\r\n250 DSN\r\n", hopReply{250, "", []string{"mx.example", "SIZE 10", "DSN"}}, nil},
		{"", hopReply{}, io.EOF},
		{"250 ok", hopReply{}, io.ErrUnexpectedEOF},
		{"250-ok\r\n", hopReply{}, io.ErrUnexpectedEOF},
		{"250-ok\r\n550 no\r\n", hopReply{}, errMalformedReply},
		{"25\r\n", hopReply{}, errMalformedReply},
		{"\r\n", hopReply{}, errMalformedReply},
		{"hello there\r\n", hopReply{}, errMalformedReply},
		{"250ok\r\n", hopReply{}, errMalformedReply},
		{"150 wait\r\n", hopReply{}, errMalformedReply},
		{"600 what\r\n", hopReply{}, errMalformedReply},
		{"-50 what\r\n", hopReply{}, errMalformedReply},
		{"250 " + strings.Repeat("x", replyBuffer) + "\r\n", hopReply{}, errMalformedReply},
		{strings.Repeat("250-more\r\n", maxReplyLines) + "250 end\r\n", hopReply{}, errMalformedReply},
	} {
		for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
			got, err := readHopReply(bufio.NewReaderSize(r, replyBuffer))
			if !errors.Is(err, c.err) || !reflect.DeepEqual(got, c.want) {
				t.Errorf("%.60q: %+v, %v; want %+v, %v", c.in, got, err, c.want, c.err)
			}
		}
	}
}

// TestReplyFailure: 5xx is permanent, all else temporary; the session's own end
// is not passed on as a code.
func TestReplyFailure(t *testing.T) {
	for _, c := range []struct {
		in     string
		class  mail.Class
		code   int
		status string
		text   string
	}{
		{"550 5.1.1 no such user\r\n", mail.Permanent, 550, "5.1.1", "no such user"},
		{"550-5.7.1 go\r\n550 5.7.1 away\x07\x1b[31m\r\n", mail.Permanent, 550, "5.7.1", "go away [31m"},
		{"554 no\r\n", mail.Permanent, 554, "5.0.0", "no"},
		{"450 4.2.0 greylisted\r\n", mail.Temporary, 450, "4.2.0", "greylisted"},
		{"421 4.3.2 shutting down\r\n", mail.Temporary, 451, "4.3.2", "shutting down"},
		{"421 bye\r\n", mail.Temporary, 451, "4.3.2", "bye"},
		{"354 what\r\n", mail.Temporary, 451, "4.0.0", "what"},
	} {
		r, err := readHopReply(bufio.NewReaderSize(strings.NewReader(c.in), replyBuffer))
		if err != nil {
			t.Fatal(err)
		}
		f := r.failure("mx.example")
		if f.Class != c.class || f.Code != c.code || f.Status() != c.status || f.Text != c.text || f.Remote != "mx.example" {
			t.Errorf("%q: %+v", c.in, f)
		}
	}
}

func TestQueueID(t *testing.T) {
	for text, want := range map[string]string{
		"Ok: queued as 4BxYz12":                   "4BxYz12",
		"OK id=1hABCD-000123-AB":                  "1hABCD-000123-AB",
		"w2c3 Message accepted for delivery":      "w2c3",
		"queued as 01J9Z3K4M5N6P7Q8R9S0T1V2W3.":   "01J9Z3K4M5N6P7Q8R9S0T1V2W3",
		"ok":                                      "",
		"queued as <script>":                      "",
		"queued as " + strings.Repeat("a", 65):    "",
		"OK queued as 4Bx; from=<a@b> id=notthis": "4Bx",
	} {
		if got := (hopReply{code: 250, lines: []string{text}}).queueID(); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func FuzzReadHopReply(f *testing.F) {
	for _, s := range []string{"250 ok\r\n", "250-a\r\n250 b\r\n", "550 5.1.1 no\r\n", "421\n", "25", "250-a\r\n251 b\r\n", "354 \x00\xff\r\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := readHopReply(bufio.NewReaderSize(strings.NewReader(in), replyBuffer))
		if err != nil {
			return
		}
		if r.code < 200 || r.code > 599 || len(r.lines) == 0 || len(r.lines) > maxReplyLines {
			t.Fatalf("%+v", r)
		}
		if text := r.text(); strings.ContainsAny(text, "\r\n\x00") || r.status != "" && int(r.status[0]-'0') != r.code/100 {
			t.Fatalf("status %q, text %q", r.status, text)
		}
		fail := r.failure("mx.example")
		if fail.Code < 400 || (fail.Class == mail.Permanent) != (r.code >= 500) {
			t.Fatalf("%+v", fail)
		}
		r.queueID()
		parseCapabilities(r.lines)
	})
}

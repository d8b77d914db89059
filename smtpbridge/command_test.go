package smtpbridge

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"mailxmppd/mail"
)

func TestParseCommand(t *testing.T) {
	tests := []struct {
		line string
		want command
		ok   bool
	}{
		{"NOOP", command{"NOOP", ""}, true},
		{"noop", command{"NOOP", ""}, true},
		{"Mail  FROM:<a@b> ", command{"MAIL", "FROM:<a@b>"}, true},
		{"MAIL FROM:<jürgen@b>", command{"MAIL", "FROM:<jürgen@b>"}, true},
		{"", command{}, false},
		{" NOOP", command{}, false},
		{"NOOP\tx", command{}, false},
		{"NOOP \x00", command{}, false},
		{"NOOP \x7f", command{}, false},
		{"NOOP \xff", command{}, false},
	}
	for _, test := range tests {
		if got, ok := parseCommand([]byte(test.line)); got != test.want || ok != test.ok {
			t.Errorf("%q: %+v %v, want %+v %v", test.line, got, ok, test.want, test.ok)
		}
	}
}

func TestCutPath(t *testing.T) {
	tests := []struct {
		in   string
		want mail.Address
		rest string
		code int
	}{
		{"<>", mail.Address{}, "", 0},
		{"<> SIZE=1", mail.Address{}, " SIZE=1", 0},
		{"<a@B.example> SIZE=1", mail.Address{Local: "a", Domain: "b.example"}, " SIZE=1", 0},
		{`<"a>b c"@d.example>x`, mail.Address{Local: "a>b c", Domain: "d.example"}, "x", 0},
		{`<"victim@x> ORCPT=rfc822;y"@d.example>`, mail.Address{Local: "victim@x> ORCPT=rfc822;y", Domain: "d.example"}, "", 0},
		{`<"a\"b"@d.example>`, mail.Address{Local: `a"b`, Domain: "d.example"}, "", 0},
		{"<postmaster>", mail.Address{Local: "postmaster"}, "", 0},
		{"<a>", mail.Address{}, "", 553},
		{"<a@b.example", mail.Address{}, "", 553},
		{"<a@b.example >", mail.Address{}, "", 553},
		{"<a@b.example>>", mail.Address{Local: "a", Domain: "b.example"}, ">", 0},
		{"<@a.example:b@c.example>", mail.Address{}, "", 553},
		{"<@a.example,@b.example:b@c.example>", mail.Address{}, "", 553},
		{`<"a@b.example>`, mail.Address{}, "", 553},
		{"a@b.example", mail.Address{}, "", 501},
		{"", mail.Address{}, "", 501},
	}
	for _, test := range tests {
		a, rest, refusal := cutPath(test.in)
		if code := codeOf(refusal); a != test.want || rest != test.rest || code != test.code {
			t.Errorf("%q: %+v, %q, %d, want %+v, %q, %d", test.in, a, rest, code, test.want, test.rest, test.code)
		}
	}
}

func codeOf(r *serverReply) int {
	if r == nil {
		return 0
	}
	return r.code
}

func TestParseParams(t *testing.T) {
	tests := []struct {
		in   string
		want []param
		code int
	}{
		{"", nil, 0},
		{"   ", nil, 0},
		{" SIZE=1  smtputf8", []param{{"SIZE", "1", true}, {"SMTPUTF8", "", false}}, 0},
		{" X-Y=a;b", []param{{"X-Y", "a;b", true}}, 0},
		{" -X", nil, 501},
		{" X_Y", nil, 501},
		{" X=", nil, 501},
		{" X=a=b", nil, 501},
		{" X=1 x=2", nil, 501},
	}
	for _, test := range tests {
		got, refusal := parseParams(test.in)
		if code := codeOf(refusal); !reflect.DeepEqual(got, test.want) || code != test.code {
			t.Errorf("%q: %+v, %d, want %+v, %d", test.in, got, code, test.want, test.code)
		}
	}
}

func TestDecodeXtext(t *testing.T) {
	for in, want := range map[string]string{"": "", "abc": "abc", "a+2Bb": "a+b", "+3D": "=", "+20": " ", "jürgen": "jürgen"} {
		if got, ok := decodeXtext(in); got != want || !ok {
			t.Errorf("%q: %q, %v", in, got, ok)
		}
	}
	for _, in := range []string{"+", "a+", "a+2", "+2b", "+G0", "+0A", "+0D", "+00", "+7F", "+C3+BC", "++"} {
		if got, ok := decodeXtext(in); ok {
			t.Errorf("%q: taken for %q", in, got)
		}
	}
}

func TestOriginalRecipient(t *testing.T) {
	tests := []struct {
		value string
		utf8  bool
		want  string // "" for refused
	}{
		{"rfc822;a@b.example", false, "rfc822;a@b.example"},
		{"rfc822;a+3Db@b.example", false, "rfc822;a=b@b.example"},
		{"RFC822;a", false, "RFC822;a"},
		{"utf-8;j\\x{FC}rgen@b.example", false, "utf-8;j\\x{FC}rgen@b.example"},
		{"utf-8;jürgen@b.example", true, "utf-8;jürgen@b.example"},
		{"utf-8;jürgen@b.example", false, ""},
		{"rfc822;jürgen@b.example", true, ""},
		{"utf-8;a\u0085b@b.example", true, ""},
		{"utf-8;a\u2028b@b.example", true, ""},
		{"rfc822;", false, ""},
		{";a", false, ""},
		{"rfc 822;a", false, ""},
		{"rfc822;" + strings.Repeat("x", 494), false, ""},
	}
	for _, test := range tests {
		got, refusal := originalParam(param{"ORCPT", test.value, true}, test.utf8)
		if got != test.want || (refusal == nil) != (test.want != "") {
			t.Errorf("%q: %q, %v", test.value, got, refusal)
		}
	}
}

func TestInputLines(t *testing.T) {
	tests := []struct {
		wire string
		want []string
		err  error
	}{
		{"a\r\nb\r\n", []string{"a", "b"}, io.EOF},
		{"\r\n", []string{""}, io.EOF},
		{"a\r\nb", []string{"a"}, io.EOF},
		{"a\r\nb\nc\r\n", []string{"a"}, errBareLineEnd},
		{"\n", nil, errBareLineEnd},
		{"a\rb\r\n", nil, errBareLineEnd},
		{"a\r\r\n", nil, errBareLineEnd},
		{strings.Repeat("x", 18) + "\r\n", []string{strings.Repeat("x", 18)}, io.EOF},
		{strings.Repeat("x", 19) + "\r\n", nil, errLineTooLong},
		{strings.Repeat("x", 99), nil, errLineTooLong},
	}
	for _, test := range tests {
		for how, src := range map[string]io.Reader{"whole": strings.NewReader(test.wire), "octets": iotest.OneByteReader(strings.NewReader(test.wire))} {
			in := newSessionInput(src, make([]byte, 20), nil)
			var got []string
			line, err := in.line(20)
			for ; err == nil; line, err = in.line(20) {
				got = append(got, string(line))
			}
			if !reflect.DeepEqual(got, test.want) || err != test.err {
				t.Errorf("%q, %s: %q, %v, want %q, %v", test.wire, how, got, err, test.want, test.err)
			}
		}
	}
}

// FuzzCommandLine holds what the session relies on, whatever is sent: no line
// with a control character becomes a command, and an address that is taken
// comes out of its own text unchanged.
func FuzzCommandLine(f *testing.F) {
	for _, seed := range []string{
		"NOOP\r\n", "MAIL FROM:<a@b.example> SIZE=1 BODY=8BITMIME RET=FULL ENVID=a+2Bb\r\n", "RCPT TO:<\"a>b\"@c.example> NOTIFY=NEVER ORCPT=rfc822;a\r\n",
		"MAIL FROM:<>\r\n", "RCPT TO:<postmaster>\r\n", "RCPT TO:<@a:b@c>\r\n", "MAIL FROM:<a@b.example> REQUIRETLS MT-PRIORITY=-9 BY=+120;RT AUTH=a+2Bb\r\n", "MAIL FROM:<jürgen@bücher.example> SMTPUTF8\r\n", "a\nb\r\n", "a\rb\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		in := newSessionInput(bytes.NewReader(wire), make([]byte, inputSmall), nil)
		line, err := in.line(2048)
		if err != nil {
			return
		}
		if bytes.ContainsAny(line, "\r\n") {
			t.Fatalf("line %q", line)
		}
		cmd, ok := parseCommand(line)
		if !ok {
			return
		}
		if !utf8.ValidString(cmd.arg) || strings.ContainsFunc(cmd.arg, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			t.Fatalf("command %+v", cmd)
		}
		if err := checkPathArg("FROM:", cmd.arg); err != nil {
			t.Fatal(err)
		}
		if err := checkPathArg("TO:", cmd.arg); err != nil {
			t.Fatal(err)
		}
	})
}

func checkPathArg(keyword, arg string) error {
	path, refusal := parsePathArg(keyword, arg)
	if refusal != nil {
		if line := refusal.appendTo(nil); len(line) > 512 || bytes.Count(line, []byte("\n")) != 1 || !isASCIIText(string(line)) {
			return fmt.Errorf("reply %q", line)
		}
		return nil
	}
	if again, rest, err := cutPath(path.address.Path()); err != nil || rest != "" || again != path.address {
		return fmt.Errorf("address %+v is written %s and read as %+v, %q, %v", path.address, path.address.Path(), again, rest, err)
	}
	env := mail.Envelope{Sender: path.address}
	all := offers{ServerExtensions{true, true, true, true, 0}, 1 << 20, true}
	if mailParams(&env, path.params, all) == nil {
		if strings.ContainsAny(env.EnvelopeID, "\r\n\x00") {
			return fmt.Errorf("envelope id %q", env.EnvelopeID)
		}
		if p := env.Priority; p != nil && (*p < -9 || *p > 9) {
			return fmt.Errorf("priority %d", *p)
		}
		if d := env.DeliverBy; d != nil && d.Mode != 'N' && (d.Mode != 'R' || !d.Deadline.After(time.Now().Add(-time.Minute))) {
			return fmt.Errorf("deliver by %+v", *d)
		}
	}
	r := mail.Recipient{Address: path.address}
	if rcptParams(&r, path.params, true) == nil && strings.ContainsAny(r.Original, "\r\n\x00") {
		return fmt.Errorf("original recipient %q", r.Original)
	}
	return nil
}

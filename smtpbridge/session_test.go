package smtpbridge

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

// TestDialogues plays scripts against a server that refuses the sender
// "refused@" and the recipients "unknown@", "later@" and "doubt@". Each script
// begins after the greeting.
func TestDialogues(t *testing.T) {
	hello := []string{"> EHLO client.example", "<* 250"}
	begin := append(hello, "> MAIL FROM:<a@b.example>", "< 250 2.1.0")
	long := strings.Repeat("x", 65)
	tests := []struct {
		name     string
		before   []string
		script   []string
		arrivals int
	}{
		{"a message", begin, []string{"> RCPT TO:<r@ours.example>", "< 250 2.1.5", "> DATA", "< 354", "> Subject: x", "> ", "> ..dot", "> .", "< 250 2.0.0 queued", "> QUIT", "< 221 2.0.0", "< EOF"}, 1},
		{"empty content", begin, []string{"> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250 2.0.0"}, 1},
		{"two messages", begin, []string{"> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250 2.0.0", "> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250 2.0.0"}, 2},
		{"a pipelined group", hello, []string{`>"MAIL FROM:<a@b.example>\r\nRCPT TO:<r@ours.example>\r\nRCPT TO:<unknown@ours.example>\r\nDATA\r\n"`, "< 250 2.1.0", "< 250 2.1.5", "< 550 5.1.1", "< 354", `>"x\r\n.\r\nMAIL FROM:<a@b.example>\r\nRSET\r\nQUIT\r\n"`, "< 250 2.0.0", "< 250 2.1.0", "< 250 2.0.0", "< 221", "< EOF"}, 1},
		{"lower case and trailing spaces", hello, []string{"> mail from:<a@b.example>  ", "< 250", "> rcpt to:<r@ours.example>", "< 250", "> data ", "< 354", "> .", "< 250"}, 1},
		{"space after the colon", hello, []string{"> MAIL FROM: <a@b.example>", "< 250"}, 0},
		{"null reverse-path", hello, []string{"> MAIL FROM:<>", "< 250 2.1.0"}, 0},
		{"postmaster", begin, []string{"> RCPT TO:<postmaster>", "< 250 2.1.5", "> RCPT TO:<Postmaster>", "< 250 2.1.5"}, 0},
		{"simple verbs", nil, []string{"> NOOP", "< 250 2.0.0", "> NOOP what", "< 250", "> RSET", "< 250", "> HELP", "< 214 2.0.0", "> VRFY someone", "< 252 2.0.0", "> HELO h", "< 250 mx.ours.example"}, 0},
		{"not implemented", nil, []string{"> EXPN list", "< 502 5.5.1", "> AUTH PLAIN AAAA", "< 502", "> TURN", "< 502", "> FROB", "< 500 5.5.1"}, 0},
		{"out of order", nil, []string{"> MAIL FROM:<a@b.example>", "< 503 5.5.1", "> RCPT TO:<r@ours.example>", "< 503 5.5.1", "> DATA", "< 503 5.5.1", "> STARTTLS", "< 502"}, 0},
		{"hostile: nested MAIL keeps its own sender and recipients", append(begin, "> RCPT TO:<victim@ours.example>", "< 250"), []string{"> MAIL FROM:<evil@d.example>", "< 503 5.5.1", "> RSET", "< 250", "> MAIL FROM:<c@d.example>", "< 250", "> DATA", "< 554 5.5.1"}, 0},
		{"hostile: every command out of order", hello, []string{"> RCPT TO:<r@ours.example>", "< 503", "> DATA", "< 503", "> MAIL FROM:<a@b.example>", "< 250", "> DATA", "< 554", "> RCPT TO:<r@ours.example>", "< 250", "> MAIL FROM:<>", "< 503", "> STARTTLS", "< 502", "> AUTH PLAIN AAAA", "< 502", "> HELO h", "< 250", "> DATA", "< 503"}, 0},
		{"hostile: half a command, then nothing", begin, []string{`>"RCPT TO:<r@ours.exam"`}, 0},
		{"nested MAIL", begin, []string{"> MAIL FROM:<c@d.example>", "< 503 5.5.1", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250"}, 1},
		{"DATA without recipients", begin, []string{"> RCPT TO:<unknown@ours.example>", "< 550 5.1.1", "> DATA", "< 554 5.5.1", "> RSET", "< 250"}, 0},
		{"DATA with an argument", begin, []string{"> RCPT TO:<r@ours.example>", "< 250", "> DATA now", "< 501"}, 0},
		{"EHLO resets", begin, []string{"> EHLO again", "<* 250", "> RCPT TO:<r@ours.example>", "< 503"}, 0},
		{"RSET resets", begin, []string{"> RSET", "< 250", "> RCPT TO:<r@ours.example>", "< 503"}, 0},
		{"bad hello", nil, []string{"> EHLO", "< 501", "> EHLO " + strings.Repeat("x", 256), "< 501", "> LHLO h", "< 500"}, 0},
		{"refused sender", hello, []string{"> MAIL FROM:<refused@b.example>", "< 550 5.7.1", "> RCPT TO:<r@ours.example>", "< 503"}, 0},
		{"classes of failure", begin, []string{"> RCPT TO:<later@ours.example>", "< 451 4.3.0 temporary local problem", "> RCPT TO:<doubt@ours.example>", "< 451 4.4.2", "> RCPT TO:<closing@ours.example>", "< 451 4.3.2 ??", "> RCPT TO:<odd@ours.example>", "< 554 5.1.1 two lines"}, 0},

		{"SIZE within the limit", hello, []string{"> MAIL FROM:<a@b.example> SIZE=1000000", "< 250"}, 0},
		{"SIZE beyond the limit", hello, []string{"> MAIL FROM:<a@b.example> SIZE=1000001", "< 552 5.3.4", "> MAIL FROM:<a@b.example> SIZE=99999999999999999999", "< 552 5.3.4"}, 0},
		{"SIZE not a number", hello, []string{"> MAIL FROM:<a@b.example> SIZE=-1", "< 501 5.5.4", "> MAIL FROM:<a@b.example> SIZE", "< 501", "> MAIL FROM:<a@b.example> SIZE=100000000000000000000", "< 501"}, 0},
		{"BODY", hello, []string{"> MAIL FROM:<a@b.example> body=8bitmime", "< 250", "> RSET", "< 250", "> MAIL FROM:<a@b.example> BODY=BINARYMIME", "< 501", "> MAIL FROM:<a@b.example> BODY=7BITS", "< 501"}, 0},
		{"unknown parameters", hello, []string{"> MAIL FROM:<a@b.example> REQUIRETLS", "< 555 5.5.4", "> MAIL FROM:<a@b.example> MT-PRIORITY=3", "< 555", "> MAIL FROM:<a@b.example> AUTH=<>", "< 555", "> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example> SIZE=3", "< 555"}, 0},
		{"malformed parameters", hello, []string{"> MAIL FROM:<a@b.example> =x", "< 501", "> MAIL FROM:<a@b.example> A=b=c", "< 501", "> MAIL FROM:<a@b.example> SIZE=", "< 501", "> MAIL FROM:<a@b.example>SIZE=1", "< 501", "> MAIL FROM:<a@b.example> SIZE=1 SIZE=2", "< 501"}, 0},
		{"bad DSN parameters", begin, []string{"> RCPT TO:<r@ours.example> NOTIFY=NEVER,FAILURE", "< 501", "> RCPT TO:<r@ours.example> NOTIFY", "< 501", "> RCPT TO:<r@ours.example> ORCPT=rfc822", "< 501", "> RCPT TO:<r@ours.example> ORCPT=rfc822;a+0D+0Ab", "< 501", "> RCPT TO:<r@ours.example> ORCPT=rfc822;a+2b", "< 501"}, 0},

		{"UTF-8 without SMTPUTF8", hello, []string{"> MAIL FROM:<jürgen@b.example>", "< 553 5.6.7", "> MAIL FROM:<a@bücher.example>", "< 553 5.6.7", "> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<jürgen@ours.example>", "< 553 5.6.7"}, 0},
		{"UTF-8 with SMTPUTF8", hello, []string{"> MAIL FROM:<jürgen@bücher.example> SMTPUTF8", "< 250", "> RCPT TO:<jürgen@ours.example>", "< 250"}, 0},
		{"SMTPUTF8 with a value", hello, []string{"> MAIL FROM:<a@b.example> SMTPUTF8=1", "< 501"}, 0},
		{"invalid UTF-8", hello, []string{`>"MAIL FROM:<j\xfcrgen@b.example> SMTPUTF8\r\n"`, "< 500 5.5.2"}, 0},

		{"hostile: quoted ORCPT", begin, []string{`> RCPT TO:<"victim@x> ORCPT=rfc822;y"@ours.example>`, "< 250"}, 0},
		{"hostile: quoted bracket", begin, []string{`> RCPT TO:<"a>b@c.example> NOTIFY=NEVER`, "< 553 5.1.3"}, 0},
		{"hostile: source route", begin, []string{"> RCPT TO:<@relay.example:r@ours.example>", "< 553 5.1.3 source routes"}, 0},
		{"hostile: percent hack is one local part", begin, []string{"> RCPT TO:<victim%else.example@ours.example>", "< 250"}, 0},
		{"hostile: two at signs", begin, []string{"> RCPT TO:<victim@else.example@ours.example>", "< 553"}, 0},
		{"hostile: UUCP and percent routes are local parts", begin, []string{"> RCPT TO:<other.example!victim@ours.example>", "< 250", "> RCPT TO:<victim%other.example%a.example@ours.example>", "< 250"}, 0},
		{"hostile: quoted at sign", begin, []string{`> RCPT TO:<"victim@other.example"@ours.example>`, "< 250", `> RCPT TO:<"victim"@other.example@ours.example>`, "< 553", `> RCPT TO:<victim@"ours.example">`, "< 553"}, 0},
		{"hostile: space, comma, semicolon and angle bracket", begin, []string{"> RCPT TO:<r @ours.example>", "< 553", "> RCPT TO:<r,s@ours.example>", "< 553", "> RCPT TO:<r@ours.example,s@ours.example>", "< 553", "> RCPT TO:<r@ours.example;s@ours.example>", "< 553", "> RCPT TO:<<r@ours.example>>", "< 553", "> RCPT TO:<r@ours.example>>", "< 501"}, 0},
		{"hostile: literals that are not addresses", begin, []string{"> RCPT TO:<r@[127.1]>", "< 553", "> RCPT TO:<r@[0177.0.0.1]>", "< 553", "> RCPT TO:<r@[IPv6:fe80::1%25eth0]>", "< 553", "> RCPT TO:<r@[192.0.2.1]ours.example>", "< 553", "> RCPT TO:<r@[192.0.2.1>", "< 553"}, 0},
		{"hostile: DEL in an address", begin, []string{`>"RCPT TO:<r\x7f@ours.example>\r\n"`, "< 500 5.5.2"}, 0},
		{"hostile: line separator in an address", hello, []string{`>"MAIL FROM:<a\u2028b@b.example> SMTPUTF8\r\n"`, "< 553"}, 0},
		{"hostile: over-long UTF-8 of a line end", hello, []string{`>"MAIL FROM:<a\xc0\x8ab@b.example> SMTPUTF8\r\n"`, "< 500 5.5.2"}, 0},
		{"hostile: LF within quotes", begin, []string{`>"RCPT TO:<\"r\nRCPT TO:<s\"@ours.example>\r\n"`, "< 500 5.5.2 bare CR", "< EOF"}, 0},
		{"hostile: line end in ORCPT and ENVID", hello, []string{"> MAIL FROM:<a@b.example> ENVID=a+0D+0AX", "< 501", "> MAIL FROM:<a@b.example> ENVID=a+00", "< 501", "> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example> ORCPT=rfc822;x+0ARSET", "< 501", "> RCPT TO:<r@ours.example> ORCPT=rfc822;x+7F", "< 501", "> RCPT TO:<r@ours.example> ORCPT=rfc822;" + strings.Repeat("x", 600), "< 501"}, 0},
		{"hostile: no brackets", begin, []string{"> RCPT TO:r@ours.example", "< 501", "> RCPT TO:<r@ours.example", "< 553", "> RCPT TO:<>", "< 553"}, 0},
		{"hostile: over-long parts", begin, []string{"> RCPT TO:<" + long + "@ours.example>", "< 553", "> RCPT TO:<r@" + strings.Repeat("x.", 130) + "example>", "< 553", "> RCPT TO:<r@" + long + ".example>", "< 553"}, 0},
		{"hostile: odd domains", begin, []string{"> RCPT TO:<r@[192.0.2.1]>", "< 250", "> RCPT TO:<r@[not an address]>", "< 553", "> RCPT TO:<r@-ours.example>", "< 553", "> RCPT TO:<r@ours..example>", "< 553"}, 0},
		{"hostile: NUL in an address", begin, []string{`>"RCPT TO:<r\x00@ours.example>\r\n"`, "< 500 5.5.2"}, 0},
		{"hostile: quoted control character", begin, []string{`>"RCPT TO:<\"r\\\x01\"@ours.example>\r\n"`, "< 500 5.5.2"}, 0},
		{"hostile: C1 control in an address", hello, []string{`>"MAIL FROM:<a\u0085b@b.example> SMTPUTF8\r\n"`, "< 553"}, 0},
		{"hostile: tab in a command", begin, []string{`>"RCPT\tTO:<r@ours.example>\r\n"`, "< 500 5.5.2"}, 0},
		{"hostile: CR in an address", begin, []string{`>"RCPT TO:<r\r@ours.example>\r\nNOOP\r\n"`, "< 500 5.5.2 bare CR", "< EOF"}, 0},
		{"hostile: LF between commands", begin, []string{`>"RCPT TO:<r@ours.example>\nRCPT TO:<s@ours.example>\r\n"`, "< 500 5.5.2 bare CR", "< EOF"}, 0},
		{"hostile: CR CR LF", nil, []string{`>"NOOP\r\r\n"`, "< 500 5.5.2 bare CR", "< EOF"}, 0},
		{"hostile: endless command", nil, []string{`>"NOOP ` + strings.Repeat("x", 5000) + `"`, "< 500 5.5.2 command line is too long", "< EOF"}, 0},
		{"hostile: long command", nil, []string{"> NOOP " + strings.Repeat("x", 2042), "< 500 5.5.2 command line is too long", "< EOF"}, 0},
		{"longest command", nil, []string{"> NOOP " + strings.Repeat("x", 2041), "< 250"}, 0},
		{"empty command", nil, []string{"> ", "< 500 5.5.2", "> NOOP", "< 250"}, 0},
		{"hostile: PROXY header of somebody", nil, []string{"> PROXY TCP4 192.0.2.1 192.0.2.2 1 25", "< 421 4.7.0 this is not SMTP", "< EOF"}, 0},
		{"hostile: PROXY header version 2 of somebody", nil, []string{`>"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"`, "< 500", "< 500", "< 500", "< 500 5.5.2 bare", "< EOF"}, 0},
		{"neighbours' commands of somebody", hello, []string{"> XCLIENT ADDR=192.0.2.1", "< 500 5.5.1", "> XFORWARD ADDR=192.0.2.1", "< 500 5.5.1"}, 0},
		{"hostile: web request", nil, []string{"> POST / HTTP/1.1", "< 421 4.7.0 this is not SMTP", "< EOF"}, 0},
		{"hostile: content after a refused DATA, at once", begin, []string{`>"DATA\r\nNOOP\r\n"`, "< 421 4.7.0 content without", "< EOF"}, 0},
		{"hostile: content after a refused DATA, later", begin, []string{"> DATA", "< 554", "> dear friend", "< 421 4.7.0 content without", "< EOF"}, 0},
		{"hostile: octets after a refused DATA", begin, []string{"> DATA", "< 554", `>"\x01\r\n"`, "< 421 4.7.0 content without", "< EOF"}, 0},
		{"hostile: header after a refused DATA", begin, []string{"> DATA", "< 554", "> Subject: x", "< 421 4.7.0", "< EOF"}, 0},
		{"a client that vanishes", begin, []string{"> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> half a message"}, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := refusingRecorder()
			srv, addr := startServer(t, rec, func(c *ServerConfig) { c.Limits.MaxSize = 1_000_000 })
			d := dial(t, addr)
			d.play("< 220 mx.ours.example ESMTP")
			d.play(test.before...)
			d.play(test.script...)
			d.conn.Close()
			shutdown(t, srv)
			if got := len(rec.got()); got != test.arrivals {
				t.Errorf("%d messages arrived, want %d", got, test.arrivals)
			}
			if strings.HasPrefix(test.name, "hostile: ") && refuses(test.script) && srv.counted() == 0 {
				t.Errorf("not counted: %+v", srv.Counts())
			}
		})
	}
}

// refuses says whether a script expects a refusal.
func refuses(script []string) bool {
	return slices.ContainsFunc(script, func(s string) bool { return strings.HasPrefix(s, "< 4") || strings.HasPrefix(s, "< 5") })
}

// counted is how often the server has counted something that it did not like.
func (s *Server) counted() uint64 {
	c := s.Counts()
	return c.TurnedAway + c.RateLimited + c.BrokenOff + c.TimedOut + c.HandshakesFailed + c.CommandsRefused + c.AuthFailed
}

func refusingRecorder() *recorder {
	return &recorder{
		sender: func(_ mail.Client, env mail.Envelope) *mail.Failure {
			if env.Sender.Local == "refused" {
				return mail.Fail(mail.NotPermitted, "", nil)
			}
			return nil
		},
		recipient: func(_ mail.Envelope, r mail.Recipient) *mail.Failure {
			switch r.Address.Local {
			case "unknown":
				return mail.Fail(mail.NoSuchMailbox, "", nil)
			case "later":
				return mail.AsFailure(errors.New("a secret"))
			case "doubt":
				return mail.Fail(mail.Doubtful, "", nil)
			case "closing":
				return mail.FromReply("next.example", 421, "4.3.2", "\u00e9\u00e8")
			case "odd":
				f := mail.Fail(mail.NoSuchMailbox, "", nil)
				f.Code, f.Text = 250, "two\r\nlines"
				return f
			}
			return nil
		},
	}
}

func TestLMTPDialogues(t *testing.T) {
	hello := []string{"> LHLO client.example", "<* 250"}
	begin := append(hello, "> MAIL FROM:<a@b.example>", "< 250")
	tests := []struct {
		name   string
		before []string
		script []string
	}{
		{"no SMTP greeting", nil, []string{"> EHLO h", "< 500 5.5.1", "> HELO h", "< 500"}},
		{"DATA without recipients", begin, []string{"> RCPT TO:<unknown@ours.example>", "< 550", "> DATA", "< 503 5.5.1"}},
		{"a reply per accepted recipient, in order, also for a repeated one", begin, []string{
			"> RCPT TO:<r@ours.example>", "< 250", "> RCPT TO:<unknown@ours.example>", "< 550", "> RCPT TO:<full@ours.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250",
			"> DATA", "< 354", "> x", "> .", "< 250 2.0.0 for r", "< 452 4.3.1", "< 250 2.0.0 for r", "> NOOP", "< 250 2.0.0 ok"}},
		{"refused content", begin, []string{
			"> RCPT TO:<r@ours.example>", "< 250", "> RCPT TO:<s@ours.example>", "< 250",
			"> DATA", "< 354", `>"x\ny\r\n.\r\n"`, "< 550 5.6.0", "< 550 5.6.0", "> NOOP", "< 250 2.0.0 ok"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := refusingRecorder()
			rec.accept = verdictPerRecipient
			_, addr := startServer(t, rec, func(c *ServerConfig) { c.Kind = KindLMTP })
			d := dial(t, addr)
			d.play("< 220 mx.ours.example LMTP")
			d.play(test.before...)
			d.play(test.script...)
		})
	}
}

func TestExtensionsOffered(t *testing.T) {
	tlsConfig, _ := serverCertificate(t)
	tests := []struct {
		name   string
		change func(*ServerConfig)
		want   []string
	}{
		{"plain", nil, nil},
		{"64-bit size", func(c *ServerConfig) { c.Limits.MaxSize = 1 << 40 }, []string{"SIZE 1099511627776"}},
		{"recipients", func(c *ServerConfig) { c.Limits.Recipients = 7 }, []string{"LIMITS RCPTMAX=7"}},
		{"with TLS to be had", func(c *ServerConfig) { c.TLS = tlsConfig }, []string{"STARTTLS"}},
		{"REQUIRETLS not without TLS", func(c *ServerConfig) { c.Extensions.RequireTLS = true }, nil},
		{"the default", func(c *ServerConfig) { c.Extensions = DefaultExtensions() }, []string{"BINARYMIME", "DELIVERBY", "MT-PRIORITY"}},
		{"a shortest time", func(c *ServerConfig) {
			c.Extensions = ServerExtensions{DeliverBy: true, MinDeliver: time.Minute}
		}, []string{"DELIVERBY 60"}},
		{"to a neighbour", func(c *ServerConfig) { c.XClient, c.XForward = loopback, loopback }, []string{xclientKeyword, xforwardKeyword}},
		{"to another neighbour", func(c *ServerConfig) { c.XClient, c.XForward = elsewhere, elsewhere }, nil},
		{"submission without TLS", func(c *ServerConfig) { *c = submission(*c, tlsConfig) }, []string{"STARTTLS"}},
	}
	base := []string{"PIPELINING", "SIZE 52428800", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING", "LIMITS RCPTMAX=1000"}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, addr := startServer(t, &recorder{}, test.change)
			want := map[string]bool{}
			for _, line := range append(slices.Clone(base), test.want...) {
				word, _, _ := strings.Cut(line, " ")
				maps.DeleteFunc(want, func(other string, _ bool) bool { return strings.HasPrefix(other, word+" ") })
				want[line] = true
			}
			if got := dial(t, addr).extensions(); !maps.Equal(got, want) {
				t.Errorf("offers %v\n  want %v", got, want)
			}
		})
	}
}

// extensions greets and returns what is offered.
func (d *dialogue) extensions() map[string]bool {
	d.t.Helper()
	d.play("< 220")
	return d.hello()
}

func (d *dialogue) hello() map[string]bool {
	d.t.Helper()
	return d.helloBy("EHLO")
}

func (d *dialogue) helloBy(verb string) map[string]bool {
	d.t.Helper()
	d.play("> "+verb+" h", "< 250-mx.ours.example")
	got := map[string]bool{}
	for {
		line := d.expect("250")
		got[strings.TrimSpace(line[4:])] = true
		if line[3] == ' ' {
			return got
		}
	}
}

var (
	loopback  = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	elsewhere = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
)

// verdictPerRecipient refuses "full" for now.
func verdictPerRecipient(_ context.Context, m *mail.Message) []mail.Verdict {
	var out []mail.Verdict
	for _, r := range m.Envelope.Recipients {
		v := mail.Verdict{Text: "for " + r.Address.Local}
		if r.Address.Local == "full" {
			v = mail.Verdict{Failure: mail.Fail(mail.ResourceShort, "", nil).WithStatus("4.3.1")}
		}
		out = append(out, v)
	}
	return out
}

func TestEnvelopeReachesTheHandler(t *testing.T) {
	rec := &recorder{}
	_, addr := startServer(t, rec, nil)
	d := dial(t, addr)
	d.play("< 220", "> EHLO odd name()<>", "<* 250",
		"> MAIL FROM:<\"a b\"@B.Example> SIZE=10 BODY=8BITMIME SMTPUTF8 RET=hdrs ENVID=QQ+2B314+3D1", "< 250",
		"> RCPT TO:<r+detail@ours.example> NOTIFY=success,FAILURE ORCPT=rfc822;Bob+2Bx@ours.example", "< 250",
		"> RCPT TO:<jürgen@bücher.example> NOTIFY=NEVER ORCPT=utf-8;jürgen@bücher.example", "< 250",
		"> DATA", "< 354", ">\"Received: x\\r\\n\\r\\n\\xff..\\r\\n.\\r\\n\"", "< 250")
	got := rec.got()
	if len(got) != 1 {
		t.Fatalf("%d messages arrived", len(got))
	}
	m := got[0].message
	want := mail.Envelope{
		Sender: mail.Address{Local: "a b", Domain: "b.example"},
		Recipients: []mail.Recipient{
			{Address: mail.Address{Local: "r+detail", Domain: "ours.example"}, Notify: mail.NotifySuccess | mail.NotifyFailure, Original: "rfc822;Bob+x@ours.example"},
			{Address: mail.Address{Local: "jürgen", Domain: "xn--bcher-kva.example"}, Notify: mail.NotifyNever, Original: "utf-8;jürgen@bücher.example"},
		},
		Body: mail.Body8BitMIME, SMTPUTF8: true, Return: "HDRS", EnvelopeID: "QQ+314=1",
	}
	if diff := jsonDiff(t, m.Envelope, want); diff != "" {
		t.Error(diff)
	}
	if c := got[0].content; c != "Received: x\r\n\r\n\xff..\r\n" {
		t.Errorf("content %q", c)
	}
	if f := m.Facts; f.Received != 1 || !f.EightBit || f.HeaderUTF8 || f.Size != int64(len(got[0].content)) {
		t.Errorf("facts %+v", f)
	}
	o := m.Origin
	if o.Transport != "smtp" || o.Helo != "odd?name????" || o.Remote != d.conn.LocalAddr().String() || o.TLS != "" || o.Received.IsZero() {
		t.Errorf("origin %+v", o)
	}
	c := got[0].client
	if !c.ESMTP || c.LMTP || c.Addr.String() != d.conn.LocalAddr().String() || c.Local.String() != addr {
		t.Errorf("client %+v", c)
	}
	if got[0].perRcpt {
		t.Error("verdicts per recipient asked for SMTP")
	}
}

// jsonDiff compares envelopes in the form that is stored.
func jsonDiff(t *testing.T, got, want mail.Envelope) string {
	t.Helper()
	g, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	w, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	if string(g) != string(w) {
		return "envelope " + string(g) + "\n    want " + string(w)
	}
	return ""
}

package smtpbridge

import (
	"net/netip"
	"strings"
	"testing"

	"mailxmppd/mail"
)

func neighbour(c *ServerConfig) { c.XClient, c.XForward = loopback, loopback }

func TestXClient(t *testing.T) {
	hello := []string{"< 220", "> EHLO filter.example", "<* 250"}
	tests := []struct {
		name   string
		script []string
		want   mail.Client // of the message that arrives; Via is the test's own where Addr differs
	}{
		{"all attributes", []string{
			"> XCLIENT NAME=client.example ADDR=192.0.2.7 PORT=4096 PROTO=SMTP HELO=helo.client.example LOGIN=juliet+40ours DESTADDR=IPV6:2001:db8::1 DESTPORT=25",
			"< 220 mx.ours.example ESMTP", "> EHLO filter.example", "<* 250"},
			mail.Client{Addr: netip.MustParseAddrPort("192.0.2.7:4096"), Local: netip.MustParseAddrPort("[2001:db8::1]:25"), Name: "client.example", Helo: "helo.client.example", User: "juliet@ours"}},
		{"some, in two commands", []string{
			"> xclient addr=IPv6:2001:db8::7 port=1", "< 220", "> EHLO filter.example", "<* 250", "> XCLIENT NAME=[UNAVAILABLE] HELO=[UNAVAILABLE] LOGIN=[unavailable] PORT=2", "< 220", "> EHLO own.example", "<* 250"},
			mail.Client{Addr: netip.MustParseAddrPort("[2001:db8::7]:2"), Helo: "own.example", ESMTP: true}},
		{"IPv6 without its word", []string{"> XCLIENT ADDR=2001:db8::7 PORT=2", "< 220", "> EHLO own.example", "<* 250"},
			mail.Client{Addr: netip.MustParseAddrPort("[2001:db8::7]:2"), Helo: "own.example", ESMTP: true}},
		{"nothing but refusals", []string{
			"> XCLIENT", "< 501 5.5.4", "> XCLIENT ADDR", "< 501", "> XCLIENT ADDR=", "< 501", "> XCLIENT ADDR=x", "< 501", "> XCLIENT PORT=65536", "< 501", "> XCLIENT PORT=1 PORT=2", "< 501",
			"> XCLIENT PROTO=HTTP", "< 501", "> XCLIENT LOGIN=a+0Ab", "< 501", "> XCLIENT SOURCE=LOCAL", "< 501", "> XCLIENT ADDR=fe80::1%eth0", "< 501", "> XCLIENT NAME=" + strings.Repeat("x", 256), "< 501",
			"> XCLIENT ADDR=192.0.2.7 PORT=x", "< 501", "> MAIL FROM:<a@b.example>", "< 250", "> XCLIENT ADDR=192.0.2.7", "< 503", "> RSET", "< 250"},
			mail.Client{Helo: "filter.example", ESMTP: true}},
		{"what would do harm is cleaned", []string{`> XCLIENT NAME=a(b)c HELO=x+20y`, "< 220", "> EHLO own.example", "<* 250"},
			mail.Client{Name: "a?b?c", Helo: "x?y", ESMTP: true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			_, addr := startServer(t, rec, neighbour)
			d := dial(t, addr)
			d.play(hello...)
			d.play(test.script...)
			d.play("> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250")
			want, self := test.want, netip.MustParseAddrPort(d.conn.LocalAddr().String())
			got := rec.got()[0]
			if !want.Addr.IsValid() {
				want.Addr = self
			}
			if test.name != "nothing but refusals" {
				want.Via = self
			}
			if !want.Local.IsValid() {
				want.Local = netip.MustParseAddrPort(addr)
			}
			if got.client != want {
				t.Errorf("client %+v\n  want %+v", got.client, want)
			}
			if o := got.message.Origin; o.Remote != want.Addr.String() || o.Helo != want.Helo || o.User != want.User {
				t.Errorf("origin %+v", o)
			}
		})
	}
}

func TestXClientWantsAGreetingBeforeAndAfter(t *testing.T) {
	_, addr := startServer(t, &recorder{}, neighbour)
	dial(t, addr).play("< 220", "> XCLIENT ADDR=192.0.2.7", "< 503", "> XFORWARD ADDR=192.0.2.7", "< 503", "> EHLO h", "<* 250",
		"> XCLIENT ADDR=192.0.2.7", "< 220", "> MAIL FROM:<>", "< 503 5.5.1 say hello")
}

func TestXClientUnknownAddress(t *testing.T) {
	rec := &recorder{sender: func(c mail.Client, _ mail.Envelope) *mail.Failure {
		if c.Addr.IsValid() {
			return mail.Fail(mail.NotPermitted, "", nil)
		}
		return nil
	}}
	_, addr := startServer(t, rec, neighbour)
	dial(t, addr).play("< 220", "> EHLO h", "<* 250", "> XCLIENT ADDR=[UNAVAILABLE]", "< 220", "> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250")
}

// TestXClientLogin: a neighbour that has authenticated the client speaks for
// it on the submission listener, in the clear as well.
func TestXClientLogin(t *testing.T) {
	serverTLS, _ := serverCertificate(t)
	rec := &recorder{}
	_, addr := startServer(t, rec, func(c *ServerConfig) {
		*c = submission(*c, serverTLS)
		c.XClient = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	d := dialFrom(t, "127.0.0.1", addr)
	d.play("< 220", "> EHLO h", "<* 250", "> XCLIENT ADDR=192.0.2.7 LOGIN=juliet", "< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example>", "< 250",
		"> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250")
	if got := rec.got(); len(got) != 1 || got[0].client.User != "juliet" {
		t.Errorf("arrived: %+v", got)
	}
	dialFrom(t, "127.0.0.2", addr).play("< 220", "> EHLO h", "<* 250", "> XCLIENT LOGIN=juliet", "< 530", "> MAIL FROM:<a@b.example>", "< 530")
}

func TestXForward(t *testing.T) {
	rec := &recorder{}
	_, addr := startServer(t, rec, neighbour)
	d := dial(t, addr)
	message := []string{"> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250"}
	d.play("< 220", "> EHLO filter.example", "<* 250",
		"> XFORWARD NAME=client.example ADDR=192.0.2.7 PORT=4096 PROTO=ESMTP", "< 250 2.0.0", "> XFORWARD HELO=helo.example IDENT=4ABC SOURCE=REMOTE", "< 250")
	d.play(message...)
	d.play(message...)
	d.play("> XFORWARD ADDR=[UNAVAILABLE] SOURCE=LOCAL", "< 250")
	d.play(message...)
	d.play("> XFORWARD ADDR=IPV6:2001:db8::1", "< 250", "> RSET", "< 250")
	d.play(message...)
	d.play("> XFORWARD", "< 501", "> XFORWARD LOGIN=x", "< 501", "> XFORWARD SOURCE=SOMEWHERE", "< 501", "> XFORWARD ADDR=x", "< 501", "> XFORWARD ADDR=192.0.2.7 PORT=-1", "< 501",
		"> MAIL FROM:<>", "< 250", "> XFORWARD ADDR=192.0.2.7", "< 503", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250")
	got := rec.got()
	if len(got) != 5 {
		t.Fatalf("%d messages arrived", len(got))
	}
	self := netip.MustParseAddrPort(d.conn.LocalAddr().String())
	want := &mail.Forwarded{Addr: netip.MustParseAddrPort("192.0.2.7:4096"), Name: "client.example", Helo: "helo.example", Proto: "ESMTP", Ident: "4ABC", Source: "REMOTE"}
	if f := got[0].client.Forwarded; f == nil || *f != *want || got[0].client.Addr != self {
		t.Errorf("client %+v, forwarded %+v", got[0].client, f)
	}
	if o := got[0].message.Origin; o.Remote != "192.0.2.7:4096" || o.Helo != "helo.example" {
		t.Errorf("origin %+v", o)
	}
	for i := 1; i < len(got); i++ {
		if f := got[i].client.Forwarded; i != 2 && f != nil || i == 2 && (f == nil || *f != mail.Forwarded{Source: "LOCAL"}) {
			t.Errorf("message %d: %+v", i, f)
		}
		if o := got[i].message.Origin; o.Remote != self.String() || o.Helo != "filter.example" {
			t.Errorf("message %d: origin %+v", i, o)
		}
	}
}

// TestXForwardRates: messages are counted by the client that they came from.
func TestXForwardRates(t *testing.T) {
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
		neighbour(c)
		c.Rates.MessagesPerMinute = 1
	})
	d := dial(t, addr)
	d.play("< 220", "> EHLO h", "<* 250")
	for _, step := range []struct{ from, want string }{{"192.0.2.7", "< 250"}, {"192.0.2.8", "< 250"}, {"192.0.2.7", "< 450 4.7.1"}} {
		d.play("> XFORWARD ADDR="+step.from, "< 250", "> MAIL FROM:<>", step.want, "> RSET", "< 250")
	}
}

func FuzzAttributes(f *testing.F) {
	for _, seed := range []string{"ADDR=192.0.2.1 PORT=25", "NAME=[UNAVAILABLE]", "LOGIN=a+40b PROTO=esmtp", "ADDR=IPV6:::1 HELO=x", "SOURCE=LOCAL IDENT=4ABC"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, arg string) {
		if cmd, ok := parseCommand([]byte("XCLIENT " + arg)); !ok || cmd.arg != arg {
			return
		}
		for _, keyword := range []string{xclientKeyword, xforwardKeyword} {
			attributes, ok := parseAttributes(keyword, arg)
			if !ok {
				continue
			}
			var c mail.Client
			var told xclientHello
			var fwd mail.Forwarded
			for _, a := range attributes {
				if keyword == xclientKeyword {
					ok = ok && applyXClient(&c, &told, a)
				} else {
					ok = ok && applyXForward(&fwd, a)
				}
			}
			if !ok {
				continue
			}
			if c.User != "" && !validUserName(c.User) {
				t.Fatalf("user %q", c.User)
			}
			for _, s := range []string{c.Name, told.helo, fwd.Name, fwd.Helo, fwd.Ident} {
				if cleanHello(s) != s {
					t.Fatalf("%q from %q", s, arg)
				}
			}
			if c.Addr.Addr().Zone() != "" || fwd.Addr.Addr().Zone() != "" {
				t.Fatalf("a zone from %q", arg)
			}
		}
	})
}

package smtpbridge

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// extensionUse is how a client uses an extension: a command that is taken where
// the extension is offered and refused where it is not.
type extensionUse struct {
	keyword string   // as EHLO lists it, up to the first space
	where   string   // "mail", "rcpt" or "": as the argument of which command
	use     string   // the parameter, or the whole command
	refused []string // beginnings of the replies where it is not offered
	taken   string   // where it is; "" for 250
}

var extensionUses = []extensionUse{
	{"SIZE", "mail", "SIZE=10", nil, ""},
	{"8BITMIME", "mail", "BODY=8BITMIME", nil, ""},
	{"BINARYMIME", "mail", "BODY=BINARYMIME", []string{"501 5.5.4"}, ""},
	{"SMTPUTF8", "mail", "SMTPUTF8", nil, ""},
	{"DSN", "mail", "RET=HDRS ENVID=x", nil, ""},
	{"DSN", "rcpt", "NOTIFY=NEVER ORCPT=rfc822;r", nil, ""},
	{"REQUIRETLS", "mail", "REQUIRETLS", []string{"555 5.5.4"}, ""},
	{"MT-PRIORITY", "mail", "MT-PRIORITY=3", []string{"555 5.5.4"}, ""},
	{"DELIVERBY", "mail", "BY=600;R", []string{"555 5.5.4"}, ""},
	{"AUTH", "", "AUTH PLAIN AAAA", []string{"502 5.5.1", "530 5.7.0", "503 5.5.1", "504 5.5.4"}, "501 5.5.2"},
	{"STARTTLS", "", "STARTTLS now", []string{"502 5.5.1"}, "501 5.5.4"},
	{"XCLIENT", "", "XCLIENT NAME=x", []string{"500 5.5.1", "530 5.7.0"}, "220"},
	{"XFORWARD", "", "XFORWARD NAME=x", []string{"500 5.5.1", "530 5.7.0"}, "250"},
	{"", "mail", "HOLDFOR=60", []string{"555 5.5.4"}, ""}, // RFC 4865, which nobody is offered
	{"", "rcpt", "CONPERM", []string{"555 5.5.4"}, ""},    // RFC 4141
	{"", "", "BURL imap://x LAST", []string{"500 5.5.1", "530 5.7.0"}, ""},
	{"", "", "ETRN ours.example", []string{"502 5.5.1", "530 5.7.0"}, ""},
	{"CHUNKING", "", "BDAT 0", nil, "503 5.5.1"}, // after which the session is wary
}

// TestEachExtensionWhereItIsCorrect goes through the listeners as an operator
// can set them up, before and after TLS and authentication: an extension is
// offered where it is correct, and what it brings is taken there and nowhere
// else.
func TestEachExtensionWhereItIsCorrect(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	auth := storedAuth(t)
	all := ServerExtensions{RequireTLS: true, Priority: true, DeliverBy: true, BinaryMIME: true}
	always := []string{"PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING", "LIMITS"}
	settable := []string{"BINARYMIME", "DELIVERBY", "MT-PRIORITY"}
	full := func(c *ServerConfig) { c.TLS, c.Extensions = serverTLS, all }
	msa := func(c *ServerConfig) {
		*c = submission(*c, serverTLS)
		c.Auth, c.Extensions = auth, all
	}
	tests := []struct {
		name   string
		change func(*ServerConfig)
		first  []string // before the EHLO whose offers count; "TLS" for a handshake
		offers []string // beside always
	}{
		{"relay, nothing set", nil, nil, nil},
		{"relay, the default, no TLS to be had", func(c *ServerConfig) { c.Extensions = DefaultExtensions() }, nil, settable},
		{"relay, REQUIRETLS without TLS to be had", func(c *ServerConfig) { c.Extensions = all }, nil, settable},
		{"relay, in the clear", full, nil, append([]string{"STARTTLS"}, settable...)},
		{"relay, after STARTTLS", full, []string{"> EHLO h", "<* 250", "> STARTTLS", "< 220", "TLS"}, append([]string{"REQUIRETLS"}, settable...)},
		{"relay, REQUIRETLS not promised", func(c *ServerConfig) { full(c); c.Extensions.RequireTLS = false }, []string{"> EHLO h", "<* 250", "> STARTTLS", "< 220", "TLS"}, settable},
		{"relay, to a neighbour", func(c *ServerConfig) { c.XClient, c.XForward = loopback, loopback }, nil, []string{"XCLIENT", "XFORWARD"}},
		{"relay, to another's neighbour", func(c *ServerConfig) { c.XClient, c.XForward = elsewhere, elsewhere }, nil, nil},
		{"LMTP", func(c *ServerConfig) { full(c); c.Kind = KindLMTP }, nil, append([]string{"STARTTLS"}, settable...)},
		{"submission, in the clear", msa, nil, append([]string{"STARTTLS"}, settable...)},
		{"submission, after STARTTLS", msa, []string{"> EHLO h", "<* 250", "> STARTTLS", "< 220", "TLS"}, append([]string{"REQUIRETLS", "AUTH"}, settable...)},
		{"submission, authenticated", msa, []string{"> EHLO h", "<* 250", "> STARTTLS", "< 220", "TLS", "> EHLO h", "<* 250", "> AUTH " + plain("juliet@ours.example", "wherefore"), "< 235"}, append([]string{"REQUIRETLS"}, settable...)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			srv, addr := startServer(t, &recorder{}, test.change)
			begin := func() (*dialogue, map[string]bool) {
				d := dial(t, addr)
				d.play("< 220")
				for _, step := range test.first {
					if step == "TLS" {
						d = newDialogue(t, tls.Client(d.conn, &tls.Config{RootCAs: pool, ServerName: "localhost"}))
						continue
					}
					d.play(step)
				}
				offers := map[string]bool{}
				for line := range d.helloAs(srv.cfg.Kind) {
					keyword, _, _ := strings.Cut(line, " ")
					offers[keyword] = true
				}
				return d, offers
			}
			d, offers := begin()
			want := map[string]bool{}
			for _, keyword := range slices.Concat(always, test.offers) {
				want[keyword] = true
			}
			if !maps.Equal(offers, want) {
				t.Errorf("offers %v\n  want %v", slices.Sorted(maps.Keys(offers)), slices.Sorted(maps.Keys(want)))
			}
			ready := srv.cfg.Kind != KindSubmission || strings.HasSuffix(test.name, "authenticated")
			for _, u := range extensionUses {
				if u.where != "" && !ready { // MAIL itself is refused here
					continue
				}
				if line, ok := d.try(u, offers[u.keyword]); !ok {
					t.Errorf("%s, offered: %v: %q", u.use, offers[u.keyword], line)
				}
				if u.keyword == "XCLIENT" { // which begins the session anew
					d, _ = begin()
				}
			}
		})
	}
}

func (d *dialogue) helloAs(kind Kind) map[string]bool {
	d.t.Helper()
	if kind == KindLMTP {
		return d.helloBy("LHLO")
	}
	return d.hello()
}

// try uses an extension, and says whether that went as it should.
func (d *dialogue) try(u extensionUse, offered bool) (line string, ok bool) {
	d.t.Helper()
	command := u.use
	switch u.where {
	case "mail":
		command = "MAIL FROM:<a@b.example> " + u.use
	case "rcpt":
		d.play("> MAIL FROM:<a@b.example>", "< 250")
		command = "RCPT TO:<r@ours.example> " + u.use
	}
	d.send(command + "\r\n")
	line = d.expect("")
	if u.where != "" {
		d.play("> RSET", "< 250")
	}
	if !offered {
		return line, slices.ContainsFunc(u.refused, func(r string) bool { return strings.HasPrefix(line, r) })
	}
	want := u.taken
	if want == "" {
		want = "250"
	}
	return line, strings.HasPrefix(line, want)
}

// TestRecipientLimitHolds: what LIMITS announces (RFC 9422) is what is taken,
// by RCPT alone and in a pipelined group.
func TestRecipientLimitHolds(t *testing.T) {
	const limit = 100
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.Limits.Recipients = limit })
	d := dial(t, addr)
	if !d.extensions()[fmt.Sprintf("LIMITS RCPTMAX=%d", limit)] {
		t.Error("not announced")
	}
	d.play("> MAIL FROM:<>", "< 250")
	d.send(strings.Repeat("RCPT TO:<r@ours.example>\r\n", limit+1))
	for range limit {
		d.expect("250 ")
	}
	d.play("< 452 4.5.3")
}

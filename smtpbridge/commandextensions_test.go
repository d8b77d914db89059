package smtpbridge

import (
	"crypto/tls"
	"testing"
	"time"

	"mailxmppd/mail"
)

// TestParametersOfExtensions: each where it is offered.
func TestParametersOfExtensions(t *testing.T) {
	all := ServerExtensions{RequireTLS: true, Priority: true, DeliverBy: true, BinaryMIME: true, MinDeliver: 30 * time.Second}
	tests := []struct {
		params string
		code   int
		check  func(mail.Envelope) bool
	}{
		{"REQUIRETLS", 0, func(e mail.Envelope) bool { return e.RequireTLS }},
		{"REQUIRETLS=1", 501, nil},
		{"MT-PRIORITY=0", 0, func(e mail.Envelope) bool { return *e.Priority == 0 }},
		{"MT-PRIORITY=9", 0, func(e mail.Envelope) bool { return *e.Priority == 9 }},
		{"mt-priority=-9", 0, func(e mail.Envelope) bool { return *e.Priority == -9 }},
		{"MT-PRIORITY", 501, nil}, {"MT-PRIORITY=10", 501, nil}, {"MT-PRIORITY=+1", 501, nil}, {"MT-PRIORITY=-0", 501, nil}, {"MT-PRIORITY=01", 501, nil}, {"MT-PRIORITY=x", 501, nil}, {"MT-PRIORITY=-", 501, nil},
		{"BY=120;R", 0, inSeconds(120, 'R', false)},
		{"BY=+120;n", 0, inSeconds(120, 'N', false)},
		{"BY=-120;N", 0, inSeconds(-120, 'N', false)},
		{"BY=0;NT", 0, inSeconds(0, 'N', true)},
		{"BY=999999999;RT", 0, inSeconds(999999999, 'R', true)},
		{"BY=30;R", 0, inSeconds(30, 'R', false)},
		{"BY=1;N", 0, inSeconds(1, 'N', false)},
		{"BY=29;R", 555, nil},
		{"BY=0;R", 501, nil}, {"BY=-1;R", 501, nil}, {"BY=1", 501, nil}, {"BY=1;", 501, nil}, {"BY=1;X", 501, nil}, {"BY=1;NX", 501, nil}, {"BY=1;NTT", 501, nil}, {"BY=;N", 501, nil}, {"BY=+;N", 501, nil},
		{"BY=+-1;N", 501, nil}, {"BY=1000000000;N", 501, nil}, {"BY=1.5;N", 501, nil}, {"BY", 501, nil},
		{"BODY=BINARYMIME", 0, func(e mail.Envelope) bool { return e.Body == mail.BodyBinaryMIME }},
		{"AUTH=<>", 0, func(mail.Envelope) bool { return true }}, {"AUTH=+0A", 501, nil},
	}
	for _, test := range tests {
		params, refusal := parseParams(" " + test.params)
		if refusal != nil {
			t.Fatalf("%s: %v", test.params, refusal)
		}
		var env mail.Envelope
		code := codeOf(mailParams(&env, params, offers{all, 1000, true}))
		if code != test.code || code == 0 && !test.check(env) {
			t.Errorf("%s: %d, %+v", test.params, code, env)
		}
		if code := codeOf(mailParams(&env, params, offers{maxSize: 1000})); code != 555 && code != 501 {
			t.Errorf("%s, not offered: %d", test.params, code)
		}
	}
}

func inSeconds(seconds int, mode byte, trace bool) func(mail.Envelope) bool {
	return func(e mail.Envelope) bool {
		off := time.Until(e.DeliverBy.Deadline) - time.Duration(seconds)*time.Second
		return off > -time.Minute && off < time.Minute && e.DeliverBy.Mode == mode && e.DeliverBy.Trace == trace
	}
}

// TestRequireTLS: offered and taken over TLS only.
func TestRequireTLS(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	rec := &recorder{}
	_, addr := startServer(t, rec, func(c *ServerConfig) { c.TLS, c.Extensions.RequireTLS = serverTLS, true })
	d := dial(t, addr)
	d.play("< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example> REQUIRETLS", "< 555 5.5.4", "> STARTTLS", "< 220")
	d = newDialogue(t, tls.Client(d.conn, &tls.Config{RootCAs: pool, ServerName: "localhost"}))
	if !d.hello()["REQUIRETLS"] {
		t.Error("not offered")
	}
	d.play("> MAIL FROM:<a@b.example> REQUIRETLS", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250")
	if got := rec.got(); len(got) != 1 || !got[0].message.Envelope.RequireTLS {
		t.Errorf("arrived: %+v", got)
	}
}

// TestExtensionsReachTheHandler follows the parameters into the envelope.
func TestExtensionsReachTheHandler(t *testing.T) {
	rec := &recorder{}
	_, addr := startServer(t, rec, func(c *ServerConfig) { c.Extensions = DefaultExtensions() })
	d := dial(t, addr)
	d.play("< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example> BY=600;RT MT-PRIORITY=-3 BODY=BINARYMIME SIZE=3 RET=HDRS ENVID=e1", "< 250",
		"> RCPT TO:<r@ours.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;r", "< 250", `>"BDAT 3 LAST\r\n\r\n\n"`, "< 250")
	got := rec.got()
	if len(got) != 1 {
		t.Fatalf("%d messages arrived", len(got))
	}
	env := got[0].message.Envelope
	r := env.Recipients[0]
	if *env.Priority != -3 || !inSeconds(600, 'R', true)(env) || env.Body != mail.BodyBinaryMIME || env.Return != "HDRS" || env.EnvelopeID != "e1" || r.Notify != mail.NotifySuccess|mail.NotifyDelay || r.Original != "rfc822;r" {
		t.Errorf("envelope %+v", env)
	}
}

package smtpbridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
)

// someUsers has the user juliet with the password "wherefore", under that name
// and as JULIET, and fails for "broken".
type someUsers struct{ verifier string }

func (u someUsers) Verifier(_ context.Context, name string) (string, string, bool, error) {
	switch strings.ToLower(name) {
	case "juliet@ours.example":
		return "juliet@ours.example", u.verifier, true, nil
	case "damaged@ours.example":
		return "damaged@ours.example", "$scram-sha-256$", true, nil
	case "broken@ours.example":
		return "", "", false, errors.New("a secret of the store")
	}
	return strings.ToLower(name), "", false, nil
}

// julietsVerifier is a cheap one: what checks cost is not what most tests are
// about.
var julietsVerifier = sync.OnceValues(func() (string, error) {
	keys, err := newScramKeys("wherefore", []byte("salt and pepper."), 4096)
	hash := Argon2Hash{Memory: 64, Time: 1, Threads: 1, Salt: []byte("pepper and salt.")}
	hash.Hash = hash.of("wherefore")
	return Verifier{Scram: keys, Argon2: hash}.Marshal(), err
})

func storedAuth(t testing.TB) *StoredAuth {
	t.Helper()
	verifier, err := julietsVerifier()
	if err != nil {
		t.Fatal(err)
	}
	auth, err := NewStoredAuth(someUsers{verifier}, []byte("0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	return auth
}

// submission makes a configuration one of a submission listener.
func submission(c ServerConfig, serverTLS *tls.Config) ServerConfig {
	c.Kind, c.TLS = KindSubmission, serverTLS
	c.Auth = &StoredAuth{users: someUsers{}, secret: []byte("0123456789abcdef"), checks: make(chan struct{}, argonChecks)}
	return c
}

// startSubmission serves with implicit TLS and returns a function that makes
// clients of it, past the greeting.
func startSubmission(t testing.TB, rec *recorder, change func(*ServerConfig)) func(maxVersion uint16) *dialogue {
	t.Helper()
	serverTLS, pool := serverCertificate(t)
	auth := storedAuth(t)
	_, addr := startServer(t, rec, func(c *ServerConfig) {
		*c = submission(*c, serverTLS)
		c.Auth, c.ImplicitTLS = auth, true
		if change != nil {
			change(c)
		}
	})
	return func(maxVersion uint16) *dialogue { return dialTLS(t, addr, pool, maxVersion) }
}

func dialTLS(t testing.TB, addr string, pool *x509.CertPool, maxVersion uint16) *dialogue {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, ServerName: "localhost", MaxVersion: maxVersion})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newDialogue(t, conn)
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// plain is the AUTH argument of PLAIN.
func plain(user, password string) string { return "PLAIN " + b64("\x00"+user+"\x00"+password) }

func TestAuthDialogues(t *testing.T) {
	const juliet = "juliet@ours.example"
	good := plain(juliet, "wherefore")
	tests := []struct {
		name   string
		script []string
		user   string // of the message that arrives; "" for none
	}{
		{"PLAIN", []string{"> AUTH " + good, "< 235 2.7.0"}, juliet},
		{"PLAIN as oneself", []string{"> AUTH PLAIN " + b64(juliet+"\x00"+juliet+"\x00wherefore"), "< 235"}, juliet},
		{"PLAIN in two steps", []string{"> AUTH PLAIN", "< 334 ", "> " + good[6:], "< 235"}, juliet},
		{"the user's own form of the name", []string{"> auth " + plain("Juliet@Ours.example", "wherefore"), "< 235"}, juliet},
		{"LOGIN", []string{"> AUTH LOGIN", "< 334 VXNlcm5hbWU6", "> " + b64(juliet), "< 334 UGFzc3dvcmQ6", "> " + b64("wherefore"), "< 235"}, juliet},
		{"LOGIN with the name at once", []string{"> AUTH LOGIN " + b64(juliet), "< 334 UGFzc3dvcmQ6", "> " + b64("wherefore"), "< 235"}, juliet},
		{"the AUTH parameter of MAIL", []string{"> AUTH " + good, "< 235", "> MAIL FROM:<a@b.example> AUTH=<>", "< 250", "> RSET", "< 250", "> MAIL FROM:<a@b.example> AUTH=a+3Db", "< 250", "> RSET", "< 250", "> MAIL FROM:<a@b.example> AUTH", "< 501", "> MAIL FROM:<a@b.example> AUTH=+zz", "< 501"}, juliet},
		{"wrong password", []string{"> AUTH " + plain(juliet, "wrong"), "< 535 5.7.8 authentication failed"}, ""},
		{"unknown user looks the same", []string{"> AUTH " + plain("nobody@ours.example", "wrong"), "< 535 5.7.8 authentication failed"}, ""},
		{"a store that fails", []string{"> AUTH " + plain("broken@ours.example", "x"), "< 454 4.7.0 cannot authenticate now, try again later"}, ""},
		{"a verifier that is damaged", []string{"> AUTH " + plain("damaged@ours.example", "x"), "< 454 4.7.0"}, ""},
		{"as somebody else", []string{"> AUTH PLAIN " + b64("romeo@ours.example\x00"+juliet+"\x00wherefore"), "< 501 5.5.2"}, ""},
		{"malformed PLAIN", []string{"> AUTH PLAIN " + b64("no nul"), "< 501", "> AUTH PLAIN " + b64("a\x00b\x00c\x00d"), "< 501", "> AUTH PLAIN =", "< 501", "> AUTH PLAIN " + b64("\x00"+juliet+"\x00"), "< 501"}, ""},
		{"control characters in the name", []string{"> AUTH PLAIN " + b64("\x00a\nb\x00c"), "< 501"}, ""},
		{"not base64", []string{"> AUTH PLAIN !!!!", "< 501 5.5.2", "> AUTH PLAIN", "< 334", "> YQ", "< 501", "> AUTH PLAIN YQ==YQ==", "< 501"}, ""},
		{"unknown mechanism", []string{"> AUTH CRAM-MD5", "< 504 5.5.4", "> AUTH", "< 504", "> AUTH OAUTHBEARER", "< 504"}, ""},
		{"cancelled", []string{"> AUTH PLAIN", "< 334", "> *", "< 501 5.7.0 authentication cancelled", "> AUTH LOGIN", "< 334", "> *", "< 501", "> AUTH LOGIN " + b64("a"), "< 334", "> *", "< 501", "> AUTH SCRAM-SHA-256", "< 334", "> *", "< 501", "> AUTH " + good, "< 235"}, juliet},
		{"cancelled too often", []string{"> AUTH PLAIN", "< 334", "> *", "< 501", "> AUTH PLAIN", "< 334", "> *", "< 501", "> AUTH PLAIN", "< 334", "> *", "< 501", "> AUTH PLAIN", "< 334", "> *", "< 501", "> AUTH PLAIN", "< 334", "> *", "< 501", "< 421 4.7.0 too many failed", "< EOF"}, ""},
		{"twice", []string{"> AUTH " + good, "< 235", "> AUTH " + good, "< 503 5.5.1 already"}, juliet},
		{"in a transaction", []string{"> AUTH " + good, "< 235", "> MAIL FROM:<>", "< 250", "> AUTH " + good, "< 503", "> RSET", "< 250"}, juliet},
		{"not in the middle of a message", []string{"> MAIL FROM:<a@b.example>", "< 530 5.7.0 authenticate first", "> RCPT TO:<r@ours.example>", "< 503", `>"BDAT 6 LAST\r\nQUIT\r\n"`, "< 503", "> DATA", "< 503"}, ""},
		{"a command for a response", []string{"> AUTH PLAIN", "< 334", "> MAIL FROM:<a@b.example>", "< 501", "> MAIL FROM:<a@b.example>", "< 530"}, ""},
		{"an endless response", []string{"> AUTH PLAIN", "< 334", `>"` + strings.Repeat("A", 20_000) + `"`, "< 500 5.5.2", "< EOF"}, ""},
		{"a bare LF in a response", []string{"> AUTH PLAIN", "< 334", `>"AAAA\nAAAA\r\n"`, "< 500 5.5.2", "< EOF"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			d := startSubmission(t, rec, nil)(0)
			d.play("< 220", "> EHLO h", "<* 250")
			d.play(test.script...)
			if test.user == "" {
				return
			}
			d.play("> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250")
			got := rec.got()
			if len(got) != 1 || got[0].client.User != test.user || got[0].message.Origin.User != test.user {
				t.Errorf("arrived: %+v", got)
			}
		})
	}
}

func TestAuthFloodEndsTheSession(t *testing.T) {
	d := startSubmission(t, &recorder{}, func(c *ServerConfig) { c.Limits.AuthTries = 3 })(0)
	d.play("< 220", "> EHLO h", "<* 250")
	wrong := plain("juliet@ours.example", "wrong")
	d.play("> AUTH "+wrong, "< 535", "> AUTH "+wrong, "< 535", "> AUTH "+wrong, "< 535", "< 421 4.7.0 too many failed", "< EOF")
}

// TestAuthFloodLocksOut: failures are counted by address and by user over
// sessions; what is beyond the limit is refused whether right or wrong, and a
// success is not counted.
func TestAuthFloodLocksOut(t *testing.T) {
	good, wrong := plain("juliet@ours.example", "wherefore"), plain("juliet@ours.example", "wrong")
	tests := []struct {
		name   string
		limits AuthLimits
		other  string // the reply to another user's wrong password, when juliet is locked out
	}{
		{"by address", AuthLimits{PerAddress: 2}, "< 454 4.7.0 too many"},
		{"by user", AuthLimits{PerUser: 2}, "< 535"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dialIn := startSubmission(t, &recorder{}, func(c *ServerConfig) { c.Guard = NewAuthGuard(test.limits) })
			for range 4 {
				dialIn(0).play("< 220", "> EHLO h", "<* 250", "> AUTH "+good, "< 235")
			}
			for range 2 {
				dialIn(0).play("< 220", "> EHLO h", "<* 250", "> AUTH "+wrong, "< 535")
			}
			d := dialIn(0)
			d.play("< 220", "> EHLO h", "<* 250", "> AUTH "+good, "< 454 4.7.0 too many", "> AUTH "+plain("JULIET@ours.example", "wrong"), "< 454")
			d.play("> AUTH "+plain("romeo@ours.example", "x"), test.other)
		})
	}
}

func TestAuthIsCountedAndLoggedWithoutSecrets(t *testing.T) {
	log, lines := logLines()
	serverTLS, pool := serverCertificate(t)
	auth := storedAuth(t)
	srv, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
		*c = submission(*c, serverTLS)
		c.Auth, c.ImplicitTLS, c.Log = auth, true, log
		c.Guard = NewAuthGuard(AuthLimits{PerUser: 1})
	})
	d := dialTLS(t, addr, pool, 0)
	d.play("< 220", "> EHLO h", "<* 250", "> AUTH "+plain("juliet@ours.example", "sesame"), "< 535",
		"> AUTH "+plain("juliet@ours.example", "sesame"), "< 454", "> AUTH PLAIN", "< 334", "> *", "< 501", "> QUIT", "< 221")
	d = dialTLS(t, addr, pool, 0)
	d.play("< 220", "> EHLO h", "<* 250", "> AUTH PLAIN", "< 334")
	d.conn.Close()
	shutdown(t, srv)
	c := srv.Counts()
	if c.AuthOK != 0 || c.AuthFailed != 4 || c.AuthLimited != 1 || c.Connections != 2 {
		t.Errorf("counts %+v", c)
	}
	all := lines()
	if strings.Contains(all, "sesame") || strings.Contains(all, plain("juliet@ours.example", "sesame")[6:]) {
		t.Errorf("a secret in the log: %s", all)
	}
	if n := strings.Count(all, `level=INFO msg="smtp authentication failed"`); n != 3 || !strings.Contains(all, "user=juliet@ours.example mechanism=PLAIN") {
		t.Errorf("%d lines: %s", n, all)
	}
}

// TestSubmissionBeforeTLS: nothing that matters is taken in the clear, and a
// password sent there is not looked at.
func TestSubmissionBeforeTLS(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	auth := storedAuth(t)
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
		*c = submission(*c, serverTLS)
		c.Auth = auth
	})
	good := plain("juliet@ours.example", "wherefore")
	d := dial(t, addr)
	d.play("< 220", "> AUTH "+good, "< 530 5.7.0", "> EHLO h", "<* 250", "> AUTH "+good, "< 530 5.7.0 use STARTTLS", "> MAIL FROM:<>", "< 530",
		"> RCPT TO:<r@ours.example>", "< 530", "> RSET", "< 530", `>"BDAT 6\r\nNOOP\r\n"`, "< 503", "> NOOP", "< 250", "> STARTTLS", "< 220")
	conn := tls.Client(d.conn, &tls.Config{RootCAs: pool, ServerName: "localhost"})
	d = newDialogue(t, conn)
	d.play("> AUTH "+good, "< 503 5.5.1 say hello")
	if got := d.hello(); !got["AUTH SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"] || got["STARTTLS"] {
		t.Errorf("offers %v", got)
	}
	d.play("> AUTH "+good, "< 235")
	for offer := range d.hello() {
		if strings.HasPrefix(offer, "AUTH") {
			t.Errorf("offers %s after AUTH", offer)
		}
	}
}

// bearer takes one token.
type bearer struct{}

func (bearer) Token(_ context.Context, _ mail.Client, token string) (string, error) {
	if token != "t0ken" {
		return "", mail.Fail(mail.NotAuthorized, "", nil)
	}
	return "juliet@ours.example", nil
}

func TestOAuthBearer(t *testing.T) {
	dialIn := startSubmission(t, &recorder{}, func(c *ServerConfig) { c.Tokens = bearer{} })
	message := func(as, token string) string {
		return b64("n," + as + ",\x01host=h\x01port=587\x01auth=Bearer " + token + "\x01\x01")
	}
	failed := "< 334 " + b64(`{"status":"invalid_token"}`)
	for _, test := range []struct {
		name, response string
		script         []string
	}{
		{"right", message("a=juliet@ours.example", "t0ken"), []string{"< 235"}},
		{"without a name", message("", "t0ken"), []string{"< 235"}},
		{"wrong token", message("", "other"), []string{failed, "> AQ==", "< 535 5.7.8"}},
		{"as somebody else", message("a=romeo@ours.example", "t0ken"), []string{failed, "> AQ==", "< 535"}},
		{"no token", message("", ""), []string{"< 501"}},
		{"odd token", message("", "a b"), []string{"< 501"}},
		{"no end", b64("n,,\x01auth=Bearer t0ken\x01"), []string{"< 501"}},
		{"bound", b64("p=tls-exporter,,\x01auth=Bearer t0ken\x01\x01"), []string{"< 501"}},
		{"long", message("", strings.Repeat("x", 8000)), []string{failed, "> AQ==", "< 535"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := dialIn(0)
			d.play("< 220", "> EHLO h", "<* 250", "> AUTH OAUTHBEARER "+test.response)
			d.play(test.script...)
		})
	}
}

func TestAuthHasADeadline(t *testing.T) {
	d := startSubmission(t, &recorder{}, func(c *ServerConfig) { c.Timeouts.Auth = 100 * time.Millisecond })(0)
	d.play("< 220", "> EHLO h", "<* 250", "> AUTH PLAIN", "< 334", `>"AAAA"`, "< 421 4.4.2", "< EOF")
}

func TestShutdownInAnExchange(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	srv, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
		*c = submission(*c, serverTLS)
		c.ImplicitTLS = true
	})
	d := dialTLS(t, addr, pool, 0)
	d.play("< 220", "> EHLO h", "<* 250", "> AUTH LOGIN", "< 334")
	shutdown(t, srv)
	d.play("< 421 4.3.2", "< EOF")
}

func TestSubmissionWants(t *testing.T) {
	serverTLS, _ := serverCertificate(t)
	good := submission(ServerConfig{Hostname: "h", Limits: DefaultLimits(), Handler: &recorder{}}, serverTLS)
	for name, change := range map[string]func(*ServerConfig){
		"authenticator":                     func(c *ServerConfig) { c.Auth = nil },
		"TLS configuration":                 func(c *ServerConfig) { c.TLS = nil },
		"belong to submission":              func(c *ServerConfig) { c.Kind = KindRelay },
		"AuthTries is 0, must be at least":  func(c *ServerConfig) { c.Limits.AuthTries = 0 },
		`unknown kind "submission "`:        func(c *ServerConfig) { c.Kind += " " },
		"submission needs an authenticator": func(c *ServerConfig) { c.Auth, c.RepairLF = nil, true },
	} {
		cfg := good
		change(&cfg)
		if _, err := NewServer(cfg); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	srv, err := NewServer(good)
	if err != nil {
		t.Fatal(err)
	}
	shutdown(t, srv)
}

// dialFrom connects from another loopback address.
func dialFrom(t testing.TB, from, addr string) *dialogue {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return newDialogue(t, conn)
}

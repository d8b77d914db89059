package smtpbridge

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// TestPeerAuth has an independent client log in, after STARTTLS and over TLS
// from the first octet, and send a message.
func TestPeerAuth(t *testing.T) {
	const juliet = "juliet@ours.example"
	serverTLS, pool := serverCertificate(t)
	certificate := serverTLS.Certificates[0]
	serverTLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &certificate, nil }}
	clientTLS := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	mechanisms := map[string]sasl.Client{
		"PLAIN":       sasl.NewPlainClient("", juliet, "wherefore"),
		"LOGIN":       sasl.NewLoginClient(juliet, "wherefore"),
		"OAUTHBEARER": sasl.NewOAuthBearerClient(&sasl.OAuthBearerOptions{Username: juliet, Token: "t0ken"}),
	}
	for name, mechanism := range mechanisms {
		for _, implicit := range []bool{false, true} {
			rec := &recorder{}
			auth := storedAuth(t)
			_, addr := startServer(t, rec, func(c *ServerConfig) {
				*c = submission(*c, serverTLS)
				c.Auth, c.Tokens, c.ImplicitTLS = auth, bearer{}, implicit
			})
			connect := smtp.DialStartTLS
			if implicit {
				connect = smtp.DialTLS
			}
			client, err := connect(addr, clientTLS)
			if err != nil {
				t.Fatal(err)
			}
			if ok, words := client.Extension("AUTH"); !ok || !strings.HasPrefix(words, mechScramPlus+" ") {
				t.Errorf("%s: offers %q", name, words)
			}
			if err := client.Auth(mechanism); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := client.SendMail(juliet, []string{"r@ours.example"}, strings.NewReader("Subject: x\r\n\r\nhello\r\n")); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := client.Quit(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := rec.got(); len(got) != 1 || got[0].client.User != juliet || !strings.HasSuffix(got[0].content, "\r\nSubject: x\r\n\r\nhello\r\n") {
				t.Errorf("%s: arrived %+v", name, got)
			}
		}
	}
	// The certificate that GetCertificate chose is what is bound to.
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
		*c = submission(*c, serverTLS)
		c.Auth, c.ImplicitTLS = storedAuth(t), true
	})
	c := &scramClient{header: "p=tls-server-end-point,,", binding: endPoint(&certificate), name: juliet, password: "wherefore"}
	if got := c.play(dialTLS(t, addr, pool, 0), mechScramPlus); got != "235" {
		t.Errorf("-PLUS: %s", got)
	}
}

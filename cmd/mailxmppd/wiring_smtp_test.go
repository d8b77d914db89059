package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mailxmppd/config"
)

// smtpSite is a gateway of which only the SMTP listeners are served, each on a
// socket of its own.
func smtpSite(t *testing.T, more string) (s *site, addrs []string) {
	t.Helper()
	s = newSite(t)
	s.more = more
	file := s.write(t)
	password := filepath.Join(s.dir, "password")
	writeFile(t, password, "secret")
	if code, _, stderr := call(t, "user", "add", "juliet", "--password-file", password, "--config", file); code != 0 {
		t.Fatal(stderr)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	st, err := openStore(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	p, err := assemble(t.Context(), cfg, st, quiet())
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, len(p.smtp))
	for i, l := range p.smtp {
		at := cfg.Listeners[i]
		path, local := at.UnixSocket()
		if !local {
			at.Address = "127.0.0.1:0"
		}
		ln, err := listenAt(at)
		if err != nil {
			t.Fatal(err)
		}
		if !local {
			path = ln.Addr().String()
		}
		addrs = append(addrs, path)
		go func() { served <- l.server.Serve(ln) }()
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		for _, l := range p.smtp {
			l.server.Shutdown(ctx) // cuts sessions off whose test has failed
		}
		for range p.smtp {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		p.xmpp.streams.Shutdown(ctx)
		p.xmpp.directory.Close()
		p.xmpp.prover.Close()
		p.client.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
		fresh := []byte("0123456789abcdef")
		st, err := openStore(ctx, cfg, quiet())
		if err != nil {
			t.Fatal(err)
		}
		key, err := st.Key(ctx, "auth-secret", fresh)
		if err := errors.Join(err, st.Close()); err != nil || len(key) != 32 {
			t.Errorf("the secret of the authenticator is not kept: %q, %v", key, err)
		}
	})
	return s, addrs
}

// dialogue sends lines, "TLS" for a handshake, and checks how each is answered:
// "line|beginning of the last line of the reply". A reply of "" is not waited for,
// "closed" is the end of the connection.
func dialogue(t *testing.T, s *site, addr string, implicit bool, lines ...string) (last string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { conn.Close() }()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	// Whose certificate it is, is not this test's question.
	secure := &tls.Config{InsecureSkipVerify: true}
	if implicit {
		conn = tls.Client(conn, secure)
	}
	in := bufio.NewReader(conn)
	for _, l := range lines {
		line, want, _ := strings.Cut(l, "|")
		switch {
		case line == "TLS":
			conn = tls.Client(conn, secure)
			in = bufio.NewReader(conn)
			continue
		case line != "":
			fmt.Fprintf(conn, "%s\r\n", line)
		}
		if want == "" {
			continue
		}
		var whole strings.Builder
		reply := ""
		for reply == "" || len(reply) > 3 && reply[3] == '-' {
			if reply, err = in.ReadString('\n'); err != nil {
				reply = "closed"
			}
			whole.WriteString(reply)
		}
		if !strings.HasPrefix(reply, want) {
			t.Fatalf("%s to %q: got %q, want %q", addr, line, reply, want)
		}
		last = whole.String()
	}
	return last
}

const (
	goodPlain = "AUTH PLAIN AGp1bGlldABzZWNyZXQ=|" // juliet, secret
	badPlain  = "AUTH PLAIN AGp1bGlldAB3cm9uZw==|" // juliet, wrong
)

// What the file says of submission reaches the listeners.
func TestSubmissionIsWired(t *testing.T) {
	s, addrs := smtpSite(t, `
[[listener]]
kind = "submission"
address = "127.0.0.1:0"
[[listener]]
kind = "submission"
address = "127.0.0.1:0"
tls = "implicit"
[limits]
messages_per_hour = 2
auth_tries = 1
auth_failures_user = 2
`)
	relay, startTLS, implicit := addrs[0], addrs[1], addrs[2]
	if got := dialogue(t, s, relay, false, "|220", "EHLO c.example|250"); strings.Contains(got, "AUTH") {
		t.Errorf("the relay listener offers AUTH:\n%s", got)
	}
	offers := dialogue(t, s, startTLS, false, "|220", "EHLO c.example|250", "MAIL FROM:<juliet@capulet.example>|530", "STARTTLS|220", "TLS", "EHLO c.example|250")
	if !strings.Contains(offers, "SCRAM-SHA-256-PLUS") || !strings.Contains(offers, "PLAIN") {
		t.Errorf("offers\n%s", offers)
	}
	dialogue(t, s, startTLS, false, "|220", "EHLO c.example|250", "STARTTLS|220", "TLS", "EHLO c.example|250",
		goodPlain+"235", "MAIL FROM:<romeo@capulet.example>|553 5.7.1", "MAIL FROM:<juliet+x@capulet.example>|250", "QUIT|221")
	// The hour's messages are the user's, not the listener's.
	dialogue(t, s, implicit, true, "|220", "EHLO c.example|250", goodPlain+"235", "MAIL FROM:<juliet@capulet.example>|450 4.7.1", "QUIT|221")
	// So are failures, and they end a session at the first.
	dialogue(t, s, startTLS, false, "|220", "EHLO c.example|250", "STARTTLS|220", "TLS", "EHLO c.example|250", badPlain+"535", "|421", "|closed")
	dialogue(t, s, implicit, true, "|220", "EHLO c.example|250", badPlain+"535")
	dialogue(t, s, implicit, true, "|220", "EHLO c.example|250", goodPlain+"454")
}

// And so does what it says of neighbours.
func TestNeighboursAreWired(t *testing.T) {
	s, addrs := smtpSite(t, `
[[listener]]
kind = "relay"
address = "127.0.0.1:0"
xclient = ["127.0.0.0/8"]
xforward = ["127.0.0.1"]
[[listener]]
kind = "relay"
address = "127.0.0.1:0"
proxies = ["127.0.0.0/8"]
[[listener]]
kind = "submission"
address = "127.0.0.1:0"
[limits]
connections_per_minute = 2
`)
	for _, word := range []string{"XCLIENT", "XFORWARD"} {
		if got := dialogue(t, s, addrs[0], false, "|220", "EHLO c.example|250"); strings.Contains(got, word) {
			t.Errorf("%s is offered to everybody", word)
		}
		if got := dialogue(t, s, addrs[1], false, "|220", "EHLO c.example|250"); !strings.Contains(got, word) {
			t.Errorf("%s is not offered:\n%s", word, got)
		}
	}
	dialogue(t, s, addrs[1], false, "|421 4.7.1") // the third within a minute
	// The first listener trusts this address: it comes as often as it likes.
	for range 3 {
		dialogue(t, s, addrs[0], false, "|220")
	}
	dialogue(t, s, addrs[2], false, "PROXY TCP4 192.0.2.1 192.0.2.2 1024 25|220", "EHLO c.example|250",
		"MAIL FROM:<romeo@montague.example>|250", "RCPT TO:<x@verona.example>|550 5.7.1 relaying to verona.example is not permitted from 192.0.2.1")
	dialogue(t, s, addrs[2], false, "EHLO c.example|closed")
}

// TestLocalSockets: who may open a socket in the file system may relay, by SMTP
// and by LMTP; its mode is the setting's.
func TestLocalSockets(t *testing.T) {
	_, addrs := smtpSite(t, `[[listener]]
kind = "submission"
address = "127.0.0.1:0"
[[listener]]
kind = "relay"
address = "unix:relay"
tls = "none"
[[listener]]
kind = "lmtp"
address = "unix:lmtp"
tls = "none"
mode = "0600"
[limits]
per_address = 1
`)
	for i, want := range []struct {
		hello string
		mode  os.FileMode
	}{{"EHLO mta.example", 0o660}, {"LHLO mta.example", 0o600}} {
		info, err := os.Stat(addrs[len(addrs)-2+i])
		if err != nil || info.Mode().Perm() != want.mode {
			t.Fatalf("%v, %v", info, err)
		}
		for range 2 { // no address, so no limit for one
			c, err := net.Dial("unix", addrs[len(addrs)-2+i])
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(10 * time.Second))
			in := textproto.NewReader(bufio.NewReader(c))
			for _, line := range []string{"", want.hello, "MAIL FROM:<a@far.example>", "RCPT TO:<b@elsewhere.example>"} {
				if line != "" {
					fmt.Fprintf(c, "%s\r\n", line)
				}
				if _, text, err := in.ReadResponse(2); err != nil {
					t.Errorf("%s: %v %s", line, err, text)
				}
			}
		}
	}
}

// TestTokensAreWired: with [oauth] submission offers OAUTHBEARER and takes what
// the key has signed.
func TestTokensAreWired(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys.pem")
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	s, addrs := smtpSite(t, fmt.Sprintf(`[[listener]]
kind = "submission"
address = "127.0.0.1:0"
tls = "implicit"
[oauth]
keys = %q
issuer = "id"
audience = "mail"
`, file))
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"EdDSA"}`)) + "." +
		encode(fmt.Appendf(nil, `{"iss":"id","aud":["mail"],"exp":%d,"sub":"juliet"}`, time.Now().Add(time.Hour).Unix()))
	token := func(signature []byte) string {
		return base64.StdEncoding.EncodeToString([]byte("n,,\x01auth=Bearer " + text + "." + encode(signature) + "\x01\x01"))
	}
	at := addrs[len(addrs)-1]
	good := ed25519.Sign(private, []byte(text))
	const own = "capulet.example"
	dialogue(t, s, at, true, "|220", "EHLO c|250", "AUTH OAUTHBEARER "+token(good)+"|235",
		"MAIL FROM:<juliet@"+own+">|250", "RSET|250", "MAIL FROM:<romeo@"+own+">|553")
	good[0] ^= 1
	dialogue(t, s, at, true, "|220", "EHLO c|250", "AUTH OAUTHBEARER "+token(good)+"|334", "AQ==|535")
}

package smtpbridge

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"

	"mailxmppd/mail"
)

// peerSamples are contents that must arrive octet by octet.
func peerSamples() map[string]string {
	return map[string]string{
		"plain":       "Subject: x\r\n\r\nhello\r\n",
		"empty":       "",
		"no body":     "Subject: x\r\n",
		"no header":   "\r\njust text\r\n",
		"dots":        ".\r\n..\r\n.x\r\n\r\n.\r\n",
		"8-bit":       "Subject: \xff\r\n\r\n\x80\x81\xfe\r\n",
		"NUL":         "Subject: x\r\n\r\n\x00\r\n",
		"long line":   "Subject: x\r\n\r\n" + strings.Repeat("x", 998) + "\r\n",
		"longer line": "Subject: x\r\n\r\n" + strings.Repeat("x", 100_000) + "\r\n",
		"in a file":   "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 20_000),
		"only ends":   strings.Repeat("\r\n", 1000),
	}
}

// TestPeerSMTP has an independent client send to us, in plain text, after
// STARTTLS and over TLS from the first octet.
func TestPeerSMTP(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	clientTLS := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	ways := []struct {
		name    string
		change  func(*ServerConfig)
		connect func(addr string) (*smtp.Client, error)
		tls     string
	}{
		{"plain", nil, smtp.Dial, ""},
		{"starttls", func(c *ServerConfig) { c.TLS = serverTLS }, func(addr string) (*smtp.Client, error) { return smtp.DialStartTLS(addr, clientTLS) }, "TLS1.3 TLS_"},
		{"implicit TLS", func(c *ServerConfig) { c.TLS, c.ImplicitTLS = serverTLS, true }, func(addr string) (*smtp.Client, error) { return smtp.DialTLS(addr, clientTLS) }, "TLS1.3 TLS_"},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			_, addr := startServer(t, rec, way.change)
			client, err := way.connect(addr)
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if offered, _ := client.Extension("STARTTLS"); offered {
				t.Error("STARTTLS offered")
			}
			for name, content := range peerSamples() {
				checkPeerMessage(t, client, rec, name, content)
				if got := rec.got(); !strings.HasPrefix(got[len(got)-1].message.Origin.TLS, way.tls) || (way.tls == "") != (got[0].client.TLS == "") {
					t.Errorf("TLS %q", got[len(got)-1].message.Origin.TLS)
				}
			}
			if err := client.Quit(); err != nil {
				t.Error(err)
			}
		})
	}
}

func checkPeerMessage(t *testing.T, client *smtp.Client, rec *recorder, name, content string) {
	t.Helper()
	if err := client.Mail("a@b.example", &smtp.MailOptions{Body: smtp.Body8BitMIME, Size: int64(len(content)), UTF8: true, Return: smtp.DSNReturnFull, EnvelopeID: "id+1"}); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	options := &smtp.RcptOptions{Notify: []smtp.DSNNotify{smtp.DSNNotifyFailure, smtp.DSNNotifyDelayed}, OriginalRecipientType: smtp.DSNAddressTypeRFC822, OriginalRecipient: "r=x@ours.example"}
	if err := client.Rcpt("r@ours.example", options); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	w, err := client.Data()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if err := w.Close(); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	got := rec.got()
	last := got[len(got)-1]
	want := content
	if want == "" {
		want = "\r\n" // this client's writer ends the line that is not there
	}
	if last.content != want {
		t.Errorf("%s: %d octets arrived, want %d", name, len(last.content), len(want))
	}
	env := last.message.Envelope
	r := env.Recipients[0]
	if env.EnvelopeID != "id+1" || env.Return != "FULL" || !env.SMTPUTF8 || env.Body != mail.Body8BitMIME || r.Notify != mail.NotifyFailure|mail.NotifyDelay || r.Original != "RFC822;r=x@ours.example" {
		t.Errorf("%s: envelope %+v", name, env)
	}
}

// TestPeerLMTP has an independent LMTP client get its verdicts per recipient,
// over TCP and over a local socket.
func TestPeerLMTP(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			rec := refusingRecorder()
			rec.accept = verdictPerRecipient
			srv, err := NewServer(ServerConfig{Kind: KindLMTP, Hostname: "mx.ours.example", Limits: DefaultLimits(), Handler: rec})
			if err != nil {
				t.Fatal(err)
			}
			addr := "127.0.0.1:0"
			if network == "unix" {
				addr = t.TempDir() + "/s"
			}
			ln, err := net.Listen(network, addr)
			if err != nil {
				t.Fatal(err)
			}
			serve(t, srv, ln)
			conn, err := net.Dial(network, ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			client := smtp.NewClientLMTP(conn)
			defer client.Close()
			checkPeerVerdicts(t, client)
			got := rec.got()
			if len(got) != 1 || !got[0].perRcpt || got[0].message.Origin.Transport != "lmtp" || !got[0].client.LMTP {
				t.Fatalf("arrived: %+v", got)
			}
			if remote := got[0].message.Origin.Remote; network == "unix" && remote != "local" || network == "tcp" && remote != conn.LocalAddr().String() {
				t.Errorf("remote %q", remote)
			}
		})
	}
}

func checkPeerVerdicts(t *testing.T, client *smtp.Client) {
	t.Helper()
	if err := client.Mail("a@b.example", nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{"r@ours.example", "unknown@ours.example", "full@ours.example", "s@ours.example"} {
		if err := client.Rcpt(r, nil); (err != nil) != strings.HasPrefix(r, "unknown") {
			t.Fatal(r, err)
		}
	}
	w, err := client.Data()
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("Subject: x\r\n\r\nhello\r\n"))
	accepted, err := w.CloseWithLMTPResponse()
	refused, ok := errors.AsType[smtp.LMTPDataError](err)
	if !ok || len(refused) != 1 || refused["full@ours.example"].Code != 452 || refused["full@ours.example"].EnhancedCode != (smtp.EnhancedCode{4, 3, 1}) {
		t.Errorf("refused: %v", err)
	}
	if len(accepted) != 2 || !strings.HasSuffix(accepted["r@ours.example"].StatusText, "for r") || !strings.HasSuffix(accepted["s@ours.example"].StatusText, "for s") {
		t.Errorf("accepted: %+v", accepted)
	}
}

// TestStartTLS: nothing said in the clear counts after it.
func TestStartTLS(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	clientTLS := &tls.Config{RootCAs: pool, ServerName: "localhost"}
	rec := &recorder{}
	srv, addr := startServer(t, rec, func(c *ServerConfig) { c.TLS = serverTLS })
	upgrade := func(d *dialogue) *dialogue {
		conn := tls.Client(d.conn, clientTLS)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		return newDialogue(t, conn)
	}
	t.Run("state is forgotten", func(t *testing.T) {
		d := dial(t, addr)
		d.play("< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example>", "< 250", "> STARTTLS", "< 220 2.0.0")
		s := upgrade(d)
		s.play("> MAIL FROM:<a@b.example>", "< 503", "> RCPT TO:<r@ours.example>", "< 503", "> EHLO h", "<* 250", "> RCPT TO:<r@ours.example>", "< 503", "> STARTTLS", "< 502")
		s.conn.Close()
	})
	t.Run("injected command in the same packet", func(t *testing.T) {
		d := dial(t, addr)
		d.play("< 220", "> EHLO h", "<* 250", `>"STARTTLS\r\nMAIL FROM:<evil@b.example>\r\n"`, "< 421 4.7.0 commands after STARTTLS", "< EOF")
	})
	t.Run("injected command before the handshake", func(t *testing.T) {
		d := dial(t, addr)
		d.play("< 220", "> EHLO h", "<* 250", "> STARTTLS", "< 220", "> MAIL FROM:<evil@b.example>")
		d.notSMTP()
	})
	t.Run("failed handshake", func(t *testing.T) {
		d := dial(t, addr)
		d.play("< 220", "> EHLO h", "<* 250", "> STARTTLS", "< 220")
		if err := tls.Client(d.conn, &tls.Config{ServerName: "localhost"}).Handshake(); err == nil {
			t.Fatal("untrusted certificate taken")
		}
		d.conn.Write([]byte("EHLO h\r\n"))
		d.notSMTP()
	})
	t.Run("with an argument", func(t *testing.T) {
		d := dial(t, addr)
		d.play("< 220", "> STARTTLS now", "< 501", "> EHLO h", "<* 250")
	})
	shutdown(t, srv)
	if len(rec.got()) != 0 {
		t.Error("a message arrived")
	}
}

// notSMTP reads to the end of the connection and finds no reply, whatever else
// may come, such as a TLS alert.
func (d *dialogue) notSMTP() {
	d.t.Helper()
	var all bytes.Buffer
	_, err := all.ReadFrom(d.r)
	if timedOut(err) || bytes.Contains(all.Bytes(), []byte("\r\n")) {
		d.t.Errorf("got %q, %v, want the end of the connection", all.Bytes(), err)
	}
}

func TestPlainTextToImplicitTLS(t *testing.T) {
	serverTLS, _ := serverCertificate(t)
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.TLS, c.ImplicitTLS = serverTLS, true })
	d := dial(t, addr)
	d.play("> EHLO h")
	d.notSMTP()
}

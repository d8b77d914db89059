package smtpbridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"mailxmppd/mail"
)

// TestCutAtEveryOctet: a session that ends anywhere leaves a whole message or
// none, and half a command has no effect.
func TestCutAtEveryOctet(t *testing.T) {
	const begin = "EHLO h\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<r@ours.example>\r\n"
	const content = "Subject: x\r\n\r\n.\r\nhello\r\n"
	for way, wire := range map[string]string{
		"DATA": begin + "DATA\r\n" + strings.ReplaceAll(content, "\r\n.", "\r\n..") + ".\r\n",
		"BDAT": begin + fmt.Sprintf("BDAT 10\r\n%sBDAT %d LAST\r\n%s", content[:10], len(content)-10, content[10:]),
	} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			_, addr := startServer(t, rec, nil)
			for at := range len(wire) + 1 {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := io.WriteString(conn, wire[:at]); err != nil {
					t.Fatalf("cut at %d: %v", at, err)
				}
				conn.(*net.TCPConn).CloseWrite()
				if _, err := io.Copy(io.Discard, conn); err != nil { // until the session is over
					t.Fatalf("cut at %d: %v", at, err)
				}
				got := rec.got()
				if want := at == len(wire); (len(got) == 1) != want || len(got) > 0 && got[0].content != content {
					t.Fatalf("cut at %d of %d: arrived %+v", at, len(wire), got)
				}
			}
		})
	}
}

// TestStartTLSAttacks: what comes with STARTTLS or in place of a handshake is
// never taken for a command, neither in the clear nor over TLS.
func TestStartTLSAttacks(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	const evil = "EHLO h\r\nMAIL FROM:<evil@b.example>\r\nRCPT TO:<r@ours.example>\r\nDATA\r\nx\r\n.\r\n"
	tests := []struct {
		name, with, after string // sent in one packet with STARTTLS, and after its 220
		refused           string
		client            *tls.Config // shakes hands in the end, and must not get in
	}{
		{"a command with it", "NOOP\r\n", "", "< 421 4.7.0 commands after STARTTLS", nil},
		{"a session with it", evil, "", "< 421 4.7.0 commands after STARTTLS", nil},
		{"one octet with it", "\x16", "", "< 421 4.7.0 commands after STARTTLS", nil},
		{"a line end with it", "\r\n", "", "< 421 4.7.0 commands after STARTTLS", nil},
		{"a session in place of the handshake", "", evil, "", nil},
		{"an empty line in place of the handshake", "", "\r\n", "", nil},
		{"SSL 2.0", "", "\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10" + strings.Repeat("x", 37), "", nil},
		{"a record that is too long", "", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 70_000), "", nil},
		{"half a handshake", "", "\x16\x03\x01\x00\x40\x01\x00\x00\x3c\x03\x03", "", nil},
		{"an alert", "", "\x15\x03\x01\x00\x02\x02\x28", "", nil},
		{"TLS 1.0", "", "", "", &tls.Config{RootCAs: pool, ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}},
		{"a client that does not trust us", "", "", "", &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			srv, addr := startServer(t, rec, func(c *ServerConfig) { c.TLS = serverTLS })
			d := dial(t, addr)
			d.play("< 220", "> EHLO h", "<* 250")
			d.send("STARTTLS\r\n" + test.with)
			if test.refused != "" {
				d.play(test.refused, "< EOF")
			} else {
				d.play("< 220 2.0.0")
				if test.client != nil {
					// TLS 1.3 has the client done before the server has heard.
					if err := tls.Client(d.conn, test.client).Handshake(); err == nil {
						t.Fatal("got in")
					}
				}
				go func() {
					io.WriteString(d.conn, test.after+evil)
					d.conn.(*net.TCPConn).CloseWrite()
				}()
				d.notSMTP()
			}
			shutdown(t, srv)
			if got := rec.got(); len(got) != 0 {
				t.Errorf("arrived: %+v", got)
			}
			if c := srv.Counts(); c.BrokenOff+c.HandshakesFailed != 1 {
				t.Errorf("not counted: %+v", c)
			}
		})
	}
}

// TestSmugglingBySubmission: a submission server may repair bare LFs, and must
// not make the end of a message of them. Whatever it does, there is one message
// at most, and it is not the smuggled one.
func TestSmugglingBySubmission(t *testing.T) {
	const evil = "MAIL FROM:<evil@smuggled.example>\r\nRCPT TO:<victim@ours.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"
	for _, repair := range []bool{false, true} {
		rec := &recorder{}
		dialIn := startSubmission(t, rec, func(c *ServerConfig) { c.RepairLF, c.Limits.Errors = repair, 1000 })
		d := dialIn(0)
		d.play("< 220", "> EHLO h", "<* 250", "> AUTH "+plain("juliet@ours.example", "wherefore"), "< 235")
		for _, form := range []string{"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\r\n.\n", "\r\n\n.\r\n", "\n\n.\n\n", "\n..\n", "\n.\n.\r\n"} {
			content := "From: juliet@ours.example\r\n\r\nhello" + form + evil + "\r\n.\r\n"
			from := strings.Index(content, form)
			for at := from - 1; at <= from+len(form)+1; at++ {
				before := len(rec.got())
				d.play("> MAIL FROM:<juliet@ours.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354")
				d.send(content[:at]) // a TLS record each
				d.send(content[at:])
				line, err := d.r.ReadString('\n')
				if err != nil {
					t.Fatalf("%q cut at %d: %v", form, at, err)
				}
				d.play("> NOOP", "< 250 2.0.0 ok")
				got := rec.got()[before:]
				accepted := strings.HasPrefix(line, "250 ")
				if !accepted && !strings.HasPrefix(line, "550 5.6.0") || accepted && !repair || len(got) > 1 || accepted != (len(got) == 1) {
					t.Fatalf("repair %v, %q cut at %d: %q, %d messages", repair, form, at, line, len(got))
				}
				if accepted && (got[0].message.Envelope.Sender.Local != "juliet" || !strings.Contains(got[0].content, evil) || strings.ContainsAny(strings.ReplaceAll(got[0].content, "\r\n", ""), "\r\n")) {
					t.Fatalf("%q cut at %d: arrived %q", form, at, got[0].content)
				}
			}
		}
	}
}

// TestBDATRaces: what happens beside a chunk does not make a message of it, or
// two.
func TestBDATRaces(t *testing.T) {
	t.Run("the client goes while the message is handed over", func(t *testing.T) {
		entered, release := make(chan struct{}), make(chan struct{})
		rec := &recorder{accept: func(context.Context, *mail.Message) []mail.Verdict {
			close(entered)
			<-release
			return []mail.Verdict{{}}
		}}
		srv, addr := startServer(t, rec, nil)
		d := dial(t, addr)
		d.play(toBDAT...)
		d.send("BDAT 1 LAST\r\nxMAIL FROM:<c@d.example>\r\nRCPT TO:<r@ours.example>\r\nBDAT 9 LAST\r\nhalf")
		<-entered
		d.conn.Close()
		close(release)
		shutdown(t, srv)
		if got := rec.got(); len(got) != 1 || got[0].content != "x" {
			t.Errorf("arrived: %+v", got)
		}
	})
	t.Run("shutdown between chunks", func(t *testing.T) {
		rec := &recorder{}
		srv, addr := startServer(t, rec, nil)
		d := dial(t, addr)
		d.play(toBDAT...)
		d.play(`>"BDAT 1\r\nx"`, "< 250")
		shutdown(t, srv)
		d.play("< 421 4.3.2", "< EOF")
		if got := rec.got(); len(got) != 0 {
			t.Errorf("arrived: %+v", got)
		}
	})
	t.Run("shutdown within the last chunk", func(t *testing.T) {
		rec := &recorder{}
		srv, addr := startServer(t, rec, nil)
		d := dial(t, addr)
		d.play(toBDAT...)
		d.play(`>"BDAT 1\r\nx"`, "< 250", `>"BDAT 4 LAST\r\nab"`)
		done := make(chan error, 1)
		// Whether the session is within the chunk yet or still before it: the
		// message is taken whole or refused.
		go func() { done <- srv.Shutdown(context.Background()) }()
		<-srv.stopping
		// Refused before all of it is there, the rest may find the connection reset,
		// and the reply gone with it.
		line := "421 4.3.2"
		if _, err := io.WriteString(d.conn, "cd"); err == nil {
			if reply, err := d.r.ReadString('\n'); err == nil {
				line = reply
			}
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got := rec.got()
		if strings.HasPrefix(line, "250 ") != (len(got) == 1) || len(got) == 1 && got[0].content != "xabcd" || len(got) == 0 && !strings.HasPrefix(line, "421 4.3.2") {
			t.Errorf("%q, arrived: %+v", line, got)
		}
	})
	t.Run("many sessions, RSET and chunks in turn", func(t *testing.T) {
		rec := &recorder{}
		_, addr := startServer(t, rec, nil)
		const sessions = 8
		errs := make(chan error, sessions)
		for i := range sessions {
			go func() { errs <- chunkAway(addr, i) }()
		}
		for range sessions {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		for _, m := range rec.got() {
			if who, rest, _ := strings.Cut(m.content, " "); strings.Trim(rest, who) != "" || len(rest) != 5000 {
				t.Errorf("mixed up: %.60q", m.content)
			}
		}
		if n := len(rec.got()); n != sessions*20 {
			t.Errorf("%d messages", n)
		}
	})
}

// chunkAway sends 20 messages in pipelined chunks, each after one that it gives
// up.
func chunkAway(addr string, session int) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	d := newDialogue(nil, conn)
	mark := string(rune('a' + session))
	begin := "MAIL FROM:<a@b.example>\r\nRCPT TO:<r@ours.example>\r\n"
	message := begin + "BDAT 2\r\n" + mark + " BDAT 5000 LAST\r\n" + strings.Repeat(mark, 5000)
	go io.WriteString(conn, "HELO h\r\n"+strings.Repeat(begin+"BDAT 3\r\nnonRSET\r\n"+message, 20)+"QUIT\r\n")
	for {
		line, err := d.r.ReadString('\n')
		switch {
		case err != nil:
			return err
		case strings.HasPrefix(line, "221"):
			return nil
		case line[0] != '2':
			return fmt.Errorf("session %d: %q", session, line)
		}
	}
}

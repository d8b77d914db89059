package smtpbridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
)

var toData = []string{"< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354"}

func TestConnectionLimits(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*ServerLimits)
		want   string
	}{
		"in all":      {func(l *ServerLimits) { l.Connections = 2 }, "< 421 4.3.2 too many connections"},
		"per address": {func(l *ServerLimits) { l.PerAddress = 2 }, "< 421 4.7.0 too many connections from"},
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := startServer(t, &recorder{}, func(c *ServerConfig) { test.change(&c.Limits) })
			first, second := dial(t, addr), dial(t, addr)
			first.play("< 220")
			second.play("< 220")
			for range 3 {
				dial(t, addr).play(test.want, "< EOF")
			}
			second.play("> QUIT", "< 221", "< EOF")
			// The place is free again once the session is over, a moment after
			// its connection is.
			for deadline := time.Now().Add(10 * time.Second); ; {
				line, err := dial(t, addr).r.ReadString('\n')
				if err == nil && strings.HasPrefix(line, "220") {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("no place: %q, %v", line, err)
				}
			}
			first.play("> NOOP", "< 250")
		})
	}
}

func TestPerAddressCountsClientsApart(t *testing.T) {
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.Limits.PerAddress = 1 })
	for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		newDialogue(t, conn).play("< 220")
	}
	for ip, want := range map[string]string{"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1": "fe80::/64"} {
		if got := clientKey(addrPort(&net.TCPAddr{IP: net.ParseIP(ip), Port: 1})); got != want {
			t.Errorf("%s is counted as %q, want %q", ip, got, want)
		}
	}
	if got := clientKey(addrPort(&net.UnixAddr{Name: "/s"})); got != "" {
		t.Errorf("a local socket is counted as %q", got)
	}
}

func TestSessionLimits(t *testing.T) {
	message := append(toData[1:], "> .", "< 250 2.0.0")
	tests := []struct {
		name   string
		change func(*ServerLimits)
		script []string
	}{
		{"commands", func(l *ServerLimits) { l.Commands = 3 }, []string{"> NOOP", "< 250", "> NOOP", "< 250", "> NOOP", "< 250", "> NOOP", "< 421 4.7.0 too many commands", "< EOF"}},
		{"commands are counted from the last message", func(l *ServerLimits) { l.Commands = 4 }, append(append(append([]string{}, message...), message...), message...)},
		{"errors", func(l *ServerLimits) { l.Errors = 2 }, []string{"> A", "< 500", "> B", "< 500", "> C", "< 421 4.7.0 too many errors", "< EOF"}},
		{"malformed commands", func(l *ServerLimits) { l.Errors = 1 }, []string{"> ", "< 500", "> ", "< 421 4.7.0 too many errors", "< EOF"}},
		{"refused recipients", func(l *ServerLimits) { l.Recipients, l.Errors = 2, 1 }, []string{"> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<unknown@ours.example>", "< 550", "> RCPT TO:<unknown@ours.example>", "< 550", "> RCPT TO:<unknown@ours.example>", "< 421 4.7.0 too many refused", "< EOF"}},
		{"recipients", func(l *ServerLimits) { l.Recipients = 1 }, []string{"> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<a@ours.example>", "< 250", "> RCPT TO:<b@ours.example>", "< 452 4.5.3", "> DATA", "< 354", "> .", "< 250"}},
		{"size, and the session goes on", func(l *ServerLimits) { l.MaxSize = 1000 }, []string{"> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<a@ours.example>", "< 250", "> DATA", "< 354", `>"` + strings.Repeat(`x\r\n`, 400) + `.\r\n"`, "< 552 5.3.4", "> MAIL FROM:<>", "< 250"}},
		{"pipelined commands beyond the buffer", nil, []string{`>"` + strings.Repeat(`NOOP\r\n`, 3000) + `QUIT\r\n"`, "< 250", "< 250"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, addr := startServer(t, refusingRecorder(), func(c *ServerConfig) {
				if test.change != nil {
					test.change(&c.Limits)
				}
			})
			d := dial(t, addr)
			d.play("< 220")
			d.play(test.script...)
		})
	}
}

// TestCommandsBehindContent: what follows the end of the content in the same
// packets, more than a session's small buffer holds, is read in order.
func TestCommandsBehindContent(t *testing.T) {
	rec := &recorder{}
	_, addr := startServer(t, rec, nil)
	d := dial(t, addr)
	d.play(toData...)
	go d.conn.Write([]byte("x\r\n.\r\n" + strings.Repeat("NOOP\r\n", 5000) + "MAIL FROM:<>\r\nRCPT TO:<r@ours.example>\r\nDATA\r\n"))
	for range 5003 {
		d.expect("250 ")
	}
	d.play("< 354", "> y", "> .", "< 250", "> NOOP", "< 250")
	if got := rec.got(); len(got) != 2 || got[0].content != "x\r\n" || got[1].content != "y\r\n" {
		t.Errorf("arrived: %+v", got)
	}
}

func TestNoVerdictIsNoAcceptance(t *testing.T) {
	for _, n := range []int{0, 2} {
		rec := &recorder{accept: func(context.Context, *mail.Message) []mail.Verdict { return make([]mail.Verdict, n) }}
		_, addr := startServer(t, rec, nil)
		d := dial(t, addr)
		d.play(toData...)
		d.play("> .", "< 451 4.3.0", "> NOOP", "< 250")
	}
}

func TestAcceptHasADeadline(t *testing.T) {
	rec := &recorder{accept: func(ctx context.Context, _ *mail.Message) []mail.Verdict {
		<-ctx.Done()
		return []mail.Verdict{{Failure: mail.AsFailure(ctx.Err())}}
	}}
	_, addr := startServer(t, rec, func(c *ServerConfig) { c.Timeouts.Accept = 50 * time.Millisecond })
	d := dial(t, addr)
	d.play(toData...)
	d.play("> .", "< 451 4.3.0")
}

func TestShutdownOfIdleSessions(t *testing.T) {
	srv, addr := startServer(t, &recorder{}, nil)
	fresh, inTransaction := dial(t, addr), dial(t, addr)
	fresh.play("< 220")
	inTransaction.play("< 220", "> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250")
	shutdown(t, srv)
	fresh.play("< 421 4.3.2", "< EOF")
	inTransaction.play("< 421 4.3.2", "< EOF")
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("still listening")
	}
}

func TestShutdownInTheHandshake(t *testing.T) {
	serverTLS, _ := serverCertificate(t)
	srv, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.TLS, c.ImplicitTLS = serverTLS, true })
	silent := dial(t, addr)
	silent.send("\x16") // the first octet of a handshake
	waitForSession(t, srv)
	shutdown(t, srv)
	silent.notSMTP()
}

func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// TestShutdownLetsMessagesFinish: one session is in the middle of its content,
// one in the handler; both get their answer, and then 421.
func TestShutdownLetsMessagesFinish(t *testing.T) {
	entered, release := make(chan struct{}, 2), make(chan struct{})
	rec := &recorder{accept: func(context.Context, *mail.Message) []mail.Verdict {
		entered <- struct{}{}
		<-release
		return []mail.Verdict{{Text: "queued"}}
	}}
	srv, addr := startServer(t, rec, nil)
	inContent, inHandler := dial(t, addr), dial(t, addr)
	inContent.play(toData...)
	inContent.play("> half")
	inHandler.play(toData...)
	inHandler.play("> .")
	<-entered
	done := make(chan error, 1)
	go func() { done <- srv.Shutdown(context.Background()) }()
	<-srv.stopping
	inContent.play("> the other half", "> .")
	<-entered
	close(release)
	inHandler.play("< 250 2.0.0 queued", "< 421 4.3.2", "< EOF")
	inContent.play("< 250 2.0.0 queued", "< 421 4.3.2", "< EOF")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := rec.got(); len(got) != 2 {
		t.Errorf("%d messages arrived", len(got))
	}
}

// TestShutdownCutsOff: sessions that do not finish in time are closed, and
// handlers told.
func TestShutdownCutsOff(t *testing.T) {
	entered := make(chan struct{})
	rec := &recorder{accept: func(ctx context.Context, _ *mail.Message) []mail.Verdict {
		close(entered)
		<-ctx.Done()
		return []mail.Verdict{{Failure: mail.AsFailure(ctx.Err())}}
	}}
	srv, addr := startServer(t, rec, nil)
	inContent, inHandler := dial(t, addr), dial(t, addr)
	inContent.play(toData...)
	inContent.play("> half")
	inHandler.play(toData...)
	inHandler.play("> .")
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := srv.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
	for name, d := range map[string]*dialogue{"in content": inContent, "in handler": inHandler} {
		// The handler's refusal may still get through.
		all, err := io.ReadAll(d.r)
		if timedOut(err) || strings.Contains(string(all), "250 ") {
			t.Errorf("%s: got %q, %v", name, all, err)
		}
	}
}

// brokenListener fails for a while, as when file descriptors run out, then
// works.
type brokenListener struct {
	net.Listener
	failures int
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if l.failures--; l.failures >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

func TestServeOutlastsAcceptFailures(t *testing.T) {
	srv, err := NewServer(ServerConfig{Kind: KindRelay, Hostname: "h", Limits: DefaultLimits(), Handler: &recorder{}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, srv, &brokenListener{ln, 5})
	dial(t, ln.Addr().String()).play("< 220")
}

// TestManySessions takes in messages on many sessions at once.
func TestManySessions(t *testing.T) {
	rec := &recorder{}
	_, addr := startServer(t, rec, nil)
	const sessions, messages = 20, 10
	done := make(chan error, sessions)
	for i := range sessions {
		go func() { done <- sendMany(addr, i, messages) }()
	}
	for range sessions {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	seen := map[string]int{}
	for _, a := range rec.got() {
		seen[a.content]++
	}
	if len(seen) != sessions*messages || len(rec.got()) != sessions*messages {
		t.Errorf("%d messages, %d different ones arrived, want %d", len(rec.got()), len(seen), sessions*messages)
	}
}

func sendMany(addr string, session, messages int) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	d := newDialogue(nil, conn)
	reply := func(want string) error {
		line, err := d.r.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, want) {
			return fmt.Errorf("session %d: want %s, got %q, %v", session, want, line, err)
		}
		return nil
	}
	fmt.Fprint(conn, "HELO h\r\n")
	err = errors.Join(reply("220"), reply("250"))
	for i := 0; i < messages && err == nil; i++ {
		fmt.Fprint(conn, "MAIL FROM:<>\r\nRCPT TO:<r@ours.example>\r\nDATA\r\n")
		if err = errors.Join(reply("250"), reply("250"), reply("354")); err == nil {
			fmt.Fprintf(conn, "%d %d %s\r\n.\r\n", session, i, strings.Repeat("x", 10_000))
			err = reply("250")
		}
	}
	return err
}

// discarder is a Handler that takes everything and keeps nothing.
type discarder struct{}

func (discarder) Sender(context.Context, mail.Client, mail.Envelope) *mail.Failure { return nil }

func (discarder) Recipient(context.Context, mail.Client, mail.Envelope, mail.Recipient) *mail.Failure {
	return nil
}

func (discarder) Accept(context.Context, mail.Client, *mail.Message, bool) []mail.Verdict {
	return []mail.Verdict{{}}
}

// BenchmarkServer takes in messages of 10 KB on 16 sessions, the client's work
// included.
func BenchmarkServer(b *testing.B) {
	srv, err := NewServer(ServerConfig{Kind: KindRelay, Hostname: "h", Limits: DefaultLimits(), Handler: discarder{}})
	if err != nil {
		b.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	serve(b, srv, ln)
	b.ReportAllocs()
	b.ResetTimer()
	const sessions = 16
	done := make(chan error, sessions)
	for i := range sessions {
		go func() { done <- sendMany(ln.Addr().String(), i, (b.N+sessions-1)/sessions) }()
	}
	for range sessions {
		if err := <-done; err != nil {
			b.Error(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

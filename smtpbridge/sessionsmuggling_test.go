package smtpbridge

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// pipeListener hands out in-memory connections, on which each write of the
// client is one read of the server.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (l *pipeListener) dial() net.Conn {
	client, server := net.Pipe()
	l.conns <- server
	return client
}

// TestSmuggling counts what arrives, not what is answered. An honest MTA sends
// on content that an attacker wrote: a second message behind something that
// might be taken for the end of the first. Only CRLF "." CRLF ends content, so
// that the second message never arrives, and never as a command's effect; nor
// does the first, which no two programs would read alike. Each is sent whole
// and cut in two at every octet.
func TestSmuggling(t *testing.T) {
	const evil = "MAIL FROM:<evil@smuggled.example>\r\nRCPT TO:<victim@ours.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nx"
	forms := []string{
		"\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r.\n", "\n.\r",
		"\r\r\n.\n", "\r\r\n.\r", "\r\n.\r\r\n", "\r\n\n.\r\n", "\n\n.\n\n", "\r\n.\r\r", "\x00\n.\n", "\n", "\r", "\n\r", "\r\n\r.\r\n",
	}
	for _, kind := range []Kind{KindRelay, KindLMTP} {
		for _, form := range forms {
			t.Run(fmt.Sprintf("%s %q", kind, form), func(t *testing.T) {
				t.Parallel()
				content := "Subject: x\r\n\r\nhello" + form + evil + "\r\n.\r\n"
				first, step := 0, 1
				if kind != KindRelay { // the same reader: where it could matter
					first, step = strings.Index(content, "hello"), 3
				}
				for at := first; at < len(content); at += step {
					rec := &recorder{}
					replies, counts := sendSplit(t, rec, kind, content, at)
					if n := len(rec.got()); n != 0 || replies != "550 250 221 " || counts.ContentsRefused != 1 {
						t.Fatalf("cut at %d: %d messages arrived, replies %s, %+v", at, n, replies, counts)
					}
				}
			})
		}
	}
	// What does arrive arrives once, and whole, wherever it is cut.
	honest := "Subject: x\r\n\r\n..\r\n..MAIL FROM:<a@b.example>\r\n\r\n" + evil + "\r\n.\r\n"
	for at := 0; at < len(honest); at++ {
		rec := &recorder{}
		replies, _ := sendSplit(t, rec, KindRelay, honest, at)
		got := rec.got()
		if len(got) != 1 || replies != "250 250 221 " {
			t.Fatalf("cut at %d: %d messages arrived, replies %s", at, len(got), replies)
		}
		want := strings.TrimSuffix(strings.ReplaceAll(honest, "\r\n.", "\r\n"), "\r\n\r\n") + "\r\n"
		if got[0].content != want {
			t.Fatalf("cut at %d: content %q, want %q", at, got[0].content, want)
		}
	}
}

// sendSplit sends content in two writes, then NOOP and QUIT, and returns the
// codes of the replies that followed the 354, and what the server counted.
func sendSplit(t *testing.T, rec *recorder, kind Kind, content string, at int) (string, ServerCounts) {
	t.Helper()
	limits := DefaultLimits()
	srv, err := NewServer(ServerConfig{Kind: kind, Hostname: "mx.ours.example", Limits: limits, Handler: rec, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	ln := newPipeListener()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	conn := ln.dial()
	defer conn.Close()
	d := newDialogue(t, conn)
	hello := "> EHLO h"
	if kind == KindLMTP {
		hello = "> LHLO h"
	}
	d.play("< 220", hello, "<* 250", "> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354")
	go func() {
		for _, piece := range []string{content[:at], content[at:], "NOOP\r\n", "QUIT\r\n"} {
			if _, err := conn.Write([]byte(piece)); err != nil {
				return
			}
		}
	}()
	var codes strings.Builder
	for lines := bufio.NewScanner(d.r); lines.Scan(); {
		codes.WriteString(lines.Text()[:3] + " ")
	}
	shutdown(t, srv)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return codes.String(), srv.Counts()
}

// TestNothingFollowsBrokenContent: whatever ends content but its end ends the
// session, so that the rest of it is never read as commands.
func TestNothingFollowsBrokenContent(t *testing.T) {
	const second = `>"\r\n.\r\nMAIL FROM:<evil@smuggled.example>\r\nRCPT TO:<victim@ours.example>\r\nDATA\r\nx\r\n.\r\n"`
	begin := []string{"< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354"}
	tests := []struct {
		name   string
		script []string
	}{
		{"silence before the first octet", []string{"< 421 4.4.2", second, "< EOF"}},
		{"silence in the content", []string{"> half a message", "< 421 4.4.2", second, "< EOF"}},
		{"silence within the end", []string{`>"x\r\n."`, "< 421 4.4.2", second, "< EOF"}},
		{"a line end that is none", []string{`>"x\n.\n"`, "< 421 4.4.2", second, "< EOF"}},
		{"no end", []string{`>"` + strings.Repeat(strings.Repeat("x", 98)+`\r\n`, 1000) + `"`, "< 552 5.3.4", second, "< EOF"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			srv, addr := startServer(t, rec, func(c *ServerConfig) {
				c.Limits.MaxSize = 10_000
				c.Timeouts.DataStart, c.Timeouts.DataBlock = 100*time.Millisecond, 100*time.Millisecond
			})
			d := dial(t, addr)
			d.play(begin...)
			d.play(test.script...)
			shutdown(t, srv)
			if got := rec.got(); len(got) != 0 {
				t.Errorf("%d messages arrived, the first %q", len(got), got[0].content)
			}
			if c := srv.Counts(); c.TimedOut+c.ContentsRefused != 1 {
				t.Errorf("not counted: %+v", c)
			}
		})
	}
}

// TestDeadlines: a slow client may take as long as it likes for the content as
// long as it goes on, but not for ever, and has one deadline for a command.
func TestDeadlines(t *testing.T) {
	tests := []struct {
		name     string
		timeouts ServerTimeouts
		script   []string
		drip     string // sent octet by octet, for ever
		want     string
	}{
		{"command", ServerTimeouts{Command: 200 * time.Millisecond}, []string{"< 220"}, "NOOP ", "421 4.4.2"},
		{"content", ServerTimeouts{DataTotal: 200 * time.Millisecond}, []string{"< 220", "> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354"}, "x", "421 4.4.2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			_, addr := startServer(t, rec, func(c *ServerConfig) { c.Timeouts = test.timeouts })
			d := dial(t, addr)
			d.play(test.script...)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					case <-tick.C:
						d.conn.Write([]byte{test.drip[min(i, len(test.drip)-1)]})
					}
				}
			})
			d.expect(test.want)
			close(stop)
			wg.Wait()
			if len(rec.got()) != 0 {
				t.Error("a message arrived")
			}
		})
	}
}

package smtpbridge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestSlowClients: at every phase a client that sends an octet now and then, or
// nothing, or does not read, is got rid of, and leaves nothing behind.
func TestSlowClients(t *testing.T) {
	const short = 100 * time.Millisecond
	serverTLS, _ := serverCertificate(t)
	implicit := func(c *ServerConfig) { c.TLS, c.ImplicitTLS, c.Timeouts.Command = serverTLS, true, short }
	toData := []string{"< 220", "> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354"}
	toChunks := toData[:7:7]
	tests := []struct {
		name   string
		change func(*ServerConfig)
		script []string
		drip   string // sent octet by octet, the last for ever; "" for silence
	}{
		{"PROXY header", func(c *ServerConfig) { c.Proxies, c.Timeouts.Proxy = loopback, short }, nil, "PROXY UNKNOWN "},
		{"before the PROXY header", func(c *ServerConfig) { c.Proxies, c.Timeouts.Proxy = loopback, short }, nil, ""},
		{"TLS handshake", implicit, nil, "\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03x"},
		{"before the TLS handshake", implicit, nil, ""},
		{"after STARTTLS", func(c *ServerConfig) { c.TLS, c.Timeouts.Command = serverTLS, short }, []string{"< 220", "> EHLO h", "<* 250", "> STARTTLS", "< 220"}, "\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03x"},
		{"greeting", func(c *ServerConfig) { c.Timeouts.Command = short }, []string{"< 220"}, ""},
		{"command", func(c *ServerConfig) { c.Timeouts.Command = short }, []string{"< 220"}, "NOOP "},
		{"transaction", func(c *ServerConfig) { c.Timeouts.Command = short }, toData[:5], ""},
		{"before the content", func(c *ServerConfig) { c.Timeouts.DataStart = short }, toData, ""},
		{"content", func(c *ServerConfig) { c.Timeouts.DataTotal = short }, toData, "Subject: x"},
		{"silence in the content", func(c *ServerConfig) { c.Timeouts.DataBlock = short }, append(toData, "> x"), ""},
		{"chunk", func(c *ServerConfig) { c.Timeouts.DataTotal = short }, append(toChunks, "> BDAT 1000 LAST"), "x"},
		{"silence in a chunk", func(c *ServerConfig) { c.Timeouts.DataBlock = short }, append(toChunks, "> BDAT 1000 LAST"), ""},
		{"between chunks", func(c *ServerConfig) { c.Timeouts.Command = short }, append(toChunks, `>"BDAT 1\r\nx"`, "< 250"), ""},
		{"a chunk that nobody wants", func(c *ServerConfig) { c.Timeouts.DataTotal = short }, []string{"< 220", "> BDAT 1000"}, "x"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			srv, addr := startServer(t, rec, test.change)
			d := dial(t, addr)
			if test.script == nil {
				waitForSession(t, srv)
			}
			d.play(test.script...)
			stop := make(chan struct{})
			var wg sync.WaitGroup
			if test.drip != "" {
				wg.Go(func() { dripInto(d.conn, test.drip, stop) })
			}
			waitForNoSession(t, srv)
			close(stop)
			wg.Wait()
			if c := srv.Counts(); c.TimedOut+c.BrokenOff+c.HandshakesFailed == 0 {
				t.Errorf("not counted: %+v", c)
			}
			if len(rec.got()) != 0 {
				t.Error("a message arrived")
			}
		})
	}
}

// dripInto writes an octet every few milliseconds.
func dripInto(w io.Writer, drip string, stop <-chan struct{}) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		case <-tick.C:
			w.Write([]byte{drip[min(i, len(drip)-1)]})
		}
	}
}

func waitForNoSession(t *testing.T, srv *Server) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); srv.connections() != 0; {
		if time.Now().After(deadline) {
			t.Fatal("the session does not end")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestClientThatDoesNotRead: replies are not gathered for ever. On a pipe each
// write waits for its reader.
func TestClientThatDoesNotRead(t *testing.T) {
	srv, err := NewServer(ServerConfig{Kind: KindRelay, Hostname: "h", Limits: DefaultLimits(), Handler: &recorder{}, Timeouts: ServerTimeouts{Command: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	ln := newPipeListener()
	serve(t, srv, ln)
	conn := ln.dial()
	defer conn.Close()
	waitForSession(t, srv)
	waitForNoSession(t, srv)
	if c := srv.Counts(); c.TimedOut != 1 {
		t.Errorf("not counted: %+v", c)
	}
}

// TestHostileContent: what is refused is refused once, the session goes on, and
// nothing arrives; what is merely odd arrives unchanged. Each by DATA and by
// BDAT.
func TestHostileContent(t *testing.T) {
	var tree strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&tree, "Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n", i, i)
	}
	limits := DefaultLimits()
	tests := []struct {
		name, content string
		want          string // reply; "250" for what arrives
	}{
		{"20,000 fields of one name", strings.Repeat("Received: x\r\n", 20_000) + "\r\nbody\r\n", "554 5.6.0 header of the message has too many lines"},
		{"20,000 fields of one octet", strings.Repeat("x:\r\n", 20_000) + "\r\n", "554 5.6.0"},
		{"one endless field", "Subject: x\r\n" + strings.Repeat(" "+strings.Repeat("x", 900)+"\r\n", 200) + "\r\n", "552 5.6.0 header field"},
		{"one endless line", "Subject: " + strings.Repeat("x", limits.ContentLine+1000) + "\r\n\r\n", "554 5.6.0 line"},
		{"an endless header without a body", strings.Repeat("X-"+strings.Repeat("x", 900)+": y\r\n", 300), "552 5.6.0 header of"},
		{"a header of folds", "X: y\r\n" + strings.Repeat("\t\r\n", 5000) + "\r\n", "554 5.6.0"},
		{"a folded first line", " permitted; or so\r\nSubject: x\r\n\r\nbody\r\n", "550 5.6.0 message begins with white space"},
		{"a folded first line by a tab", "\tpermitted\r\n", "550 5.6.0 message begins with white space"},
		{"a first line of white space", " \r\n\r\nbody\r\n", "550 5.6.0 message begins with white space"},
		{"white space first in the body", "Subject: x\r\n\r\n\tbody\r\n", "250"},
		{"white space first in a body without header", "\r\n body\r\n", "250"},
		{"a MIME tree 5,000 deep", tree.String() + "x\r\n", "250"},
		{"no header", "\r\n" + strings.Repeat("x\r\n", 5000), "250"},
		{"a NUL header", "\x00: \x00\r\n\r\n\x00\r\n", "250"},
	}
	for _, test := range tests {
		for _, way := range []string{"DATA", "BDAT"} {
			t.Run(test.name+" by "+way, func(t *testing.T) {
				rec := &recorder{}
				srv, addr := startServer(t, rec, nil)
				d := dial(t, addr)
				d.play(toBDAT...)
				if way == "DATA" {
					d.play("> DATA", "< 354")
					go d.conn.Write([]byte(test.content + ".\r\n"))
				} else {
					go fmt.Fprintf(d.conn, "BDAT %d LAST\r\n%s", len(test.content), test.content)
				}
				d.play("< "+test.want, "> NOOP", "< 250 2.0.0 ok")
				got := rec.got()
				if (test.want == "250") != (len(got) == 1) || len(got) == 1 && got[0].content != test.content {
					t.Errorf("%d messages arrived", len(got))
				}
				if c := srv.Counts(); (c.ContentsRefused == 1) == (test.want == "250") {
					t.Errorf("counts %+v", c)
				}
			})
		}
	}
}

// TestBDATSmuggling is TestSmuggling for chunks, in which no octet ends
// anything: each form, in a chunk of the right size, cut at every octet, with a
// session's commands right behind it.
func TestBDATSmuggling(t *testing.T) {
	const evil = "MAIL FROM:<evil@smuggled.example>\r\nRCPT TO:<victim@ours.example>\r\nBDAT 1 LAST\r\nx"
	for _, form := range []string{"\r\n.\r\n", "\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\r.\r\n", "\n", "\r", "\r\nBDAT 0 LAST\r\n", "\r\nRSET\r\n"} {
		t.Run(fmt.Sprintf("%q", form), func(t *testing.T) {
			t.Parallel()
			content := "Subject: x\r\n\r\nhello" + form + evil
			wire := fmt.Sprintf("BDAT %d LAST\r\n%sNOOP\r\nQUIT\r\n", len(content), content)
			clean := !strings.ContainsAny(strings.ReplaceAll(form, "\r\n", ""), "\r\n")
			want, arrivals := "550 250 221 ", 0
			if clean {
				want, arrivals = "250 250 221 ", 1
			}
			for at := 0; at < len(wire); at++ {
				rec := &recorder{}
				replies := sendSplitChunks(t, rec, wire, at)
				got := rec.got()
				if len(got) != arrivals || replies != want || clean && got[0].content != content {
					t.Fatalf("cut at %d: %d messages arrived, replies %s", at, len(got), replies)
				}
			}
		})
	}
}

func sendSplitChunks(t *testing.T, rec *recorder, wire string, at int) string {
	t.Helper()
	srv, err := NewServer(ServerConfig{Kind: KindRelay, Hostname: "h", Limits: DefaultLimits(), Handler: rec})
	if err != nil {
		t.Fatal(err)
	}
	ln := newPipeListener()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	conn := ln.dial()
	defer conn.Close()
	d := newDialogue(t, conn)
	d.play(toBDAT...)
	go func() {
		for _, piece := range []string{wire[:at], wire[at:]} {
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
	return codes.String()
}

// TestNoRoomForContent: a message whose content cannot be kept is refused for
// now, by DATA and by BDAT, with the session going on and no file left.
func TestNoRoomForContent(t *testing.T) {
	rec := &recorder{}
	dir := filepath.Join(t.TempDir(), "gone")
	_, addr := startServer(t, rec, func(c *ServerConfig) { c.TempDir = dir })
	content := "\r\n" + strings.Repeat(strings.Repeat("x", 98)+"\r\n", 4000) // more than stays in memory
	d := dial(t, addr)
	d.play(toBDAT...)
	d.play("> DATA", "< 354")
	go d.conn.Write([]byte(content + ".\r\n"))
	d.play("< 451 4.3.0 temporary local problem", "> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250")
	go fmt.Fprintf(d.conn, "BDAT %d\r\n%s", len(content), content)
	d.play("< 451 4.3.0", "> BDAT 0 LAST", "< 503", "> NOOP", "< 250")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d.play("> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250")
	go fmt.Fprintf(d.conn, "BDAT %d LAST\r\n%s", len(content), content)
	d.play("< 250 2.0.0 queued")
	if got := rec.got(); len(got) != 1 || got[0].content != content {
		t.Errorf("%d messages arrived", len(got))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v left, %v", left, err)
	}
}

func TestFullDiskInAChunk(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{{fmt.Errorf("temporary content file: %w", syscall.ENOSPC), 452}, {errors.New("a secret"), 451}} {
		in := &intake{sink: &failingSink{5, test.err}, guard: newContentGuard(DefaultLimits(), false, false)}
		in.take([]byte("\r\nabc"))
		if in.guard.refused != nil {
			t.Fatal(in.guard.refused)
		}
		in.take([]byte("d"))
		in.take([]byte("\n")) // no longer looked at
		if in.guard.refused == nil || in.guard.refused.reply.code != test.want || strings.Contains(in.guard.refused.reply.text, "secret") {
			t.Errorf("%v: %v", test.err, in.guard.refused)
		}
	}
}

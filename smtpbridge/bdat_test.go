package smtpbridge

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

var (
	toBDAT   = []string{"< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250"}
	toBinary = []string{"< 220", "> EHLO h", "<* 250", "> MAIL FROM:<a@b.example> BODY=BINARYMIME", "< 250", "> RCPT TO:<r@ours.example>", "< 250"}
)

func binaryMIME(c *ServerConfig) { c.Extensions.BinaryMIME = true }

// TestBDAT counts what arrives, and looks at its content.
func TestBDAT(t *testing.T) {
	const header = `Subject: x\r\n\r\n` // 14 octets
	tests := []struct {
		name   string
		begin  []string
		script []string
		want   []string // contents
	}{
		{"one chunk", toBDAT, []string{`>"BDAT 14 LAST\r\n` + header + `"`, "< 250 2.0.0 queued", "> NOOP", "< 250"}, []string{"Subject: x\r\n\r\n"}},
		{"several chunks", toBDAT, []string{`>"BDAT 7\r\nSubject"`, "< 250 2.0.0 7 octets", `>"BDAT 7\r\n: x\r\n\r\n"`, "< 250", "> BDAT 0", "< 250", `>"bdat 1 last\r\ny"`, "< 250 2.0.0 queued"}, []string{"Subject: x\r\n\r\ny"}},
		{"a chunk that ends within CRLF", toBDAT, []string{`>"BDAT 11\r\nSubject: x\r"`, "< 250", `>"BDAT 3 LAST\r\n\n\r\n"`, "< 250"}, []string{"Subject: x\r\n\r\n"}},
		{"an empty last chunk", toBDAT, []string{`>"BDAT 14\r\n` + header + `"`, "< 250", "> BDAT 0 LAST", "< 250 2.0.0 queued"}, []string{"Subject: x\r\n\r\n"}},
		{"no content at all", toBDAT, []string{"> BDAT 0 LAST", "< 250 2.0.0 queued"}, []string{""}},
		{"dots are content", toBDAT, []string{`>"BDAT 20 LAST\r\n` + header + `.\r\n..x"`, "< 250", "> NOOP", "< 250"}, []string{"Subject: x\r\n\r\n.\r\n..x"}},
		{"pipelined with its transaction", toBDAT[:3], []string{`>"MAIL FROM:<a@b.example>\r\nRCPT TO:<r@ours.example>\r\nBDAT 3\r\nabcBDAT 3 LAST\r\ndefMAIL FROM:<>\r\nRCPT TO:<r@ours.example>\r\nBDAT 1 LAST\r\nyQUIT\r\n"`, "< 250", "< 250", "< 250", "< 250 2.0.0 queued", "< 250", "< 250", "< 250 2.0.0 queued", "< 221", "< EOF"}, []string{"abcdef", "y"}},
		{"content that looks like commands", toBDAT, []string{`>"BDAT 31 LAST\r\nRSET\r\nMAIL FROM:<e@v.example>\r\n"`, "> NOOP", "< 250 2.0.0 queued", "< 250 2.0.0 ok"}, []string{"RSET\r\nMAIL FROM:<e@v.example>\r\n"}},
		{"8-bit and NUL", toBDAT, []string{`>"BDAT 3 LAST\r\n\xff\x00\xfe"`, "< 250"}, []string{"\xff\x00\xfe"}},

		{"RSET ends the chunks", toBDAT, []string{`>"BDAT 3\r\nabc"`, "< 250", "> RSET", "< 250", "> BDAT 0 LAST", "< 503"}, nil},
		{"EHLO ends the chunks", toBDAT, []string{`>"BDAT 3\r\nabc"`, "< 250", "> EHLO h", "<* 250", "> BDAT 0 LAST", "< 503"}, nil},
		{"DATA after BDAT", toBDAT, []string{`>"BDAT 3\r\nabc"`, "< 250", "> DATA", "< 503 5.5.1 DATA after BDAT", "> RSET", "< 250"}, nil},
		{"MAIL and RCPT after BDAT", toBDAT, []string{`>"BDAT 3\r\nabc"`, "< 250", "> RCPT TO:<s@ours.example>", "< 503", "> MAIL FROM:<>", "< 503", "> BDAT 0 LAST", "< 250"}, []string{"abc"}},
		{"without LAST, and gone", toBDAT, []string{`>"BDAT 3\r\nabc"`, "< 250", "> QUIT", "< 221", "< EOF"}, nil},
		{"in the middle of a chunk, and gone", toBDAT, []string{`>"BDAT 300 LAST\r\nabc"`}, nil},
		{"after LAST", toBDAT, []string{"> BDAT 0 LAST", "< 250", `>"BDAT 6 LAST\r\nNOOP\r\n"`, "< 503", "> NOOP", "< 250"}, []string{""}},
		{"before MAIL", toBDAT[:3], []string{`>"BDAT 6 LAST\r\nNOOP\r\n"`, "< 503 5.5.1 no MAIL", "> NOOP", "< 250"}, nil},
		{"without recipients", append(toBDAT[:5:5], "> RCPT TO:<unknown@ours.example>", "< 550"), []string{`>"BDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\n"`, "< 554 5.5.1", "< 503", "> NOOP", "< 250"}, nil},

		{"too large at once", toBDAT, []string{"> BDAT 1001 LAST", `>"` + strings.Repeat("x", 1001) + `"`, "< 552 5.3.4", "> NOOP", "< 250"}, nil},
		{"too large in all", toBDAT, []string{"> BDAT 600", `>"` + strings.Repeat("x", 600) + `"`, "< 250", "> BDAT 600 LAST", `>"` + strings.Repeat("x", 600) + `"`, "< 552 5.3.4", "> BDAT 3 LAST", `>"abc"`, "< 503", "> NOOP", "< 250"}, nil},
		{"far too large", toBDAT, []string{"> BDAT 9223372036854775807 LAST", "< 552 5.3.4", "< EOF"}, nil},
		{"no end of refused chunks", toBDAT, []string{"> BDAT 60000", `>"` + strings.Repeat("x", 60_000) + `"`, "< 552", "> BDAT 60000", "< 503", "< EOF"}, nil},
		{"no number", toBDAT, []string{`>"BDAT\r\nNOOP\r\n"`, "< 501 5.5.4", "< EOF"}, nil},
		{"negative", toBDAT, []string{`>"BDAT -1 LAST\r\nNOOP\r\n"`, "< 501 5.5.4", "< EOF"}, nil},
		{"more than 64 bits", toBDAT, []string{"> BDAT 9223372036854775808", "< 501", "< EOF"}, nil},
		{"not LAST", toBDAT, []string{`>"BDAT 6 LASTLY\r\nNOOP\r\n"`, "< 501 5.5.4", "< EOF"}, nil},
		{"too small a number", toBDAT, []string{`>"BDAT 5\r\nhello world\r\n"`, "< 250", "< 421 4.7.0 content without", "< EOF"}, nil},
		{"too small a last number", toBDAT, []string{`>"BDAT 5 LAST\r\nhelloworld\r\nRSET\r\n"`, "< 250", "< 421 4.7.0 content without", "< EOF"}, []string{"hello"}},
		{"too large a number takes commands for content", toBDAT, []string{`>"BDAT 11 LAST\r\nhelloRSET\r\nNOOP\r\n"`, "< 250 2.0.0 queued", "< 250 2.0.0 ok"}, []string{"helloRSET\r\n"}},

		{"bare LF", toBDAT, []string{`>"BDAT 3 LAST\r\na\nb"`, "< 550 5.6.0 bare", "> NOOP", "< 250"}, nil},
		{"bare CR", toBDAT, []string{`>"BDAT 3 LAST\r\na\rb"`, "< 550 5.6.0 bare"}, nil},
		{"bare CR at the end", toBDAT, []string{`>"BDAT 2 LAST\r\na\r"`, "< 550 5.6.0 bare"}, nil},
		{"bare CR over two chunks", toBDAT, []string{`>"BDAT 2\r\na\r"`, "< 250", `>"BDAT 1 LAST\r\nb"`, "< 550 5.6.0 bare"}, nil},
		{"refused in a chunk before the last", toBDAT, []string{`>"BDAT 3\r\na\nbBDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nNOOP\r\n"`, "< 550 5.6.0", "< 503", "< 503", "> NOOP", "< 250"}, nil},
		{"smuggled end", toBDAT, []string{`>"BDAT 39 LAST\r\nx\r\n.\r\nMAIL FROM:<e@v.example>\r\nQUIT\r\n\r\n"`, "< 250 2.0.0 queued", "> NOOP", "< 250 2.0.0 ok"}, []string{"x\r\n.\r\nMAIL FROM:<e@v.example>\r\nQUIT\r\n\r\n"}},

		{"binary", toBinary, []string{`>"BDAT 22 LAST\r\n` + header + `\r\r\n\n\x00\xff.\n"`, "< 250 2.0.0"}, []string{"Subject: x\r\n\r\n\r\r\n\n\x00\xff.\n"}},
		{"binary lines may be long", toBinary, []string{fmt.Sprintf(`>"BDAT %d LAST\r\n%s%s"`, 914, header, strings.Repeat("x", 900)), "< 250 2.0.0"}, []string{"Subject: x\r\n\r\n" + strings.Repeat("x", 900)}},
		{"a binary header must be lines", toBinary, []string{`>"BDAT 14 LAST\r\nSubject: x\nY: z"`, "< 550 5.6.0 bare CR or LF in the header"}, nil},
		{"binary by DATA", toBinary, []string{"> DATA", "< 503 5.5.1 BODY=BINARYMIME", "> RSET", "< 250"}, nil},
		{"binary by DATA, with content", toBinary, []string{`>"DATA\r\nx\r\n.\r\n"`, "< 421 4.7.0 content without", "< EOF"}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := refusingRecorder()
			srv, addr := startServer(t, rec, func(c *ServerConfig) {
				binaryMIME(c)
				c.Limits.MaxSize, c.Limits.ContentLine = 1000, 998
			})
			d := dial(t, addr)
			d.play(test.begin...)
			d.play(test.script...)
			d.conn.Close()
			shutdown(t, srv)
			got := rec.got()
			if len(got) != len(test.want) {
				t.Fatalf("%d messages arrived, want %d", len(got), len(test.want))
			}
			for i, want := range test.want {
				if got[i].content != want {
					t.Errorf("content %q, want %q", got[i].content, want)
				}
			}
		})
	}
}

func TestBDATOverLMTP(t *testing.T) {
	rec := refusingRecorder()
	rec.accept = verdictPerRecipient
	_, addr := startServer(t, rec, func(c *ServerConfig) { c.Kind, c.Limits.MaxSize = KindLMTP, 10 })
	d := dial(t, addr)
	begin := []string{"> MAIL FROM:<a@b.example>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> RCPT TO:<full@ours.example>", "< 250"}
	d.play("< 220", "> LHLO h", "<* 250")
	d.play(append(begin, `>"BDAT 1\r\nx"`, "< 250 2.0.0 1 octets", `>"BDAT 1 LAST\r\ny"`, "< 250 2.0.0 for r", "< 452 4.3.1", "> NOOP", "< 250 2.0.0 ok")...)
	d.play(append(begin, `>"BDAT 3 LAST\r\nx\ny"`, "< 550 5.6.0", "< 550 5.6.0", "> NOOP", "< 250 2.0.0 ok")...)
	d.play(append(begin, `>"BDAT 3\r\nx\ny"`, "< 550 5.6.0", "> NOOP", "< 250 2.0.0 ok")...)
	d.play(append(begin, `>"BDAT 11 LAST\r\nxxxxxxxxxxx"`, "< 552 5.3.4", "< 552 5.3.4", "> NOOP", "< 250 2.0.0 ok")...)
	d.play(append(begin, `>"BDAT 11\r\nxxxxxxxxxxx"`, "< 552 5.3.4", "> NOOP", "< 250 2.0.0 ok")...)
	if got := rec.got(); len(got) != 1 || got[0].content != "xy" {
		t.Errorf("arrived: %+v", got)
	}
}

// TestBDATLarge sends content that fills a file and many buffers, in chunks of
// odd sizes, far more of them than commands are allowed.
func TestBDATLarge(t *testing.T) {
	rec := &recorder{}
	_, addr := startServer(t, rec, func(c *ServerConfig) { c.Limits.Commands = 20 })
	d := dial(t, addr)
	d.play(toBDAT...)
	content := "Subject: x\r\n\r\n" + strings.Repeat(strings.Repeat("x", 76)+"\r\n", 10_000)
	go func() {
		rest := content
		for size := 1024; len(rest) > size; size += 517 {
			fmt.Fprintf(d.conn, "BDAT %d\r\n%s", size, rest[:size])
			rest = rest[size:]
		}
		fmt.Fprintf(d.conn, "BDAT %d LAST\r\n%sQUIT\r\n", len(rest), rest)
	}()
	for {
		line := d.expect("2")
		if strings.HasPrefix(line, "221") {
			break
		}
	}
	got := rec.got()
	if len(got) != 1 || got[0].content != content || got[0].message.Facts.Size != int64(len(content)) {
		t.Errorf("%d messages arrived", len(got))
	}
}

func TestSmallChunksAreCounted(t *testing.T) {
	_, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.Limits.Commands = 5 })
	d := dial(t, addr)
	d.play(toBDAT...)
	d.play(`>"BDAT 1\r\nx"`, "< 250", `>"BDAT 1\r\nx"`, "< 250", `>"BDAT 1\r\nx"`, "< 421 4.7.0 too many commands", "< EOF")
}

// TestBDATDeadlines: a chunk that stops, and a message that never ends.
func TestBDATDeadlines(t *testing.T) {
	for name, test := range map[string]struct {
		timeouts ServerTimeouts
		script   []string
	}{
		"in a chunk":     {ServerTimeouts{DataBlock: 50 * time.Millisecond}, []string{`>"BDAT 10\r\nabc"`, "< 421 4.4.2", "< EOF"}},
		"between chunks": {ServerTimeouts{Command: 300 * time.Millisecond}, []string{`>"BDAT 3\r\nabc"`, "< 250", "< 421 4.4.2", "< EOF"}},
		"in all":         {ServerTimeouts{DataTotal: 50 * time.Millisecond}, []string{`>"BDAT 3\r\nabc"`, "< 250", `>"BDAT 10\r\n"`, "< 421 4.4.2", "< EOF"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			_, addr := startServer(t, rec, func(c *ServerConfig) { c.Timeouts = test.timeouts })
			d := dial(t, addr)
			d.play(toBDAT...)
			d.play(test.script...)
			if len(rec.got()) != 0 {
				t.Error("a message arrived")
			}
		})
	}
}

func TestParseChunk(t *testing.T) {
	for in, want := range map[string]chunk{"0": {0, false}, "10": {10, false}, "10 LAST": {10, true}, "10  last": {10, true}, "0000000000000000000010"[:20]: {0, false}, "9223372036854775807": {1<<63 - 1, false}} {
		if got, ok := parseChunk(in); got != want || !ok {
			t.Errorf("%q: %+v, %v", in, got, ok)
		}
	}
	for _, in := range []string{"", " ", "LAST", "+1", "-1", "1 ", "1 FIRST", "1 LAST LAST", "1LAST", "0x1", "9223372036854775808", "000000000000000000001"} {
		if got, ok := parseChunk(in); ok {
			t.Errorf("%q is taken: %+v", in, got)
		}
	}
}

// FuzzChunks sends content in any chunks, and then more of the wire than was
// announced, or less: what arrives is what the sizes say, octet by octet, and no
// octet of a chunk is a command.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("Subject: x\r\n\r\nhello\r\n"), uint16(3), int8(0))
	f.Add([]byte("\r\n.\r\nRSET\r\nMAIL FROM:<evil@x.example>\r\n"), uint16(7), int8(0))
	f.Add([]byte("QUIT\r\nRSET\r\n"), uint16(100), int8(-6))
	f.Add([]byte("x\r\n"), uint16(1), int8(9))
	f.Add([]byte("a\nb\rc"), uint16(2), int8(1))
	f.Fuzz(func(t *testing.T, content []byte, size uint16, off int8) {
		if len(content) > 10_000 {
			return
		}
		rec := &recorder{}
		srv, err := NewServer(ServerConfig{Kind: KindRelay, Hostname: "h", Limits: DefaultLimits(), Handler: rec})
		if err != nil {
			t.Fatal(err)
		}
		ln := newPipeListener()
		done := make(chan error, 1)
		go func() { done <- srv.Serve(ln) }()
		conn := ln.dial()
		var wire strings.Builder
		wire.WriteString("EHLO h\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<r@ours.example>\r\n")
		rest := content
		step := max(int(size), len(content)/50+1)
		for ; len(rest) > step; rest = rest[step:] {
			fmt.Fprintf(&wire, "BDAT %d\r\n%s", step, rest[:step])
		}
		announced := max(0, len(rest)+int(off))
		after := "\r\nQUIT\r\n" // no command if it follows an octet too many
		if off == 0 {
			after = "QUIT\r\n"
		}
		fmt.Fprintf(&wire, "BDAT %d LAST\r\n%s%s", announced, rest, after)
		go func() {
			io.WriteString(conn, wire.String())
			io.WriteString(conn, strings.Repeat("\r\n", 200)) // what a size too large still waits for
			conn.Close()
		}()
		io.Copy(io.Discard, conn)
		shutdown(t, srv)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := string(content)[:len(content)-len(rest)] + (string(rest) + after + strings.Repeat("\r\n", 200))[:announced]
		clean := !strings.ContainsAny(strings.ReplaceAll(want, "\r\n", ""), "\r\n")
		got := rec.got()
		if len(got) > 1 && off >= 0 || len(got) > 0 && (!clean || got[0].content != want || got[0].message.Envelope.Sender.Local != "a") {
			t.Fatalf("%d messages from %q, the first %+v", len(got), wire.String(), got[0])
		}
		if len(got) == 0 && clean && len(want) < 900 && announced > 0 && off <= 0 {
			t.Fatalf("nothing arrived of %q", wire.String())
		}
	})
}

// FuzzContentGuard holds the guard against the plainest reading, over any
// split: CR and LF in pairs only, and the count of what repair adds.
func FuzzContentGuard(f *testing.F) {
	for _, seed := range []string{"a\r\nb", "a\nb\r\n", "\r\r\n", "x: y\r\n\r\n\n\r", "\n\n", "\r"} {
		f.Add([]byte(seed), uint8(1))
	}
	f.Fuzz(func(t *testing.T, content []byte, size uint8) {
		run := func(binary, repair bool) contentGuard {
			g := newContentGuard(DefaultLimits(), binary, repair)
			for rest := content; len(rest) > 0; {
				n := min(len(rest), int(size)+1)
				g.all(rest[:n])
				rest = rest[n:]
			}
			g.end()
			return g
		}
		lines := strings.ReplaceAll(string(content), "\r\n", "")
		if g := run(false, false); (g.refused != nil) != strings.ContainsAny(lines, "\r\n") {
			t.Fatalf("%q: %v", content, g.refused)
		}
		g := run(false, true)
		if (g.refused != nil) != strings.Contains(lines, "\r") {
			t.Fatalf("repair of %q: %v", content, g.refused)
		}
		var out strings.Builder
		w := &lineRepairer{w: &out}
		if _, err := io.Copy(w, iotest.HalfReader(strings.NewReader(string(content)))); err != nil {
			t.Fatal(err)
		}
		if g.refused == nil && (strings.ContainsAny(strings.ReplaceAll(out.String(), "\r\n", ""), "\r\n") || int64(out.Len()-len(content)) != g.repaired) {
			t.Fatalf("%q is repaired to %q, counted %d", content, out.String(), g.repaired)
		}
		header, _, _ := strings.Cut(string(content), "\r\n\r\n")
		if g := run(true, false); !strings.ContainsAny(strings.ReplaceAll(header, "\r\n", ""), "\r\n") && g.refused != nil && strings.Contains(string(content), "\r\n\r\n") {
			t.Fatalf("binary %q: %v", content, g.refused)
		}
	})
}

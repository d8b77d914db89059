package smtpbridge

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestFloods: whatever a client sends without end is refused, ends the session
// and is counted, and costs memory that does not grow with it. All that is
// allocated is measured, what the garbage collector has taken back included,
// while ten times as much is sent.
func TestFloods(t *testing.T) {
	const sent, bound = 64 << 20, 6 << 20
	begin := toBDAT[:5:5]
	toData := append(toBDAT[:7:7], "> DATA", "< 354")
	header := append(toData[:9:9], `>"Subject: x"`)
	long := strings.Repeat("x", 60_000)
	tests := []struct {
		name   string
		script []string
		flood  string // for ever
		want   string // in the last replies
	}{
		{"a command without end", toBDAT[:1], long, "500 5.5.2 command line is too long"},
		{"spaces for a command", toBDAT[:1], strings.Repeat(" ", 60_000), "500 5.5.2"},
		{"line ends", toBDAT[:1], strings.Repeat("\r\n", 1000), "421 4.7.0 too many errors"},
		{"NOOP", toBDAT[:1], strings.Repeat("NOOP\r\n", 1000), "421 4.7.0 too many commands"},
		{"EHLO", toBDAT[:1], strings.Repeat("EHLO h\r\n", 1000), "421 4.7.0 too many commands"},
		{"unknown commands", toBDAT[:1], strings.Repeat("FROB "+strings.Repeat("x", 1000)+"\r\n", 10), "421 4.7.0 too many errors"},
		{"transactions", toBDAT[:3], strings.Repeat("MAIL FROM:<a@b.example>\r\nRSET\r\n", 1000), "421 4.7.0 too many commands"},
		{"recipients", begin, strings.Repeat("RCPT TO:<r@ours.example>\r\n", 1000), "421 4.7.0 too many errors"},
		{"unknown recipients", begin, strings.Repeat("RCPT TO:<unknown@ours.example>\r\n", 1000), "421 4.7.0 too many refused"},
		{"octets for chunks", toBDAT, strings.Repeat("BDAT 1\r\nx", 1000), "421 4.7.0 too many commands"},
		{"chunks that nobody wants", toBDAT[:3], strings.Repeat("BDAT 60000\r\n"+long, 2), "503 5.5.1 no MAIL"},
		{"a chunk without end", toBDAT, "BDAT 9000000000000000000\r\n" + long, "552 5.3.4"},
		{"a header field without end", header, " " + strings.Repeat("x", 900) + "\r\n", "552 5.3.4"},
		{"fields without end", toData, strings.Repeat("X: y\r\n", 1000), "552 5.3.4"},
		{"a line without end", header, long, "552 5.3.4"},
		{"a body without end", append(toData[:9:9], "> "), strings.Repeat("y\r\n", 1000), "552 5.3.4"},
		{"dots without end", append(toData[:9:9], "> "), strings.Repeat("..\r\n.\n", 1000), "552 5.3.4"},
		{"NULs for content", toData, strings.Repeat("\x00", 60_000), "552 5.3.4"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := refusingRecorder()
			srv, addr := startServer(t, rec, func(c *ServerConfig) { c.Limits.MaxSize = 1 << 20 })
			d := dial(t, addr)
			d.play(test.script...)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			written := make(chan int64, 1)
			go func() {
				n, _ := io.Copy(struct{ io.Writer }{d.conn}, io.LimitReader(&repeated{text: test.flood}, sent))
				written <- n
			}()
			last := lastReplies(d.r)
			d.conn.Close()
			n := <-written
			runtime.ReadMemStats(&after)
			waitForNoSession(t, srv)
			if !strings.Contains(last, test.want) || len(rec.got()) != 0 {
				t.Errorf("last replies %q, want %q; %d messages arrived", last, test.want, len(rec.got()))
			}
			if grew := after.TotalAlloc - before.TotalAlloc; grew > bound {
				t.Errorf("%d octets allocated", grew)
			}
			if n >= sent {
				t.Error("all of it was taken")
			}
			if srv.counted() == 0 {
				t.Error("not counted")
			}
		})
	}
}

// repeated is a text over and over.
type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

// lastReplies reads until the connection is over and returns the end of what
// came.
func lastReplies(r io.Reader) string {
	var tail []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		tail = append(tail, buf[:n]...)
		tail = append(tail[:0], tail[max(0, len(tail)-500):]...)
		if err != nil {
			return string(tail)
		}
	}
}

// TestManyConnectionsThatSayNothing: each costs a goroutine and a small buffer,
// and beyond the limit nothing but a reply.
func TestManyConnectionsThatSayNothing(t *testing.T) {
	const limit, bound = 200, 32 << 10
	srv, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
		c.Limits.Connections, c.Limits.PerAddress = limit, limit
		c.Timeouts.Command = time.Minute
	})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	var before, after runtime.MemStats
	goroutines := runtime.NumGoroutine()
	runtime.ReadMemStats(&before)
	for i := range limit + 50 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
		code := make([]byte, 3)
		if _, err := io.ReadFull(conn, code); err != nil {
			t.Fatal(err)
		}
		if want := "220"; i < limit && string(code) != want || i >= limit && string(code) != "421" {
			t.Fatalf("connection %d: %s", i, code)
		}
	}
	runtime.ReadMemStats(&after)
	if n := runtime.NumGoroutine() - goroutines; n > limit+10 {
		t.Errorf("%d goroutines for %d sessions", n, limit)
	}
	if grew := (after.TotalAlloc - before.TotalAlloc) / limit; grew > bound {
		t.Errorf("%d octets for a session", grew)
	}
	if c := srv.Counts(); c.TurnedAway != 50 || c.Connections != limit+50 {
		t.Errorf("counts %+v", c)
	}
}

// TestSlowAuthentication: an exchange has one deadline, however its responses
// come.
func TestSlowAuthentication(t *testing.T) {
	for _, drip := range []string{"", "A", "A\r\n", "*"} {
		t.Run(fmt.Sprintf("%q", drip), func(t *testing.T) {
			t.Parallel()
			serverTLS, pool := serverCertificate(t)
			auth := storedAuth(t)
			srv, addr := startServer(t, &recorder{}, func(c *ServerConfig) {
				*c = submission(*c, serverTLS)
				c.Auth, c.ImplicitTLS = auth, true
				c.Timeouts.Auth, c.Timeouts.Command = 100*time.Millisecond, time.Second
			})
			d := dialTLS(t, addr, pool, 0)
			d.play("< 220", "> EHLO h", "<* 250", "> AUTH SCRAM-SHA-256", "< 334")
			stop, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				if drip != "" {
					dripInto(d.conn, drip, stop)
				}
			}()
			waitForNoSession(t, srv)
			close(stop)
			<-done
			if c := srv.Counts(); c.AuthFailed == 0 || c.AuthOK != 0 {
				t.Errorf("counts %+v", c)
			}
		})
	}
}

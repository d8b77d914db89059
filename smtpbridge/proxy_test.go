package smtpbridge

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// proxyV2 makes a header of version 2.
func proxyV2(command, family byte, body string) string {
	b := append([]byte(proxySignature), 0x20|command, family)
	return string(binary.BigEndian.AppendUint16(b, uint16(len(body)))) + body
}

const (
	v2IPv4 = "\xc0\x00\x02\x07\xc0\x00\x02\x08\x10\x00\x00\x19"
	v2IPv6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x10\x00\x00\x19"
)

func TestReadProxyHeader(t *testing.T) {
	const source, destination = "192.0.2.7:4096", "192.0.2.8:25"
	tests := []struct {
		name, wire          string
		source, destination string // "" for none
		ok                  bool
	}{
		{"v1 TCP4", "PROXY TCP4 192.0.2.7 192.0.2.8 4096 25\r\n", source, destination, true},
		{"v1 TCP6", "PROXY TCP6 2001:db8::1 2001:db8::2 4096 25\r\n", "[2001:db8::1]:4096", "[2001:db8::2]:25", true},
		{"v1 mapped", "PROXY TCP6 ::ffff:192.0.2.7 ::ffff:192.0.2.8 4096 25\r\n", source, destination, true},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "", "", true},
		{"v1 unknown with more", "PROXY UNKNOWN ffff:f...f:ffff 1 2\r\n", "", "", true},
		{"v1 family differs", "PROXY TCP4 2001:db8::1 2001:db8::2 4096 25\r\n", "", "", false},
		{"v1 bad port", "PROXY TCP4 192.0.2.7 192.0.2.8 65536 25\r\n", "", "", false},
		{"v1 odd port", "PROXY TCP4 192.0.2.7 192.0.2.8 +1 25\r\n", "", "", false},
		{"v1 zone", "PROXY TCP6 fe80::1%eth0 fe80::2 4096 25\r\n", "", "", false},
		{"v1 too few", "PROXY TCP4 192.0.2.7 192.0.2.8 4096\r\n", "", "", false},
		{"v1 too many", "PROXY TCP4 192.0.2.7 192.0.2.8 4096 25 1\r\n", "", "", false},
		{"v1 bare LF", "PROXY TCP4 192.0.2.7 192.0.2.8 4096 25\n", "", "", false},
		{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", "", "", false},
		{"v1 longest", "PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", "", "", true},
		{"v1 an early end", "PROXY \r\n1234567\r\n", "", "", false},
		{"v1 no end", "PROXY TCP4 192.0.2.7", "", "", false},
		{"v2 IPv4", proxyV2(1, 0x11, v2IPv4), source, destination, true},
		{"v2 IPv6", proxyV2(1, 0x21, v2IPv6), "[2001:db8::1]:4096", "[2001:db8::2]:25", true},
		{"v2 with extensions", proxyV2(1, 0x11, v2IPv4+"\x03\x00\x04abcd"), source, destination, true},
		{"v2 local", proxyV2(0, 0x00, ""), "", "", true},
		{"v2 local with an address", proxyV2(0, 0x11, v2IPv4), "", "", true},
		{"v2 unknown family", proxyV2(1, 0x00, "abc"), "", "", true},
		{"v2 socket", proxyV2(1, 0x31, strings.Repeat("\x00", 216)), "", "", true},
		{"v2 UDP", proxyV2(1, 0x12, v2IPv4), "", "", false},
		{"v2 another command", proxyV2(2, 0x11, v2IPv4), "", "", false},
		{"v2 another version", strings.Replace(proxyV2(1, 0x11, v2IPv4), "\x21", "\x31", 1), "", "", false},
		{"v2 too short", proxyV2(1, 0x11, v2IPv4[:11]), "", "", false},
		{"v2 too long", proxyV2(1, 0x11, v2IPv4+strings.Repeat("x", 4096)), "", "", false},
		{"v2 cut", proxyV2(1, 0x11, v2IPv4)[:20], "", "", false},
		{"nothing", "", "", "", false},
		{"a client", "EHLO somebody.example\r\n", "", "", false},
		{"TLS", "\x16\x03\x01\x00\xf8\x01\x00\x00\xf4\x03\x03abcdef", "", "", false},
	}
	for _, test := range tests {
		r := strings.NewReader(test.wire + "after")
		h, err := readProxyHeader(r)
		if (err == nil) != test.ok {
			t.Errorf("%s: %+v, %v", test.name, h, err)
			continue
		}
		text := func(a netip.AddrPort) string {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}
		if text(h.source) != test.source || text(h.destination) != test.destination {
			t.Errorf("%s: %+v", test.name, h)
		}
		if rest, _ := io.ReadAll(r); err == nil && string(rest) != "after" {
			t.Errorf("%s: %q is left", test.name, rest)
		}
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 192.0.2.8 4096 25\r\n"))
	f.Add([]byte(proxyV2(1, 0x21, v2IPv6)))
	f.Fuzz(func(t *testing.T, wire []byte) {
		r := bytes.NewReader(wire)
		h, err := readProxyHeader(r)
		taken := len(wire) - r.Len()
		if taken > 16+maxProxyV2 {
			t.Fatalf("%d octets taken", taken)
		}
		if err != nil && !errors.Is(err, errProxyHeader) && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatal(err)
		}
		if h.source.IsValid() != h.destination.IsValid() || err != nil && h.source.IsValid() || h.source.Addr().Zone() != "" || h.source.Addr().Is4In6() {
			t.Fatalf("%+v, %v", h, err)
		}
	})
}

func TestProxy(t *testing.T) {
	serverTLS, pool := serverCertificate(t)
	const header = `>"PROXY TCP4 192.0.2.7 192.0.2.8 4096 25\r\n"`
	message := []string{"> EHLO h", "<* 250", "> MAIL FROM:<>", "< 250", "> RCPT TO:<r@ours.example>", "< 250", "> DATA", "< 354", "> .", "< 250"}
	tests := []struct {
		name   string
		change func(*ServerConfig)
		script []string
		remote string // of the message that arrives, "" for none; "self" for the test's own
	}{
		{"v1", nil, append([]string{header, "< 220"}, message...), "192.0.2.7:4096"},
		{"v2", nil, append([]string{">" + strconv.Quote(proxyV2(1, 0x21, v2IPv6)), "< 220"}, message...), "[2001:db8::1]:4096"},
		{"with commands right behind", nil, append([]string{`>"PROXY TCP4 192.0.2.7 192.0.2.8 4096 25\r\nNOOP\r\n"`, "< 220", "< 250"}, message...), "192.0.2.7:4096"},
		{"the proxy itself", nil, append([]string{">" + strconv.Quote(proxyV2(0, 0, "")), "< 220"}, message...), "self"},
		{"none", nil, []string{"> EHLO somebody.example", "< EOF"}, ""},
		{"malformed", nil, []string{"> PROXY TCP4 no", "< EOF"}, ""},
		{"silence", func(c *ServerConfig) { c.Timeouts.Proxy = 50 * time.Millisecond }, []string{`>"PROXY TCP4"`, "< EOF"}, ""},
		{"neighbours are told by the header", func(c *ServerConfig) { c.XClient = loopback }, []string{header, "< 220", "> EHLO h", "<* 250", "> XCLIENT ADDR=192.0.2.9", "< 500"}, ""},
		{"a proxy that is not trusted", func(c *ServerConfig) { c.Proxies = elsewhere }, []string{"< 220", header, "< 421 4.7.0 this is not SMTP", "< EOF"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			rec := &recorder{}
			srv, addr := startServer(t, rec, func(c *ServerConfig) {
				c.Proxies = loopback
				if test.change != nil {
					test.change(c)
				}
			})
			d := dial(t, addr)
			d.play(test.script...)
			self := d.conn.LocalAddr().String()
			d.conn.Close()
			shutdown(t, srv)
			got := rec.got()
			if test.remote == "" {
				if len(got) != 0 {
					t.Error("a message arrived")
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("%d messages arrived", len(got))
			}
			c := got[0].client
			switch {
			case test.remote == "self":
				if c.Addr.String() != self || c.Via.IsValid() {
					t.Errorf("client %+v", c)
				}
			case c.Addr.String() != test.remote || got[0].message.Origin.Remote != test.remote || c.Via.String() != self || c.Local.Port() != 25:
				t.Errorf("client %+v", c)
			}
		})
	}
	t.Run("before TLS", func(t *testing.T) {
		_, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.Proxies, c.TLS, c.ImplicitTLS = loopback, serverTLS, true })
		d := dial(t, addr)
		d.play(header)
		d = newDialogue(t, tls.Client(d.conn, &tls.Config{RootCAs: pool, ServerName: "localhost"}))
		d.play("< 220", "> QUIT", "< 221")
	})
	t.Run("limits go by the client", func(t *testing.T) {
		_, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.Proxies, c.Limits.PerAddress = loopback, 1 })
		first, again, other := dial(t, addr), dial(t, addr), dial(t, addr)
		first.play(header, "< 220")
		again.play(header, "< 421 4.7.0 too many", "< EOF")
		other.play(strings.Replace(header, "2.7", "2.9", 1), "< 220")
		first.play("> NOOP", "< 250")
	})
}

func TestShutdownBeforeTheProxyHeader(t *testing.T) {
	srv, addr := startServer(t, &recorder{}, func(c *ServerConfig) { c.Proxies = loopback })
	d := dial(t, addr)
	waitForSession(t, srv)
	shutdown(t, srv)
	d.play("< EOF")
}

func waitForSession(t *testing.T, srv *Server) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); srv.connections() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("no session")
		}
		time.Sleep(time.Millisecond)
	}
}

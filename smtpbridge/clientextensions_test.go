package smtpbridge

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/emersion/go-smtp"

	"mailxmppd/mail"
)

// TestExtensionParameters: what MAIL says where the next hop offers it.
func TestExtensionParameters(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*mail.Envelope)
		offers []string
		want   string // of MAIL; "": nothing is said, and the verdict
		refuse string
	}{
		{"priority", func(e *mail.Envelope) { e.Priority = new(-3) }, []string{"MT-PRIORITY MIXER"}, "MAIL FROM:<romeo@montague.example> MT-PRIORITY=-3", ""},
		{"priority zero", func(e *mail.Envelope) { e.Priority = new(0) }, []string{"MT-PRIORITY"}, "MAIL FROM:<romeo@montague.example> MT-PRIORITY=0", ""},
		{"priority, not offered", func(e *mail.Envelope) { e.Priority = new(9) }, nil, "MAIL FROM:<romeo@montague.example>", ""},
		{"by, notify", func(e *mail.Envelope) { e.DeliverBy = by(3600500, 'N', false) }, []string{"DELIVERBY"}, "MAIL FROM:<romeo@montague.example> BY=3600;N", ""},
		{"by, notify, over", func(e *mail.Envelope) { e.DeliverBy = by(-59_500, 'N', true) }, []string{"DELIVERBY"}, "MAIL FROM:<romeo@montague.example> BY=-59;NT", ""},
		{"by, notify, not offered", func(e *mail.Envelope) { e.DeliverBy = by(60_000, 'N', true) }, nil, "MAIL FROM:<romeo@montague.example>", ""},
		{"by, return", func(e *mail.Envelope) { e.DeliverBy = by(3600500, 'R', true) }, []string{"DELIVERBY 240"}, "MAIL FROM:<romeo@montague.example> BY=3600;RT", ""},
		{"by, return, less than needed", func(e *mail.Envelope) { e.DeliverBy = by(3600_500, 'R', false) }, []string{"DELIVERBY 3601"}, "", "554 5.4.7"},
		{"by, return, not offered", func(e *mail.Envelope) { e.DeliverBy = by(3600_500, 'R', false) }, nil, "", "554 5.3.3"},
		{"binary", func(e *mail.Envelope) { e.Body = mail.BodyBinaryMIME }, []string{"BINARYMIME", "CHUNKING"}, "MAIL FROM:<romeo@montague.example> BODY=BINARYMIME", ""},
		{"binary without chunking", func(e *mail.Envelope) { e.Body = mail.BodyBinaryMIME }, []string{"BINARYMIME"}, "", "554 5.6.3"},
		{"chunking without binary", func(e *mail.Envelope) { e.Body = mail.BodyBinaryMIME }, []string{"CHUNKING"}, "", "554 5.6.3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attemptOf(t, sample, "a@dest.example")
			c.change(&a.Envelope)
			s := startScript(t, c.offers, script(nil))
			got := newTestClient(t, nil).Deliver(t.Context(), s.hop(), a)
			_, commands, _ := s.got()
			want := "delivered"
			if c.want == "" {
				want = c.refuse
				if len(commands) != 1 {
					t.Errorf("commands %q", commands)
				}
			} else if len(commands) < 2 || commands[1] != c.want {
				t.Errorf("commands %q, want %q", commands, c.want)
			}
			if v := verdictsOf(got); v[0] != want {
				t.Errorf("%q, want %q", v, want)
			}
		})
	}
	t.Run("by, return, over", func(t *testing.T) {
		a := attemptOf(t, sample, "a@dest.example")
		a.Envelope.DeliverBy = by(-1, 'R', false)
		s := startScript(t, []string{"DELIVERBY"}, script(nil))
		got := newTestClient(t, nil).Deliver(t.Context(), s.hop(), a)
		if v := verdictsOf(got); v[0] != "554 5.4.7" {
			t.Errorf("%q", v)
		}
		if _, _, sessions := s.got(); sessions != 0 {
			t.Errorf("%d sessions", sessions)
		}
	})
	t.Run("by, return, to the mailbox itself", func(t *testing.T) {
		a := attemptOf(t, sample, "a@dest.example")
		a.Envelope.DeliverBy = by(60_000, 'R', false)
		s := startScript(t, nil, script(nil))
		if v := verdictsOf(newTestClient(t, nil).Deliver(t.Context(), s.lmtpHop(), a)); v[0] != "delivered" {
			t.Errorf("%q", v)
		}
	})
}

// by is a deadline so many milliseconds from now; half a second is room for
// the test.
func by(milliseconds int, mode byte, trace bool) *mail.DeliverBy {
	return &mail.DeliverBy{Deadline: time.Now().Add(time.Duration(milliseconds) * time.Millisecond), Mode: mode, Trace: trace}
}

// TestSuccessIsWhose: who reports the success of a delivered recipient.
func TestSuccessIsWhose(t *testing.T) {
	for _, c := range []struct {
		lmtp                    bool
		offers                  []string
		relayed, final, undated bool
	}{
		{false, []string{"DSN", "DELIVERBY"}, false, false, false},
		{false, []string{"DSN"}, false, false, true},
		{false, nil, true, false, true},
		{true, nil, false, true, false},
		{true, []string{"DSN"}, false, false, false},
	} {
		a := attemptOf(t, sample, "a@dest.example", "b@dest.example")
		a.Envelope.DeliverBy = by(60_000, 'N', false)
		s := startScript(t, c.offers, script(map[string]string{"rcpt2": "550 5.1.1 no"}))
		hop := s.hop()
		if c.lmtp {
			hop = s.lmtpHop()
		}
		got := newTestClient(t, nil).Deliver(t.Context(), hop, a)
		if o := got[0]; o.Failure != nil || o.Relayed != c.relayed || o.Final != c.final || o.Undated != c.undated {
			t.Errorf("lmtp %v, %q: %+v", c.lmtp, c.offers, o)
		}
		if o := got[1]; o.Failure == nil || o.Relayed || o.Final || o.Undated {
			t.Errorf("refused: %+v", o)
		}
	}
}

// TestChunks: content by BDAT arrives as it is, and every answer to it has its
// meaning.
func TestChunks(t *testing.T) {
	offers := []string{"PIPELINING", "8BITMIME", "BINARYMIME", "CHUNKING", "SIZE"}
	line := strings.Repeat("x", 76) + "\r\n"
	large := strings.Repeat(line, (2*chunkSize+chunkSize/8)/len(line)) // three chunks
	split := strings.Repeat("y", chunkSize-1) + "\r\n" + "." + "\r\n"  // a CRLF over the edge
	binary := "a\nb\rc\x00\xff\n.\n\r\n.\r\nno end"
	for _, c := range []struct {
		name    string
		binary  bool
		content string
		steps   map[string]string
		want    []string // two recipients
		arrives bool
		chunks  int
	}{
		{"large", false, large, nil, []string{"delivered", "delivered"}, true, 3},
		{"line end over the edge of a chunk", false, split, nil, []string{"delivered", "delivered"}, true, 2},
		{"without last line end", false, large + "end", nil, []string{"delivered", "delivered"}, true, 3},
		{"binary", true, binary, nil, []string{"delivered", "delivered"}, true, 1},
		{"binary, empty", true, "", nil, []string{"delivered", "delivered"}, true, 1},
		{"large binary", true, strings.Repeat("\n", chunkSize+1), nil, []string{"delivered", "delivered"}, true, 2},
		{"small lines go by DATA", false, sample, nil, []string{"delivered", "delivered"}, true, 0},
		{"bare LF", false, large + "a\nb\r\n", nil, []string{"554 5.6.3", "554 5.6.3"}, false, 3},
		{"bare CR", false, large + "a\rb\r\n", nil, []string{"554 5.6.3", "554 5.6.3"}, false, 3},
		{"CR at the end", false, large + "a\r", nil, []string{"554 5.6.3", "554 5.6.3"}, false, 3},
		{"CR at the edge of a chunk", false, strings.Repeat("y", chunkSize-1) + "\rz\r\n", nil, []string{"554 5.6.3", "554 5.6.3"}, false, 1},
		{"LF at the edge of a chunk", false, strings.Repeat("y", chunkSize) + "\nz\r\n", nil, []string{"554 5.6.3", "554 5.6.3"}, false, 1},
		{"one recipient refused", true, binary, map[string]string{"rcpt1": "550 5.1.1 no"}, []string{"550 5.1.1", "delivered"}, true, 1},
		{"all recipients refused", true, binary, map[string]string{"rcpt": "550 5.1.1 no"}, []string{"550 5.1.1", "550 5.1.1"}, false, 0},
		{"sender refused", true, binary, map[string]string{"mail": "550 5.7.1 no"}, []string{"550 5.7.1", "550 5.7.1"}, false, 0},
		{"first chunk refused", false, large, map[string]string{"bdat1": "552 5.3.4 no"}, []string{"552 5.3.4", "552 5.3.4"}, false, 1},
		{"second chunk deferred", false, large, map[string]string{"bdat2": "452 4.3.1 no"}, []string{"452 4.3.1", "452 4.3.1"}, false, 2},
		{"closes after the first", false, large, map[string]string{"bdat1": hangUp}, []string{"451 4.4.2", "451 4.4.2"}, false, 1},
		{"421 after the first", false, large, map[string]string{"bdat1": "421 4.3.2 no" + thenHangUp}, []string{"451 4.3.2", "451 4.3.2"}, false, 1},
		{"354 after the first", false, large, map[string]string{"bdat1": "354 what"}, []string{"451 4.5.2", "451 4.5.2"}, false, 1},
		{"last refused", false, large, map[string]string{"dot": "554 5.7.1 no"}, []string{"554 5.7.1", "554 5.7.1"}, true, 3},
		{"closes after the last", true, binary, map[string]string{"dot": hangUp}, []string{"doubt", "doubt"}, true, 1},
		{"nonsense after the last", true, binary, map[string]string{"dot": "what"}, []string{"doubt", "doubt"}, true, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startScript(t, offers, script(c.steps))
			a := attemptOf(t, "", "a@dest.example", "b@dest.example")
			a.Content = mail.Bytes(c.content)
			a.Trace = []byte("Received: by gw\r\n")
			if c.binary {
				a.Envelope.Body = mail.BodyBinaryMIME
			}
			if strings.Contains(c.name, "edge") { // of the whole, whose trace comes first
				a.Trace = nil
			}
			client := newTestClient(t, nil)
			got := client.Deliver(t.Context(), s.hop(), a)
			if v := verdictsOf(got); !slices.Equal(v, c.want) {
				t.Errorf("%q, want %q", v, c.want)
			}
			messages, commands := s.gotInTheEnd(t, client)
			if (len(messages) == 1) != c.arrives || c.arrives && messages[0] != string(a.Trace)+c.content {
				t.Errorf("%d messages", len(messages))
			}
			n := 0
			for _, command := range commands {
				if strings.HasPrefix(command, "BDAT ") {
					n++
				}
			}
			if n != c.chunks || slices.Contains(commands, "DATA") != (c.content == sample) {
				t.Errorf("%d chunks", n)
			}
		})
	}
	t.Run("after a refused chunk the session goes on", func(t *testing.T) {
		s := startScript(t, offers, script(map[string]string{"bdat1": "552 5.3.4 no"}))
		client := newTestClient(t, nil)
		client.Deliver(t.Context(), s.hop(), attemptOf(t, large, "a@dest.example"))
		if v := deliverOne(t, client, s); v != "delivered" {
			t.Errorf("%q", v)
		}
		if _, commands, sessions := s.got(); sessions != 1 || !slices.Contains(commands, "RSET") {
			t.Errorf("%d sessions, %q", sessions, commands)
		}
	})
	t.Run("content of another size", func(t *testing.T) {
		for name, size := range map[string]int64{"more": 10, "fewer": 1000} {
			s := startScript(t, offers, script(nil))
			a := attemptOf(t, "", "a@dest.example")
			a.Envelope.Body = mail.BodyBinaryMIME
			a.Content = sized{mail.Bytes(strings.Repeat("x", 100)), size}
			client := newTestClient(t, nil)
			got := client.Deliver(t.Context(), s.hop(), a)
			messages, _ := s.gotInTheEnd(t, client)
			if v := verdictsOf(got); v[0] != "451 4.3.0" || len(messages) != 0 {
				t.Errorf("%s: %q, %d messages", name, v, len(messages))
			}
		}
	})
	t.Run("lmtp", func(t *testing.T) {
		s := startScript(t, offers, script(map[string]string{"dot2": "552 5.2.2 full"}))
		got := newTestClient(t, nil).Deliver(t.Context(), s.lmtpHop(), attemptOf(t, large, "a@dest.example", "b@dest.example"))
		if v := verdictsOf(got); !slices.Equal(v, []string{"delivered", "552 5.2.2"}) {
			t.Errorf("%q", v)
		}
	})
}

// sized says that it has another size than it has.
type sized struct {
	mail.Bytes
	size int64
}

func (s sized) Size() int64 { return s.size }

// TestChunksToPeer: go-smtp's server takes them as meant.
func TestChunksToPeer(t *testing.T) {
	b, addr := startPeer(t, "tcp", "127.0.0.1:0", func(s *smtp.Server) { s.EnableBINARYMIME = true })
	content := strings.Repeat("\x00\n\xff\r.", 300_000)
	a := attemptOf(t, content, "a@dest.example")
	a.Envelope.Body = mail.BodyBinaryMIME
	got := newTestClient(t, nil).Deliver(t.Context(), Hop{Protocol: ProtocolSMTP, Addrs: []string{addr}}, a)
	if v := verdictsOf(got); v[0] != "delivered" {
		t.Fatalf("%q", v)
	}
	if m := b.got(); len(m) != 1 || m[0].content != content || m[0].mail.Body != smtp.BodyBinaryMIME {
		t.Errorf("%d messages", len(m))
	}
}

// FuzzLineGuard: in any split, what passes is what was given, and it passes
// exactly if every CR and LF is part of a CRLF.
func FuzzLineGuard(f *testing.F) {
	for _, s := range []string{"", "a\r\nb", "\n", "\r", "a\r", "\r\n\r\n", "a\rb\nc", "\r\r\n", "x\r\n\n"} {
		f.Add([]byte(s), uint8(1))
	}
	f.Fuzz(func(t *testing.T, content []byte, piece uint8) {
		var out bytes.Buffer
		g := &lineGuard{w: &out, left: int64(len(content))}
		var r io.Reader = bytes.NewReader(content)
		if piece == 1 {
			r = iotest.OneByteReader(r)
		}
		_, err := io.CopyBuffer(struct{ io.Writer }{g}, struct{ io.Reader }{r}, make([]byte, int(piece)+1))
		good := true
		for i, c := range content {
			if c == '\n' && (i == 0 || content[i-1] != '\r') || c == '\r' && (i+1 == len(content) || content[i+1] != '\n') {
				good = false
			}
		}
		if good != (err == nil) || good && !bytes.Equal(out.Bytes(), content) || !good && out.Len() == len(content) {
			t.Fatalf("%q: %v, passed %q", content, err, out.Bytes())
		}
	})
}

// TestUnfitHost: a message that requires TLS goes on to a host that can give
// it, and no further than that.
func TestUnfitHost(t *testing.T) {
	ca := newTestCA(t)
	cert := ca.issue(t, "a.example", "b.example")
	const plain, noPromise, good = "plain", "no REQUIRETLS", "good"
	for _, c := range []struct{ first, second, want string }{
		{good, good, "delivered"},
		{plain, good, "delivered"},
		{noPromise, good, "delivered"},
		{plain, plain, "550 5.7.10"},
		{noPromise, noPromise, "550 5.7.30"},
	} {
		t.Run(fmt.Sprintf("%s, %s", c.first, c.second), func(t *testing.T) {
			a, b, port := loopbackPair(t)
			offers := map[string][]string{plain: nil, noPromise: {"STARTTLS"}, good: {"STARTTLS", "REQUIRETLS"}}
			startScriptOn(t, a, offers[c.first], script(nil)).withTLS(cert)
			startScriptOn(t, b, offers[c.second], script(nil)).withTLS(cert)
			client := newTestClient(t, func(cfg *ClientConfig) {
				cfg.MXPort, cfg.Roots, cfg.Validating, cfg.DNS = port, ca.pool, true, twoHosts()
			})
			m := attemptOf(t, sample, "r@dest.example")
			m.Envelope.RequireTLS = true
			got := client.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP}, m)
			if v := verdictsOf(got); v[0] != c.want {
				t.Errorf("%q, want %q: %v", v, c.want, got[0].Failure)
			}
			if c.want == "delivered" && got[0].Proof != "pkix" {
				t.Errorf("proof %q", got[0].Proof)
			}
		})
	}
	t.Run("a name from unsigned DNS proves nothing", func(t *testing.T) {
		a, b, port := loopbackPair(t)
		b.Close()
		startScriptOn(t, a, []string{"STARTTLS", "REQUIRETLS"}, script(nil)).withTLS(cert)
		client := newTestClient(t, func(cfg *ClientConfig) { cfg.MXPort, cfg.Roots, cfg.DNS = port, ca.pool, twoHosts() })
		m := attemptOf(t, sample, "r@dest.example")
		m.Envelope.RequireTLS = true
		got := client.Deliver(t.Context(), Hop{Protocol: ProtocolSMTP}, m)
		if v := verdictsOf(got); v[0] != "451 4.4.1" { // the second host may fit, once it is up
			t.Errorf("%q", v)
		}
	})
}

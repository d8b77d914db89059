package clients

import (
	"bufio"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// session is a client that says what it is told to.
type session struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func open(t *testing.T, addr string) *session {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	s := &session{t, conn, bufio.NewReader(conn)}
	s.reply()
	return s
}

// say sends a line and returns the last line of its reply.
func (s *session) say(line string) string {
	s.t.Helper()
	_, err := fmt.Fprintf(s.conn, "%s\r\n", line)
	must(s.t, err)
	return s.reply()
}

func (s *session) reply() string {
	s.t.Helper()
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			s.t.Fatalf("after %q: %v", line, err)
		}
		if len(line) < 4 || line[3] != '-' {
			return strings.TrimSpace(line)
		}
	}
}

// TestNoOpenRelay: from a client with no rights, no form of an address leads
// out of our domains. What is taken is for a mailbox of ours, and goes to the
// mailboxes under just that name.
func TestNoOpenRelay(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		name, from, to string
		mailbox        string // "": refused
	}{
		{"plain", "a@far.example", "victim@other.example", ""},
		{"our own domain as the sender", "juliet@" + ours, "victim@other.example", ""},
		{"our own postmaster as the sender", "postmaster@" + ours, "victim@other.example", ""},
		{"null reverse-path", "", "victim@other.example", ""},
		{"the address of this host as the sender", "a@[127.0.0.1]", "victim@other.example", ""},
		{"postmaster elsewhere", "a@far.example", "postmaster@other.example", ""},
		{"percent hack", "a@far.example", "victim%other.example@" + ours, "victim%other.example@" + ours},
		{"two percent hacks", "a@far.example", "victim%other.example%third.example@" + ours, "victim%other.example%third.example@" + ours},
		{"UUCP route", "a@far.example", "other.example!victim@" + ours, "other.example!victim@" + ours},
		{"quoted address", "a@far.example", `"victim@other.example"@` + ours, `"victim@other.example"@` + ours},
		{"quoted percent hack", "a@far.example", `"victim%other.example"@` + ours, "victim%other.example@" + ours},
		{"quoted path", "a@far.example", `"victim@other.example> NOTIFY=NEVER"@` + ours, `"victim@other.example> NOTIFY=NEVER"@` + ours},
		{"quoted without our domain", "a@far.example", `"victim@other.example"`, ""},
		{"source route through us", "a@far.example", "@" + ours + ":victim@other.example", ""},
		{"source route to us", "a@far.example", "@other.example:victim@" + ours, ""},
		{"two at signs", "a@far.example", "victim@other.example@" + ours, ""},
		{"two at signs, ours first", "a@far.example", "victim@" + ours + "@other.example", ""},
		{"our domain as a subdomain", "a@far.example", "victim@" + ours + ".other.example", ""},
		{"a subdomain of ours", "a@far.example", "victim@sub." + ours, ""},
		{"our domain as a suffix", "a@far.example", "victim@not" + ours, ""},
		{"our domain in capitals", "a@far.example", "Romeo@OURS.Example", "Romeo@" + ours},
		{"literal of this host", "a@far.example", "victim@[127.0.0.1]", ""},
		{"literal of another host", "a@far.example", "victim@[192.0.2.1]", ""},
		{"IPv6 literal", "a@far.example", "victim@[IPv6:::1]", ""},
		{"localhost", "a@far.example", "victim@localhost", ""},
		{"no domain", "a@far.example", "victim", ""},
		{"empty domain", "a@far.example", "victim@", ""},
		{"space before the domain", "a@far.example", "victim@other.example @" + ours, ""},
		{"comma", "a@far.example", "romeo@" + ours + ",victim@other.example", ""},
		{"semicolon", "a@far.example", "romeo@" + ours + ";victim@other.example", ""},
		{"angle bracket", "a@far.example", "romeo@" + ours + "><victim@other.example", ""},
		{"comment", "a@far.example", "victim@other.example(@" + ours + ")", ""},
		{"NUL", "a@far.example", "victim@other.example\x00@" + ours, ""},
		{"homograph of our domain", "a@far.example", "victim@\u043eurs.example", ""},
		{"forged rewritten sender", "a@far.example", "SRS0=AAAA=AA=other.example=victim@" + ours, ""},
		{"forged rewritten sender, twice", "a@far.example", "SRS1=AAAA=" + ours + "==AAAA=AA=other.example=victim@" + ours, ""},
		{"a route in the detail", "a@far.example", "romeo+victim=other.example@" + ours, "romeo+victim=other.example@" + ours},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := len(s.rcpts(&s.mailboxRcpts))
			d := open(t, s.relayTLS)
			d.say("EHLO client.example")
			d.say("MAIL FROM:<" + c.from + ">")
			reply := d.say("RCPT TO:<" + c.to + ">")
			if taken := strings.HasPrefix(reply, "250"); taken != (c.mailbox != "") || !taken && !strings.HasPrefix(reply, "5") {
				t.Fatalf("answered %q", reply)
			}
			if c.mailbox == "" {
				if reply := d.say("DATA"); !strings.HasPrefix(reply, "5") {
					t.Errorf("DATA is answered %q", reply)
				}
				return
			}
			d.say("DATA")
			if reply := d.say("Subject: " + c.name + "\r\n\r\nx\r\n."); !strings.HasPrefix(reply, "250") {
				t.Fatalf("content is answered %q", reply)
			}
			s.arrived(t, c.name)
			if got := s.rcpts(&s.mailboxRcpts)[before:]; len(got) != 1 || got[0] != c.mailbox && !strings.HasPrefix(c.mailbox, `"`) {
				t.Errorf("handed on to %q, want %q", got, c.mailbox)
			}
		})
	}
	t.Run("a session of tricks", func(t *testing.T) {
		d := open(t, s.relayTLS)
		for _, line := range []string{
			"EHLO " + ours, "XCLIENT ADDR=127.0.0.1 LOGIN=juliet@" + ours, "XFORWARD ADDR=127.0.0.1", "AUTH PLAIN AGEAYg==", "PROXY TCP4 127.0.0.1 127.0.0.1 1 25",
		} {
			if reply := d.say(line); strings.HasPrefix(line, "PROXY") != strings.HasPrefix(reply, "421") {
				t.Errorf("%s: %q", line, reply)
			}
		}
		d = open(t, s.relayTLS)
		d.say("EHLO client.example")
		for _, line := range []string{"MAIL FROM:<juliet@" + ours + "> AUTH=juliet@" + ours, "MAIL FROM:<juliet@" + ours + ">"} {
			d.say(line)
		}
		if reply := d.say("RCPT TO:<victim@other.example>"); !strings.HasPrefix(reply, "550 5.7.1") {
			t.Errorf("answered %q", reply)
		}
	})
	if got := s.rcpts(&s.elsewhereRcpt); len(got) != 0 || s.elsewhere.Count() != 0 {
		t.Errorf("relayed for %q", got)
	}
	t.Run("for those who may", func(t *testing.T) { // or the rest would prove nothing
		d := open(t, s.relay)
		for _, line := range []string{"EHLO client.example", "MAIL FROM:<juliet@" + ours + ">", "RCPT TO:<friend@other.example>", "DATA"} {
			if reply := d.say(line); reply[0] != '2' && reply[0] != '3' {
				t.Fatalf("%s: %q", line, reply)
			}
		}
		d.say("Subject: x\r\n\r\nx\r\n.")
		for deadline := time.Now().Add(30 * time.Second); s.elsewhere.Count() == 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("not relayed\n" + s.gateway.Log())
			}
		}
		if got := s.rcpts(&s.elsewhereRcpt); !slices.Equal(got, []string{"friend@other.example"}) {
			t.Errorf("relayed for %q", got)
		}
	})
}

// TestPostmaster: accepted for every domain of ours and without one, whatever
// the case, also where a table of mailboxes does not name it (RFC 5321 section
// 4.5.1), from anybody and with a null reverse-path.
func TestPostmaster(t *testing.T) {
	s := newSite(t)
	for i, to := range []string{"postmaster", "PostMaster", "postmaster@" + ours, "POSTMASTER@" + ours, "postmaster@" + second, "Postmaster@SECOND.example"} {
		for _, from := range []string{"", "a@far.example"} {
			before := len(s.rcpts(&s.mailboxRcpts))
			mark := fmt.Sprintf("postmaster %d %s.", i, from)
			d := open(t, s.relayTLS)
			for _, line := range []string{"EHLO client.example", "MAIL FROM:<" + from + ">", "RCPT TO:<" + to + ">", "DATA"} {
				if reply := d.say(line); reply[0] != '2' && reply[0] != '3' {
					t.Fatalf("%s: %q", line, reply)
				}
			}
			d.say("Subject: " + mark + "\r\n\r\nx\r\n.")
			s.arrived(t, mark)
			want := strings.ToLower(to)
			if !strings.Contains(to, "@") {
				want += "@" + ours
			}
			if got := s.rcpts(&s.mailboxRcpts)[before:]; len(got) != 1 || strings.ToLower(got[0]) != want {
				t.Errorf("%s: handed on to %q", to, got)
			}
		}
	}
	d := open(t, s.relayTLS)
	d.say("EHLO client.example")
	d.say("MAIL FROM:<>")
	for to, want := range map[string]string{"somebody@" + second: "250", "nobody@" + second: "550 5.1.1", "postmaster@other.example": "550 5.7.1"} {
		if reply := d.say("RCPT TO:<" + to + ">"); !strings.HasPrefix(reply, want) {
			t.Errorf("%s: %q", to, reply)
		}
	}
}

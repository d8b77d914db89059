package demo

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emersion/go-smtp"
)

// oddContents are what transports get wrong.
func oddContents() map[string]string {
	return map[string]string{
		"one empty line":  "\r\n",
		"no header":       "no header at all\r\n",
		"empty body":      "Subject: x\r\n\r\n",
		"dots":            "Subject: x\r\n\r\n.\r\n..\r\n.a\r\n\r\n.\r\n",
		"dot first":       ".\r\nSubject: x\r\n",
		"eight bits":      "Subject: \xe9\r\n\r\n\x80\xff\xfe\x00\x01\r\n",
		"998 octets":      "Subject: x\r\n\r\n" + strings.Repeat("x", 998) + "\r\n." + strings.Repeat("y", 997) + "\r\n",
		"a line of 70000": strings.Repeat("z", 70000) + "\r\n",
		"megabyte":        strings.Repeat("0123456789.\r\n.", 80000) + "\r\n",
	}
}

// What goes in at the injector is what the mailbox writes, octet for octet, and
// twice if it is sent twice.
func TestInjectionAndMailboxAreExact(t *testing.T) {
	n := newTestNetwork(t)
	var got []arrival
	sink := n.boxes[2]
	sink.arrived = func(a arrival) { got = append(got, a) }
	e := entry{addr: sink.addr, tls: n.entry(&gateway{domain: "mx." + legacy}).tls}
	for name, content := range oddContents() {
		for range 2 {
			got = nil
			reply, err := e.send(t.Context(), "juliet+1@"+capulet, friar+"@"+legacy, letter{content: []byte(content)})
			if err != nil || !strings.HasPrefix(reply, "250 ") {
				t.Fatalf("%s: %q, %v", name, reply, err)
			}
			if len(got) != 1 || got[0].from != "juliet+1@"+capulet || got[0].rcpt != friar+"@"+legacy {
				t.Fatalf("%s: arrivals %+v", name, got)
			}
			file, err := os.ReadFile(got[0].file)
			if err != nil || string(file) != content {
				t.Errorf("%s: %d octets sent, %d written, %v", name, len(content), len(file), err)
			}
		}
	}
	for sub, want := range map[string]int{"new": 2 * len(oddContents()), "tmp": 0} {
		files, err := os.ReadDir(filepath.Join(sink.dir.path, sub))
		if err != nil || len(files) != want {
			t.Errorf("%d files in %s, want %d, %v", len(files), sub, want, err)
		}
	}
}

// LMTP: a file for each recipient, and a verdict for each.
func TestMailboxOverLMTP(t *testing.T) {
	n := newTestNetwork(t)
	box := n.boxes[1]
	var got []arrival
	box.arrived = func(a arrival) { got = append(got, a) }
	conn, err := net.Dial("tcp", box.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := smtp.NewClientLMTP(conn)
	defer c.Close()
	if err := c.Mail("", nil); err != nil {
		t.Fatal(err)
	}
	for rcpt, code := range map[string]int{
		"romeo@montague.example":           0,
		"Benvolio+detail@MONTAGUE.example": 0,
		"nobody@montague.example":          550,
		"romeo@capulet.example":            550,
		`"romeo@montague.example`:          501,
	} {
		err := c.Rcpt(rcpt, nil)
		reply, _ := errors.AsType[*smtp.SMTPError](err)
		if code == 0 && err != nil || code != 0 && (reply == nil || reply.Code != code) {
			t.Errorf("%s: %v", rcpt, err)
		}
		if code == 550 && reply != nil && reply.EnhancedCode != (smtp.EnhancedCode{5, 1, 1}) {
			t.Errorf("%s: enhanced code %v", rcpt, reply.EnhancedCode)
		}
	}
	w, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, "Subject: x\r\n\r\n")
	replies, err := w.CloseWithLMTPResponse()
	if err != nil || len(replies) != 2 {
		t.Errorf("%v, %v", replies, err)
	}
	if len(got) != 2 || got[0].file == got[1].file || got[0].from != "" {
		t.Errorf("arrivals %+v", got)
	}
	if err := c.Quit(); err != nil {
		t.Error(err)
	}
}

// A message that breaks off is not delivered, and nothing of it is taken for a
// command.
func TestMailboxDropsWhatBreaksOff(t *testing.T) {
	n := newTestNetwork(t)
	box := n.boxes[2]
	box.arrived = func(a arrival) { t.Errorf("arrived: %+v", a) }
	conn, err := net.Dial("tcp", box.addr)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<friar@legacy.example>\r\nDATA\r\nSubject: half\r\n\r\nhal")
	conn.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, conn)
	conn.Close()
	for _, sub := range []string{"new", "tmp"} {
		if files, _ := os.ReadDir(filepath.Join(box.dir.path, sub)); len(files) != 0 {
			t.Errorf("%d files in %s", len(files), sub)
		}
	}
}

func TestInjectionErrors(t *testing.T) {
	n := newTestNetwork(t)
	sink := entry{addr: n.boxes[2].addr}
	_, err := sink.send(t.Context(), "", "nobody@"+legacy, letter{})
	r, ok := errors.AsType[*refused](err)
	if !ok || r.stage != "RCPT" || r.line() != "550 5.1.1 No such mailbox at legacy.example" {
		t.Errorf("unknown recipient: %v", err)
	}
	sink.tls = n.entry(&gateway{domain: capulet}).tls
	if _, err := sink.send(t.Context(), "", friar+"@"+legacy, letter{}); err == nil {
		t.Error("a certificate for another name was taken")
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		c, err := silent.Accept()
		cancel()
		if err == nil {
			defer c.Close()
			io.Copy(io.Discard, c)
		}
	}()
	if _, err := (entry{addr: silent.Addr().String()}).send(ctx, "", "", letter{}); err == nil {
		t.Error("sent to a server that says nothing")
	}
}

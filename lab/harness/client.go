package harness

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strings"
	"time"
)

// Client is one SMTP session of a load generator: PIPELINING is used without
// asking, the content is dot-stuffed by the caller (Stuff).
type Client struct {
	c net.Conn
	r *bufio.Reader
	w *bufio.Writer
}

// Dial opens a session.
func Dial(addr string) (*Client, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return greet(c, "EHLO")
}

// greet begins a session on a connection, with EHLO or LHLO.
func greet(c net.Conn, hello string) (*Client, error) {
	c.SetDeadline(time.Now().Add(time.Minute))
	s := &Client{c, bufio.NewReader(c), bufio.NewWriterSize(c, 64<<10)}
	_, err := s.reply(220)
	if err == nil {
		fmt.Fprintf(s.w, "%s load.example\r\n", hello)
		s.w.Flush()
		_, err = s.reply(250)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// Stuff prepares content for Send: dots doubled, final dot added.
func Stuff(content []byte) []byte {
	out := bytes.ReplaceAll(content, []byte("\r\n."), []byte("\r\n.."))
	if bytes.HasPrefix(out, []byte(".")) {
		out = append([]byte("."), out...)
	}
	return append(bytes.Clone(out), ".\r\n"...)
}

// Send hands over one message, already stuffed, and returns the last reply.
func (s *Client) Send(from string, to []string, stuffed []byte) (string, error) {
	s.c.SetDeadline(time.Now().Add(2 * time.Minute))
	fmt.Fprintf(s.w, "MAIL FROM:<%s>\r\n", from)
	for _, r := range to {
		fmt.Fprintf(s.w, "RCPT TO:<%s>\r\n", r)
	}
	s.w.WriteString("DATA\r\n")
	s.w.Flush()
	for range 1 + len(to) {
		if text, err := s.reply(250); err != nil {
			return text, err
		}
	}
	if text, err := s.reply(354); err != nil {
		return text, err
	}
	s.w.Write(stuffed)
	if err := s.w.Flush(); err != nil {
		return "", err
	}
	return s.reply(250)
}

// reply reads one reply and demands its code.
func (s *Client) reply(want int) (string, error) {
	for {
		line, err := s.r.ReadString('\n')
		if err != nil {
			return "", err
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, fmt.Sprint(want)) {
			return line, fmt.Errorf("answered %q, want %d", line, want)
		}
		return line, nil
	}
}

// Close ends the session without ceremony.
func (s *Client) Close() { s.c.Close() }

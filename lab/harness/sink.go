package harness

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
)

// Sink is a final mailbox that takes everything by SMTP or LMTP and never
// de-duplicates. What Keep returns for a message is remembered, in order of
// arrival, once per recipient. Refuse may name recipients that it turns away.
type Sink struct {
	Addr string
	ln   net.Listener
	keep func(content []byte) string

	mu     sync.Mutex
	refuse func(recipient string) bool
	conns  map[net.Conn]bool
	got    []arrival
	count  int
	more   chan struct{}
}

// arrival is one message for one recipient.
type arrival struct{ kept, recipient string }

// NewSink listens on addr. keep may be nil: then only the count is kept.
func NewSink(addr string, keep func(content []byte) string) (*Sink, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &Sink{Addr: ln.Addr().String(), ln: ln, keep: keep, conns: map[net.Conn]bool{}, more: make(chan struct{}, 1)}
	go s.serve()
	return s, nil
}

// Refuse makes it answer 550 to RCPT for the addresses that turnAway picks.
func (s *Sink) Refuse(turnAway func(recipient string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = turnAway
}

func (s *Sink) refuses(rcpt string) bool {
	s.mu.Lock()
	turnAway := s.refuse
	s.mu.Unlock()
	return turnAway != nil && turnAway(recipientOf(rcpt))
}

// recipientOf is the address in a RCPT command.
func recipientOf(command string) string {
	_, rest, _ := strings.Cut(command, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}

func (s *Sink) serve() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		go func() {
			s.session(c)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

// Close ends the listener and all sessions.
func (s *Sink) Close() {
	s.ln.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *Sink) session(c net.Conn) {
	r, w := bufio.NewReaderSize(c, 64<<10), bufio.NewWriter(c)
	fmt.Fprintf(w, "220 sink ESMTP\r\n")
	lmtp, rcpts := false, []string(nil)
	for {
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		verb := strings.ToUpper(strings.TrimSpace(line))
		switch {
		case strings.HasPrefix(verb, "EHLO"), strings.HasPrefix(verb, "LHLO"):
			lmtp = verb[0] == 'L'
			fmt.Fprintf(w, "250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE\r\n")
		case strings.HasPrefix(verb, "RCPT") && s.refuses(line):
			fmt.Fprintf(w, "550 5.1.1 no such mailbox\r\n")
		case strings.HasPrefix(verb, "RCPT"):
			rcpts = append(rcpts, recipientOf(line))
			fmt.Fprintf(w, "250 2.1.5 ok\r\n")
		case strings.HasPrefix(verb, "MAIL"), strings.HasPrefix(verb, "RSET"):
			rcpts = nil
			fmt.Fprintf(w, "250 2.0.0 ok\r\n")
		case strings.HasPrefix(verb, "DATA") && len(rcpts) == 0:
			fmt.Fprintf(w, "503 5.5.1 no recipients\r\n")
		case strings.HasPrefix(verb, "DATA"):
			fmt.Fprintf(w, "354 go on\r\n")
			if w.Flush() != nil {
				return
			}
			content, err := readDots(r)
			if err != nil {
				return
			}
			s.take(content, rcpts)
			n := 1
			if lmtp {
				n = len(rcpts)
			}
			for range n {
				fmt.Fprintf(w, "250 2.0.0 taken\r\n")
			}
			rcpts = nil
		case strings.HasPrefix(verb, "QUIT"):
			fmt.Fprintf(w, "221 2.0.0 bye\r\n")
			w.Flush()
			return
		default:
			fmt.Fprintf(w, "250 2.0.0 ok\r\n")
		}
	}
}

// readDots reads to the final dot and takes the stuffing out.
func readDots(r *bufio.Reader) ([]byte, error) {
	var content []byte
	for {
		line, err := r.ReadSlice('\n')
		for err == bufio.ErrBufferFull {
			content = append(content, line...)
			line, err = r.ReadSlice('\n')
		}
		switch {
		case err != nil:
			return nil, io.ErrUnexpectedEOF
		case bytes.Equal(line, []byte(".\r\n")) && (len(content) == 0 || bytes.HasSuffix(content, []byte("\r\n"))):
			return content, nil
		case line[0] == '.' && (len(content) == 0 || content[len(content)-1] == '\n'):
			line = line[1:]
		}
		content = append(content, line...)
	}
}

func (s *Sink) take(content []byte, rcpts []string) {
	note := ""
	if s.keep != nil {
		note = s.keep(content)
	}
	s.mu.Lock()
	s.count += len(rcpts)
	if s.keep != nil {
		for _, r := range rcpts {
			s.got = append(s.got, arrival{note, r})
		}
	}
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}

// Count is how many messages arrived, once per recipient.
func (s *Sink) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Got returns what was kept of them.
func (s *Sink) Got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept := make([]string, len(s.got))
	for i, a := range s.got {
		kept[i] = a.kept
	}
	return kept
}

// arrived counts what arrived of each message for each recipient.
func (s *Sink) arrived(into map[arrival]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.got {
		into[a]++
	}
}

// More receives when something arrived.
func (s *Sink) More() <-chan struct{} { return s.more }

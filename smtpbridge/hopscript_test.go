package smtpbridge

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/mail"
)

// hopScript is a next hop that answers as its script says. A step is "greet",
// "ehlo", "helo", "mail", "rcpt", "data", "bdat" (a
// chunk before the last), "dot", "rset", "starttls", "quit";
// the script is asked with the session's number and the step's count in that
// session, both from 1, and "" means the proper answer.
type hopScript struct {
	addr string
	over chan struct{} // closed when the test is

	mu       sync.Mutex
	tls      *tls.Config // for after STARTTLS; nil: the plain dialogue goes on
	implicit bool        // tls from the first octet
	offers   []string
	answer   func(session int, step string, n int) string
	sessions int
	active   int      // sessions that are not over
	commands []string // of all sessions
	messages []string // whose final dot arrived, unstuffed
	early    bool     // something arrived before its turn although PIPELINING was not offered
}

// Answers beside a literal reply.
const (
	hangUp       = "HANG UP"       // close without an answer
	silence      = "SILENCE"       // no answer until the client closes
	endlessLines = "ENDLESS LINES" // of a reply that never ends
	endlessLine  = "ENDLESS LINE"
	inPieces     = "PIECES " // the reply that follows, octet by octet
	thenHangUp   = " THEN HANG UP"
)

var scriptOffers = []string{"PIPELINING", "8BITMIME", "SIZE 1000000", "DSN", "SMTPUTF8", "ENHANCEDSTATUSCODES"}

// script makes an answer function from a table of steps: "mail", or "rcpt2"
// for the second of a session.
func script(steps map[string]string) func(int, string, int) string {
	return func(_ int, step string, n int) string {
		if s, ok := steps[fmt.Sprint(step, n)]; ok {
			return s
		}
		return steps[step]
	}
}

func startScript(t testing.TB, offers []string, answer func(session int, step string, n int) string) *hopScript {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return startScriptOn(t, ln, offers, answer)
}

func startScriptOn(t testing.TB, ln net.Listener, offers []string, answer func(session int, step string, n int) string) *hopScript {
	s := &hopScript{addr: ln.Addr().String(), over: make(chan struct{}), offers: offers, answer: answer}
	var wg sync.WaitGroup
	var conns sync.Map
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.sessions++
			s.active++
			session := s.sessions
			s.mu.Unlock()
			conns.Store(conn, nil)
			wg.Go(func() {
				p := &scriptSession{hopScript: s, conn: conn, br: bufio.NewReader(conn), number: session, counts: map[string]int{}}
				p.run()
				conn.Close()
				s.mu.Lock()
				s.active--
				s.mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		close(s.over)
		ln.Close()
		conns.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		wg.Wait()
	})
	return s
}

// withTLS makes STARTTLS lead to a handshake.
func (s *hopScript) withTLS(cfg *tls.Config) *hopScript {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tls = cfg
	return s
}

func (s *hopScript) hop() Hop { return Hop{Protocol: ProtocolSMTP, Addrs: []string{s.addr}} }

func (s *hopScript) lmtpHop() Hop { return Hop{Protocol: ProtocolLMTP, Addrs: []string{s.addr}} }

func (s *hopScript) got() (messages, commands []string, sessions int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.messages), slices.Clone(s.commands), s.sessions
}

// gotInTheEnd is got once all sessions are over, for what must never arrive.
func (s *hopScript) gotInTheEnd(t *testing.T, c *Client) (messages, commands []string) {
	t.Helper()
	c.Close()
	eventually(t, "all sessions are over", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.active == 0
	})
	messages, commands, _ = s.got()
	return messages, commands
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within ten seconds: " + what)
		}
	}
}

type scriptSession struct {
	*hopScript
	conn   net.Conn
	br     *bufio.Reader
	number int
	counts map[string]int
	chunks string
}

// say answers a step; false ends the session.
func (p *scriptSession) say(step, proper string) (reply string, goOn bool) {
	p.counts[step]++
	reply = p.answer(p.number, step, p.counts[step])
	if reply == "" {
		reply = proper
	}
	reply, last := strings.CutSuffix(reply, thenHangUp)
	switch {
	case reply == hangUp:
		return reply, false
	case reply == silence:
		io.Copy(io.Discard, p.br)
		return reply, false
	case reply == endlessLines:
		for err := error(nil); err == nil; _, err = io.WriteString(p.conn, "250-more\r\n") {
		}
		return reply, false
	case reply == endlessLine:
		for err := error(nil); err == nil; _, err = io.WriteString(p.conn, strings.Repeat("2", 100)) {
		}
		return reply, false
	case strings.HasPrefix(reply, inPieces):
		reply = strings.TrimPrefix(reply, inPieces)
		for i := range len(reply) {
			p.conn.Write([]byte{reply[i]})
		}
		_, err := io.WriteString(p.conn, "\r\n")
		return reply, err == nil
	}
	_, err := io.WriteString(p.conn, reply+"\r\n")
	return reply, err == nil && !last
}

func (p *scriptSession) run() {
	p.mu.Lock()
	if p.implicit {
		p.conn = tls.Server(p.conn, p.tls)
		p.br = bufio.NewReader(p.conn)
	}
	p.mu.Unlock()
	if _, ok := p.say("greet", "220 mx.example ESMTP"); !ok {
		return
	}
	accepted, open := 0, false
	for {
		line, err := p.br.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSuffix(line, "\r\n")
		p.mu.Lock()
		p.commands = append(p.commands, line)
		if !slices.Contains(p.offers, "PIPELINING") && p.br.Buffered() > 0 {
			p.early = true
		}
		p.mu.Unlock()
		verb, _, _ := strings.Cut(strings.ToLower(line), " ")
		proper := "250 2.0.0 ok"
		switch verb {
		case "ehlo", "lhlo":
			verb = "ehlo"
			proper = strings.Join(append([]string{"250-mx.example"}, p.offers...), "\r\n250-")
			if i := strings.LastIndex(proper, "250-"); i >= 0 {
				proper = proper[:i] + "250 " + proper[i+4:]
			}
		case "mail":
			accepted = 0
		case "rcpt":
			if !open {
				proper = "503 5.5.1 no sender"
			}
		case "data":
			proper = "354 go ahead"
			if accepted == 0 {
				proper = "554 5.5.1 no valid recipients"
			}
		case "quit":
			p.say("quit", "221 2.0.0 bye")
			return
		case "starttls":
			proper = "220 2.0.0 go ahead"
		case "bdat":
			if !p.chunk(line, accepted) {
				return
			}
			continue
		case "rset":
			p.chunks = ""
		}
		reply, ok := p.say(verb, proper)
		if !ok {
			return
		}
		if verb == "starttls" && reply[0] == '2' {
			p.startTLS()
		}
		if verb == "mail" {
			open = reply[0] == '2'
		}
		if verb == "rcpt" && reply[0] == '2' {
			accepted++
		}
		if verb == "data" && strings.HasPrefix(reply, "354") && !p.content(accepted) {
			return
		}
	}
}

// chunk takes BDAT's octets and answers (RFC 3030 section 2).
func (p *scriptSession) chunk(line string, accepted int) bool {
	var size int
	fmt.Sscanf(line, "BDAT %d", &size)
	octets := make([]byte, size)
	if _, err := io.ReadFull(p.br, octets); err != nil {
		return false
	}
	p.chunks += string(octets)
	if !strings.HasSuffix(line, " LAST") {
		_, ok := p.say("bdat", "250 2.0.0 ok")
		return ok
	}
	content := p.chunks
	p.chunks = ""
	return p.took(content, accepted)
}

func (p *scriptSession) startTLS() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tls != nil {
		p.conn = tls.Server(p.conn, p.tls)
		p.br = bufio.NewReader(p.conn)
	}
}

func (p *scriptSession) content(accepted int) bool {
	switch answer := p.answer(p.number, "content", 1); answer {
	case "":
	case hangUp:
		p.br.ReadByte()
		return false
	default: // said while the content is under way, of which nothing is read
		if answer != silence {
			io.WriteString(p.conn, answer+"\r\n")
		}
		<-p.over
		return false
	}
	content, err := unstuff(p.br)
	if err != nil {
		return false
	}
	return p.took(content, accepted)
}

// took answers for a content that is there whole.
func (p *scriptSession) took(content string, accepted int) bool {
	p.mu.Lock()
	p.messages = append(p.messages, content)
	lmtp := strings.HasPrefix(p.commands[0], "LHLO")
	p.mu.Unlock()
	replies := 1
	if lmtp {
		replies = accepted
	}
	for range replies {
		if _, ok := p.say("dot", "250 2.0.0 ok queued as Q1"); !ok {
			return false
		}
	}
	return true
}

// newTestClient makes a client that the test closes.
func newTestClient(t testing.TB, change func(*ClientConfig)) *Client {
	t.Helper()
	cfg := ClientConfig{Hostname: "gw.example"}
	if change != nil {
		change(&cfg)
	}
	c := NewClient(cfg)
	t.Cleanup(c.Close)
	return c
}

func attemptOf(t testing.TB, content string, rcpts ...string) mail.Attempt {
	t.Helper()
	b := mail.NewBuffer(t.TempDir())
	if _, err := io.WriteString(b, content); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	a := mail.Attempt{Content: b, Facts: b.Facts(), Domain: "dest.example"}
	a.Envelope.Sender = mail.Address{Local: "romeo", Domain: "montague.example"}
	for _, r := range rcpts {
		addr, err := mail.ParseAddress(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Envelope.Recipients = append(a.Envelope.Recipients, mail.Recipient{Address: addr})
	}
	return a
}

// verdictOf writes a failure briefly.
func verdictOf(f *mail.Failure) string {
	switch {
	case f == nil:
		return "delivered"
	case f.Class == mail.InDoubt:
		return "doubt"
	}
	return fmt.Sprint(f.Code, " ", f.Status())
}

func verdictsOf(outcomes []mail.Outcome) []string {
	var out []string
	for _, o := range outcomes {
		out = append(out, verdictOf(o.Failure))
	}
	return out
}

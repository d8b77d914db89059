package twins

import (
	"bufio"
	"net"
	"strings"
	"sync"
	"testing"
)

// final is what becomes of the reply to a message's last dot.
type final int

const (
	pass   final = iota
	lose         // the connection is cut instead
	defer4       // a 451 takes its place
)

// session says how one SMTP session is disturbed.
type session struct {
	final final
	rcpt  string // this recipient is answered 451, by nobody but us
}

// between stands between an MTA and the gateway's listener, follows the SMTP
// dialogue and disturbs it by plan: the n-th message's session by the n-th
// entry, later ones not at all.
type between struct {
	addr, target string
	ln           net.Listener
	wg           sync.WaitGroup

	mu     sync.Mutex
	plan   []session
	groups []string // recipients that were let through, per message
	conns  map[net.Conn]bool
}

func newBetween(t *testing.T, target string) *between {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &between{addr: ln.Addr().String(), target: target, ln: ln, conns: map[net.Conn]bool{}}
	b.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		b.mu.Lock()
		for c := range b.conns {
			c.Close()
		}
		b.mu.Unlock()
		b.wg.Wait()
	})
	return b
}

func (b *between) disturb(plan []session) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.plan, b.groups = plan, nil
}

// seen lists the recipients of each message that went to the gateway.
func (b *between) seen() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.groups...)
}

func (b *between) next() session {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.plan) == 0 {
		return session{}
	}
	s := b.plan[0]
	b.plan = b.plan[1:]
	return s
}

func (b *between) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", b.target)
	if err != nil {
		return
	}
	defer server.Close()
	b.mu.Lock()
	b.conns[client], b.conns[server] = true, true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.conns, client)
		delete(b.conns, server)
		b.mu.Unlock()
	}()
	fromClient, fromServer := bufio.NewReader(client), bufio.NewReader(server)
	greeting, ok := reply(fromServer)
	if !ok {
		return
	}
	client.Write([]byte(greeting))
	var now session
	var rcpts []string
	for {
		line, err := fromClient.ReadString('\n')
		if err != nil {
			return
		}
		verb := strings.ToUpper(line)
		switch {
		case strings.HasPrefix(verb, "MAIL"):
			now, rcpts = b.next(), nil
		case strings.HasPrefix(verb, "RCPT") && now.rcpt != "" && strings.Contains(line, now.rcpt):
			client.Write([]byte("451 4.3.0 come again\r\n"))
			continue
		case strings.HasPrefix(verb, "RCPT"):
			rcpts = append(rcpts, line[strings.IndexByte(line, '<')+1:strings.IndexByte(line, '@')])
		}
		server.Write([]byte(line))
		answer, ok := reply(fromServer)
		if !ok {
			return
		}
		client.Write([]byte(answer))
		if strings.HasPrefix(answer, "354") && !b.message(client, server, fromClient, fromServer, now.final, rcpts) {
			return
		}
	}
}

// message passes the content on and deals with its reply; false ends the
// session.
func (b *between) message(client, server net.Conn, fromClient, fromServer *bufio.Reader, f final, rcpts []string) bool {
	for line := ""; line != ".\r\n"; {
		var err error
		if line, err = fromClient.ReadString('\n'); err != nil {
			return false
		}
		server.Write([]byte(line))
	}
	answer, ok := reply(fromServer)
	if !ok {
		return false
	}
	b.mu.Lock()
	b.groups = append(b.groups, strings.Join(rcpts, " "))
	b.mu.Unlock()
	switch f {
	case lose:
		return false
	case defer4:
		answer = "451 4.3.0 come again\r\n"
	}
	client.Write([]byte(answer))
	return true
}

// reply reads one reply. What would let the client send commands ahead, or
// its content otherwise than by DATA, is left out of it.
func reply(r *bufio.Reader) (string, bool) {
	var lines []string
	for {
		line, err := r.ReadString('\n')
		if err != nil || len(line) < 4 {
			return "", false
		}
		last := line[3] != '-'
		if word := strings.TrimSpace(line[4:]); word != "PIPELINING" && word != "CHUNKING" && word != "STARTTLS" {
			lines = append(lines, line[:3]+"-"+line[4:])
		}
		if last {
			end := lines[len(lines)-1]
			lines[len(lines)-1] = end[:3] + " " + end[4:]
			return strings.Join(lines, ""), true
		}
	}
}

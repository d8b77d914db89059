package smtpbridge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
)

// dovecotConn is a connection to Dovecot's authentication socket, with the
// handshake behind it. It is good for one exchange.
type dovecotConn struct {
	conn       net.Conn
	r          *bufio.Reader
	mechanisms []string
}

const (
	// maxDovecotLine is Dovecot's own bound for these lines.
	maxDovecotLine = 8 << 10
	// maxDovecotHello bounds the lines of the handshake.
	maxDovecotHello = 100
	// firstClientID is above every process id (4,194,304 on Linux): Dovecot
	// takes no two clients with one id, and others give their process id.
	firstClientID = 1 << 23
)

// dialDovecot connects and shakes hands, within ctx.
func dialDovecot(ctx context.Context, socket string) (*dovecotConn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("dovecot: %w", err)
	}
	d := &dovecotConn{conn: conn, r: bufio.NewReaderSize(conn, maxDovecotLine)}
	if err := d.handshake(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("dovecot: %w", err)
	}
	return d, nil
}

func (d *dovecotConn) Close() { d.conn.Close() }

func (d *dovecotConn) handshake(ctx context.Context) error {
	defer d.watch(ctx)()
	id := firstClientID + rand.Uint32N(1<<31-firstClientID)
	if _, err := fmt.Fprintf(d.conn, "VERSION\t1\t2\nCPID\t%d\n", id); err != nil {
		return err
	}
	sawVersion := false
	for range maxDovecotHello {
		words, err := d.line()
		if err != nil {
			return err
		}
		switch {
		case words[0] == "VERSION" && (len(words) < 2 || words[1] != "1"):
			return errors.New("protocol version is not 1")
		case words[0] == "VERSION":
			sawVersion = true
		case words[0] == "MECH" && len(words) > 1:
			d.mechanisms = append(d.mechanisms, strings.ToUpper(words[1]))
		case words[0] == "DONE" && sawVersion:
			return nil
		case words[0] == "DONE":
			return errors.New("handshake without a version")
		}
	}
	return errors.New("handshake does not end")
}

// usable lists what of Dovecot's mechanisms can be offered.
func (d *dovecotConn) usable() []string {
	list := []string{}
	if slices.Contains(d.mechanisms, mechScram) {
		list = append(list, mechScram)
	}
	if slices.Contains(d.mechanisms, mechPlain) { // LOGIN we lead to PLAIN ourselves
		list = append(list, mechPlain, mechLogin)
	}
	return list
}

// ask sends a line and returns the answer to it.
func (d *dovecotConn) ask(ctx context.Context, line string) (dovecotAnswer, error) {
	defer d.watch(ctx)()
	if len(line) >= maxDovecotLine {
		return dovecotAnswer{}, errResponse
	}
	if _, err := io.WriteString(d.conn, line+"\n"); err != nil {
		return dovecotAnswer{}, fmt.Errorf("dovecot: %w", err)
	}
	for range maxDovecotHello {
		words, err := d.line()
		if err != nil {
			return dovecotAnswer{}, fmt.Errorf("dovecot: %w", err)
		}
		if a, ok := parseDovecotAnswer(words); ok {
			return a, nil
		}
	}
	return dovecotAnswer{}, errors.New("dovecot: no answer among many lines")
}

// parseDovecotAnswer takes a line about the connection's one exchange; others
// are news about the server, and of no interest.
func parseDovecotAnswer(words []string) (dovecotAnswer, bool) {
	switch words[0] {
	case "OK", "CONT", "FAIL":
		if len(words) > 1 && words[1] == "1" {
			return dovecotAnswer{verb: words[0], params: words[2:]}, true
		}
	}
	return dovecotAnswer{}, false
}

// line reads a line and takes it apart.
func (d *dovecotConn) line() ([]string, error) {
	line, err := d.r.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\n"), "\t")
	for i, word := range words {
		words[i] = unescapeDovecot(word)
	}
	return words, nil
}

// unescapeDovecot undoes what Dovecot does to a value that would break a line.
func unescapeDovecot(s string) string {
	if !strings.Contains(s, "\x01") {
		return s
	}
	return strings.NewReplacer("\x010", "\x00", "\x011", "\x01", "\x01t", "\t", "\x01r", "\r", "\x01n", "\n").Replace(s)
}

// watch has the connection obey ctx until the returned function is called.
func (d *dovecotConn) watch(ctx context.Context) (stop func()) {
	if deadline, ok := ctx.Deadline(); ok {
		d.conn.SetDeadline(deadline)
	}
	undo := context.AfterFunc(ctx, func() { d.conn.Close() })
	return func() { undo() }
}

package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/emersion/go-smtp"
)

// entry is a listener that messages are injected at, as a neighbouring MTA or,
// with auth, a mail client would.
type entry struct {
	addr     string
	tls      *tls.Config // for STARTTLS; nil leaves it out
	implicit bool        // TLS from the first octet instead
	auth     *plainAuth  // nil for none
}

// Bounds of one injection. The second covers a peer's acceptance, which the
// gateway may wait for before it answers.
const (
	commandWithin = 30 * time.Second
	dataWithin    = 90 * time.Second
)

// refused is an answer of the server that is not positive.
type refused struct {
	stage string // "AUTH", "MAIL", "RCPT", "DATA"
	reply *smtp.SMTPError
}

func (r *refused) Error() string { return r.stage + " answered with " + r.line() }

// line is the reply as it was on the wire.
func (r *refused) line() string {
	s := fmt.Sprintf("%d ", r.reply.Code)
	if c := r.reply.EnhancedCode; c != (smtp.EnhancedCode{}) {
		s += fmt.Sprintf("%d.%d.%d ", c[0], c[1], c[2])
	}
	return s + r.reply.Message
}

// send hands one message to the server and returns its reply to DATA, e.g.
// "250 2.0.0 queued as 01J...". An answer that refuses is a *refused.
//
// The content goes out octet for octet: go-smtp's client alters only line ends
// that are not CRLF, which withCRLF has excluded.
func (e entry) send(ctx context.Context, from, to string, l letter) (string, error) {
	conn, err := (&net.Dialer{Timeout: commandWithin}).DialContext(ctx, "tcp", e.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c, err := e.greet(conn)
	if err != nil {
		return "", err
	}
	if e.auth != nil {
		if err := c.Auth(e.auth); err != nil {
			return "", atStage("AUTH", err)
		}
	}
	if err := c.Mail(from, &smtp.MailOptions{Size: int64(len(l.content)), UTF8: l.utf8Header()}); err != nil {
		return "", atStage("MAIL", err)
	}
	if err := c.Rcpt(to, nil); err != nil {
		return "", atStage("RCPT", err)
	}
	data, err := c.Data()
	if err != nil {
		return "", atStage("DATA", err)
	}
	if _, err := bytes.NewReader(l.content).WriteTo(data); err != nil {
		return "", fmt.Errorf("sending the content: %w", err)
	}
	reply, err := data.CloseWithResponse()
	if err != nil {
		return "", atStage("DATA", err)
	}
	c.Quit() // the message is handed over, whatever comes of this
	return "250 " + reply.StatusText, nil
}

// greet begins the session, with TLS where that is wanted.
func (e entry) greet(conn net.Conn) (*smtp.Client, error) {
	if e.implicit {
		conn = tls.Client(conn, e.tls)
	}
	c := smtp.NewClient(conn)
	if e.tls != nil && !e.implicit {
		conn.SetDeadline(time.Now().Add(commandWithin))
		var err error
		if c, err = smtp.NewClientStartTLS(conn, e.tls); err != nil {
			return nil, fmt.Errorf("starttls: %w", err)
		}
	}
	c.CommandTimeout, c.SubmissionTimeout = commandWithin, dataWithin
	return c, nil
}

func atStage(stage string, err error) error {
	if reply, ok := errors.AsType[*smtp.SMTPError](err); ok {
		return &refused{stage, reply}
	}
	return fmt.Errorf("%s: %w", stage, err)
}

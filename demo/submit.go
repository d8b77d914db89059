package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// pathSubmitted is the one path that only a message of the demo's own takes:
// others need not be from the user who submits.
const pathSubmitted = "submission" // a mail client to capulet, on to montague over XMPP

// login makes the gateway's user, who is to submit mail: as an operator would,
// before the gateway runs for the first time.
func (g *gateway) login(ctx context.Context, user string) error {
	ctx, cancel := context.WithTimeout(ctx, upWithin)
	defer cancel()
	g.user, g.password = user, rand.Text()
	log, err := os.OpenFile(g.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, g.exe, "user", "add", user, "--config", g.config)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(g.password+"\n"), log, log
	cmd.SysProcAttr = childAttributes()
	runtime.LockOSThread() // as in start
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("user %s was not made: %w", user, g.explain(err))
	}
	return nil
}

// plainAuth is AUTH PLAIN (RFC 4616) for the client of go-smtp.
type plainAuth struct{ user, password string }

// Start gives the one message of the exchange.
func (p plainAuth) Start() (mechanism string, response []byte, err error) {
	return "PLAIN", []byte("\x00" + p.user + "\x00" + p.password), nil
}

// Next has nothing more to say.
func (p plainAuth) Next([]byte) ([]byte, error) {
	return nil, errors.New("PLAIN is over, the server goes on")
}

// client is a submission listener as its user's mail client reaches it.
func (n *network) client(g *gateway, addr string, implicit bool) entry {
	return entry{addr: addr, tls: &tls.Config{RootCAs: n.ca.roots, ServerName: g.domain}, implicit: implicit, auth: &plainAuth{g.user, g.password}}
}

// submission submits a message as juliet, and then one that claims romeo as its
// author, which her gateway must refuse.
func (n *network) submission(ctx context.Context) error {
	a := n.gateways[0]
	g := leg{pathSubmitted, a, juliet, romeo + "@" + montague, "xmpp", "accepted by " + montague}
	own := submitted(juliet+"@"+capulet, g.rcpt)
	if err := n.injectAt(ctx, g, n.client(a, a.submissions, true), []letter{own}); err != nil {
		return err
	}
	if err := n.ledger.wait(ctx, g.path, n.crashed); err != nil {
		return err
	}
	return n.foreignAuthor(ctx, n.client(a, a.submission, false))
}

// foreignAuthor submits a message with a From that is not the user's.
func (n *network) foreignAuthor(ctx context.Context, at entry) error {
	from, to := juliet+"+author@"+capulet, romeo+"@"+montague
	reply, err := at.send(ctx, from, to, submitted(romeo+"@"+montague, to))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r, isRefusal := errors.AsType[*refused](err)
	e := event{Step: "refused", From: from, To: to, Reply: reply, Text: "taken, though From is not the user's"}
	switch {
	case isRefusal && r.stage == "DATA" && r.reply.Code == 553:
		e.OK, e.Text, e.Reply = true, "at DATA, since From is another's", r.line()
		n.refusals++
	case err != nil:
		e.Text, e.Reply = "not at DATA or not with 553", replyOf(err)
	}
	if !e.OK {
		n.problem("foreign author: %s: %s", e.Text, e.Reply)
	}
	n.timeline.say(e)
	return nil
}

// submitted is what a mail client submits. It has the Date and Message-ID that
// the gateway would else add.
func submitted(from, to string) letter {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <%s>\r\nTo: <%s>\r\nDate: %s\r\nMessage-ID: <%s@%s>\r\nSubject: from a mail client\r\n\r\nGood night, good night!\r\n",
		from, to, time.Now().Format(time.RFC1123Z), rand.Text(), domainOf(from))
	return letter{source: "(submitted)", content: b.Bytes()}
}

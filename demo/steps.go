package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"
)

// leg is one path of the scenario.
type leg struct {
	path      string
	gateway   *gateway
	user      string // of the reverse-path, at the gateway's domain
	rcpt      string
	transport string
	expected  string // what the reply to DATA must say
}

// play runs the scenario. What must hold and does not is a problem; an error
// means that going on is senseless.
func (n *network) play(ctx context.Context, letters []letter) error {
	a, b := n.gateways[0], n.gateways[1]
	ab := leg{pathAB, a, juliet, romeo + "@" + montague, "xmpp", "accepted by " + montague}
	ba := leg{pathBA, b, romeo, juliet + "@" + capulet, "xmpp", "accepted by " + capulet}
	sm := leg{pathLegacy, a, juliet, friar + "@" + legacy, "smtp", "queued as "}
	steps := []struct {
		heading string
		run     func() error
	}{
		{"capulet to montague over XMPP: the 250 is given after the peer's acceptance", func() error { return n.sendAll(ctx, ab, letters) }},
		{"montague to capulet over XMPP", func() error { return n.sendAll(ctx, ba, letters) }},
		{"capulet to legacy by SMTP, from the queue", func() error { return n.sendAll(ctx, sm, letters) }},
		{"montague is away: its mail waits in capulet's queue", func() error { return n.outage(ctx, letters) }},
		{"an unknown recipient is refused in the sender's own SMTP session", func() error { return n.unknownRecipient(ctx) }},
		{"juliet's mail client submits, with a password over TLS; it may not write in another's name", func() error { return n.submission(ctx) }},
		{"mallory.example, with a good certificate of its own, claims a capulet sender", func() error { return n.forgery(ctx) }},
	}
	for _, step := range steps {
		n.timeline.heading(step.heading)
		if err := step.run(); err != nil {
			return err
		}
	}
	return nil
}

// sendAll sends every letter along one path and waits until they have arrived.
func (n *network) sendAll(ctx context.Context, g leg, letters []letter) error {
	if err := n.inject(ctx, g, letters); err != nil {
		return err
	}
	return n.ledger.wait(ctx, g.path, n.crashed)
}

// entry is the gateway's relay listener, reached with STARTTLS.
func (n *network) entry(g *gateway) entry {
	return entry{addr: g.smtp, tls: &tls.Config{RootCAs: n.ca.roots, ServerName: g.domain}}
}

// inject sends every letter along one path.
func (n *network) inject(ctx context.Context, g leg, letters []letter) error {
	return n.injectAt(ctx, g, n.entry(g.gateway), letters)
}

// injectAt does so at a certain listener.
func (n *network) injectAt(ctx context.Context, g leg, at entry, letters []letter) error {
	for _, l := range letters {
		s := n.ledger.open(g.path, g.transport, g.user, g.gateway.domain, g.rcpt, l)
		reply, err := at.send(ctx, s.from, s.rcpt, l)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e := event{Step: "sent", OK: err == nil && strings.Contains(reply, g.expected), Path: g.path, From: s.from, To: s.rcpt,
			Source: l.source, Text: fmt.Sprintf("%d octets", len(l.content)), Reply: reply}
		if err != nil {
			e.Reply = replyOf(err)
			n.problem("%s from %s to %s: %v", l.source, s.from, s.rcpt, err)
		} else if !e.OK {
			n.problem("%s from %s to %s: the reply does not say %q: %s", l.source, s.from, s.rcpt, g.expected, reply)
		}
		n.ledger.reply(s, e, err == nil)
	}
	return nil
}

func replyOf(err error) string {
	if r, ok := errors.AsType[*refused](err); ok {
		return r.line()
	}
	return err.Error()
}

// outage stops montague, sends to it, and brings it back.
func (n *network) outage(ctx context.Context, letters []letter) error {
	a, b := n.gateways[0], n.gateways[1]
	old := b.pid()
	if err := b.stop(); err != nil {
		n.problem("%v", err)
	}
	n.timeline.say(event{Step: "stop", OK: true, Path: pathQueued, Text: fmt.Sprintf("gateway of %s: process %d ended after SIGTERM", montague, old)})
	q := leg{pathQueued, a, juliet, romeo + "@" + montague, "xmpp", "queued as "}
	if err := n.inject(ctx, q, letters); err != nil {
		return err
	}
	if err := n.bringUp(ctx, b); err != nil {
		return err
	}
	back := time.Now()
	if err := n.writeEndpoints(); err != nil {
		return err
	}
	if err := n.ledger.wait(ctx, pathQueued, n.crashed); err != nil {
		return err
	}
	if missing, _ := n.ledger.missing(pathQueued); missing == 0 {
		n.timeline.say(event{Step: "caught up", OK: true, Path: pathQueued,
			Text: fmt.Sprintf("everything that waited was delivered %.1f s after %s was back; the queue's retry timer stands at %s", time.Since(back).Seconds(), montague, retryFirst)})
	}
	return nil
}

// unknownRecipient offers a message for a mailbox that montague does not have:
// capulet asks it at RCPT, so that the sender hears at once and no bounce has
// to be made.
func (n *network) unknownRecipient(ctx context.Context) error {
	from, to := juliet+"+unknown@"+capulet, "nobody@"+montague
	reply, err := n.entry(n.gateways[0]).send(ctx, from, to, letter{content: []byte("Subject: nobody\r\n\r\nNobody reads this.\r\n")})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	r, isRefusal := errors.AsType[*refused](err)
	e := event{Step: "refused", From: from, To: to, Reply: reply, Text: "taken, though there is no such mailbox"}
	switch {
	case isRefusal && r.stage == "RCPT" && r.reply.Code == 550:
		e.OK, e.Text, e.Reply = true, "at RCPT", r.line()
		n.refusals++
	case err != nil:
		e.Text, e.Reply = "not at RCPT or not with 550", replyOf(err)
	}
	if !e.OK {
		n.problem("unknown recipient: %s: %s", e.Text, e.Reply)
	}
	n.timeline.say(e)
	return nil
}

// mustBeRefused is how many refusals the scenario contains.
const mustBeRefused = 3

// summary writes the last line. went is what the scenario has come to so far;
// the result says whether all of it held.
func (n *network) summary(went error) error {
	select {
	case err := <-n.crashed:
		n.problem("%v", err)
	default:
	}
	n.mu.Lock()
	problems := n.problems
	n.mu.Unlock()
	t := n.ledger.tally()
	t.Held = n.refusals
	t.OK = t.OK && went == nil && len(problems) == 0 && t.Held == mustBeRefused
	n.timeline.finish(t)
	switch {
	case t.OK || went != nil:
		return nil
	case len(problems) == 0:
		return errors.New("not everything that was sent arrived as it should")
	case len(problems) == 1:
		return errors.New(problems[0])
	}
	return fmt.Errorf("%s; and %d more", problems[0], len(problems)-1)
}

func domainOf(address string) string { return address[strings.LastIndexByte(address, '@')+1:] }

package smtpbridge

import (
	"context"
	"strings"

	"mailxmppd/mail"
)

// filterSession carries one session's messages to the next hop.
type filterSession struct {
	f        *Filter
	hc       *hopConn // nil before the first message, and after it was lost
	accepted int      // recipients that the next hop has taken
}

// Close ends the session with the next hop.
func (s *filterSession) Close() error {
	if s.hc != nil {
		s.hc.quit()
		s.hc = nil
	}
	return nil
}

// drop gives up a session with the next hop that cannot go on.
func (s *filterSession) drop() {
	if s.hc != nil {
		s.hc.abort()
		s.hc = nil
	}
}

// Sender begins a transaction at the next hop.
func (s *filterSession) Sender(ctx context.Context, c mail.Client, env mail.Envelope) *mail.Failure {
	s.accepted = 0
	for {
		fresh := s.hc == nil
		if f := s.connect(ctx); f != nil {
			return s.failed(f)
		}
		stop := context.AfterFunc(ctx, s.hc.abort)
		f := s.begin(c, env)
		stop()
		// The next hop ends sessions that have been idle for some minutes, as
		// Postfix's own client may be: a session found dead is made anew, once.
		if s.hc.broken {
			s.drop()
			if !fresh && ctx.Err() == nil {
				continue
			}
		}
		if f != nil {
			return s.failed(f)
		}
		return nil
	}
}

// connect opens the session with the next hop, or makes sure that the one
// there has no transaction open: the client may have given the last one up.
func (s *filterSession) connect(ctx context.Context) *mail.Failure {
	if s.hc != nil && s.hc.settle() {
		return nil
	}
	s.drop()
	var failure *mail.Failure
	for place, f := range s.f.cfg.Client.route(ctx, errand{hop: s.f.cfg.Next}) {
		if f == nil {
			s.hc, f = s.f.cfg.Client.dial(ctx, s.f.cfg.Next, place)
		}
		if failure = f; f == nil || ctx.Err() != nil {
			break
		}
	}
	return failure
}

// begin says whom the message comes from: the client, then the reverse-path.
func (s *filterSession) begin(c mail.Client, env mail.Envelope) *mail.Failure {
	if f := s.hc.cannotName(env); f != nil {
		return f
	}
	for _, line := range xforwardCommands(s.hc.caps.xforward, c) {
		if f := s.say(line); f != nil {
			return f
		}
	}
	line := strings.TrimSuffix(s.hc.mailCommand(env, nil), "\r\n")
	if env.Body == mail.Body8BitMIME && s.hc.caps.eightBit {
		line += " BODY=8BITMIME"
	}
	f := s.say(line)
	s.hc.open = f == nil
	return f
}

// say sends a command, and returns why the next hop refused it.
func (s *filterSession) say(line string) *mail.Failure {
	r, err := s.hc.ask(line)
	switch {
	case err != nil:
		s.hc.broken = true
		return s.hc.lost(err)
	case r.positive():
		return nil
	case r.code < 400:
		s.hc.broken = true
		return s.hc.lost(outOfPlace(r))
	}
	return s.hc.refused(r)
}

// Recipient asks the Judge and then the next hop.
func (s *filterSession) Recipient(ctx context.Context, c mail.Client, env mail.Envelope, r mail.Recipient) *mail.Failure {
	if f := s.f.cfg.Judge.Recipient(ctx, told(c), env, r); f != nil {
		s.f.counts.refusedRecipients.Add(1)
		return f
	}
	if s.hc == nil || s.hc.broken {
		return s.failed(noAnswer(s.f.cfg.Next.Addrs[0], nil))
	}
	if f := s.hc.cannotName(mail.Envelope{SMTPUTF8: env.SMTPUTF8, Recipients: []mail.Recipient{r}}); f != nil {
		return f
	}
	stop := context.AfterFunc(ctx, s.hc.abort)
	defer stop()
	if f := s.say(strings.TrimSuffix(s.hc.rcptCommand(r), "\r\n")); f != nil {
		return s.failed(f)
	}
	s.accepted++
	return nil
}

// Accept asks the Judge and then hands the message to the next hop, whose reply
// is the verdict.
func (s *filterSession) Accept(ctx context.Context, c mail.Client, m *mail.Message, _ bool) []mail.Verdict {
	id := ""
	if c.Forwarded != nil {
		id = c.Forwarded.Ident
	}
	found, f := askContent(ctx, s.f.cfg.Judge, Arrival{Client: told(c), Envelope: m.Envelope, Content: m.Content, Facts: m.Facts, ID: id})
	if f != nil {
		s.f.counts.refused.Add(1)
		addr, _ := c.Author()
		s.f.cfg.Log.Info("refused", "dir", "in", "transport", "filter", "from", m.Envelope.Sender, "remote", remoteText(addr),
			"size", m.Facts.Size, "status", f.Status(), "err", f)
		return []mail.Verdict{{Failure: f}}
	}
	if s.hc == nil || s.hc.broken || s.accepted != len(m.Envelope.Recipients) {
		return []mail.Verdict{{Failure: s.failed(noAnswer(s.f.cfg.Next.Addrs[0], nil))}}
	}
	content, err := s.f.cfg.Judge.Clean(m.Content)
	if err != nil {
		return []mail.Verdict{{Failure: mail.AsFailure(err)}}
	}
	if len(found.Refused) > 0 {
		m.Envelope.Recipients = found.kept(m.Envelope.Recipients)
		if f := s.again(ctx, c, m.Envelope); f != nil {
			return []mail.Verdict{{Failure: s.failed(f)}}
		}
	}
	stop := context.AfterFunc(ctx, s.hc.abort)
	defer stop()
	text, f := s.hand(mail.Attempt{Envelope: m.Envelope, Content: content, Facts: m.Facts, Trace: appendFields(nil, found.Fields)})
	if f != nil {
		return []mail.Verdict{{Failure: s.failed(f)}}
	}
	s.f.counts.passed.Add(1)
	return []mail.Verdict{{Text: text}}
}

// again names fewer recipients to the next hop: SMTP takes none back, so that
// the transaction is begun anew (RFC 5321 section 4.1.1.5).
func (s *filterSession) again(ctx context.Context, c mail.Client, env mail.Envelope) *mail.Failure {
	stop := context.AfterFunc(ctx, s.hc.abort)
	defer stop()
	if !s.hc.settle() {
		return noAnswer(s.f.cfg.Next.Addrs[0], nil)
	}
	if f := s.begin(c, env); f != nil {
		return f
	}
	for _, r := range env.Recipients {
		if f := s.say(strings.TrimSuffix(s.hc.rcptCommand(r), "\r\n")); f != nil {
			return f
		}
	}
	return nil
}

// hand sends the content and returns the next hop's words for its yes.
func (s *filterSession) hand(a mail.Attempt) (text string, f *mail.Failure) {
	if f := s.hc.cannotTake(a, needsOf(a)); f != nil {
		return "", f
	}
	r, err := s.hc.ask("DATA")
	switch {
	case err != nil:
		s.hc.broken = true
		return "", s.hc.lost(err)
	case r.code != 354 && r.code < 400:
		s.hc.broken = true
		return "", s.hc.lost(outOfPlace(r))
	case r.code != 354:
		return "", s.hc.refused(r)
	}
	if f := s.hc.sendContent(a); f != nil {
		return "", f
	}
	out := s.hc.verdicts(&transaction{failures: make([]*mail.Failure, 1)})
	return out[0].Text, out[0].Failure
}

// failed counts a failure of the next hop's.
func (s *filterSession) failed(f *mail.Failure) *mail.Failure {
	s.f.counts.nextFailed.Add(1)
	s.f.cfg.Log.Info("next hop of the filter refused", "remote", f.Remote, "status", f.Status(), "err", f)
	return f
}

package smtpbridge

import (
	"context"
	"errors"
	"os"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
)

// data answers DATA (RFC 5321 section 4.1.1.4): it takes in the content and
// hands the message to the Handler.
func (s *session) data(ctx context.Context, cmd command) bool {
	if refusal := s.dataRefusal(cmd); refusal != nil {
		// DATA is the last command of a group (RFC 2920 section 3.1): what is
		// here already is content that nobody asked for.
		if s.in.buffered() > 0 {
			return s.violation(serverReply{421, "4.7.0", "content without a 354"})
		}
		s.wary = true
		return s.refuse(*refusal)
	}
	s.reply(serverReply{354, "", "go ahead, end with CRLF.CRLF"})
	if s.out.flush() != nil {
		return false
	}
	in := s.newIntake(*s.env)
	defer in.close()
	defer s.reset()
	err := s.receive(in)
	if err == nil {
		err = in.finish()
	}
	if refused, ok := errors.AsType[*refusedContent](err); ok {
		return s.replyAll(in.env, refused.reply)
	}
	if err != nil {
		return s.contentLost(in.env, err)
	}
	return s.handOver(ctx, s.message(in))
}

func (s *session) dataRefusal(cmd command) *serverReply {
	switch {
	case s.intake != nil: // RFC 3030 section 2: not both in one transaction
		return &serverReply{503, "5.5.1", "DATA after BDAT"}
	case s.env == nil:
		return &serverReply{503, "5.5.1", "no MAIL before DATA"}
	case s.env.Body == mail.BodyBinaryMIME: // RFC 3030 section 3
		return &serverReply{503, "5.5.1", "BODY=BINARYMIME needs BDAT"}
	case len(s.env.Recipients) == 0:
		return s.noRecipients()
	case cmd.arg != "":
		return &serverReply{501, "5.5.4", "DATA takes no argument"}
	}
	return nil
}

func (s *session) noRecipients() *serverReply {
	if s.client.LMTP { // RFC 2033 section 4.2
		return &serverReply{503, "5.5.1", "no valid recipients"}
	}
	return &serverReply{554, "5.5.1", "no valid recipients"}
}

// receive takes in the content; its errors are those of dotReader.WriteTo.
func (s *session) receive(in *intake) error {
	defer s.enlarge()()
	s.reads, s.deadline = readContent, time.Now().Add(s.srv.cfg.Timeouts.DataStart)
	if _, err := s.in.block(); err != nil {
		return err
	}
	s.deadline = in.deadline
	_, err := newDotReader(s.in, s.srv.cfg.Limits, s.repairs(in.env)).WriteTo(in.sink)
	return err
}

// enlarge gives the session a large input buffer, and returns what takes it
// back. Commands after the content may fill more than the small buffer; the
// session then keeps the large one until the next message.
func (s *session) enlarge() func() {
	large := s.srv.large.Get().(*[]byte)
	small := s.in.resize(*large)
	return func() {
		if s.in.buffered() <= len(small) {
			s.in.resize(small)
			s.srv.large.Put(large)
		}
	}
}

// contentLost ends the session after content without an end: whatever comes
// next would be the rest of it, to be taken for commands by whoever wrote it.
func (s *session) contentLost(env mail.Envelope, err error) bool {
	switch {
	case errors.Is(err, errEndless):
		// Not 421, after which the client would come with the same again.
		s.replyAll(env, tooLarge())
		return s.breakOff()
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.srv.counts.timedOut.Add(1)
		return s.violation(serverReply{421, "4.4.2", "waited too long for the message"})
	}
	s.srv.cfg.Log.Info("smtp connection lost in content", "remote", s.remote(), "err", err)
	return false
}

// handOver gives the message to the Handler (gateway's Accept, the next hop)
// and its verdicts to the client.
func (s *session) handOver(ctx context.Context, m *mail.Message) bool {
	ctx, cancel := context.WithTimeout(ctx, s.srv.cfg.Timeouts.Accept)
	defer cancel()
	want := 1
	if s.client.LMTP {
		want = len(m.Envelope.Recipients)
	}
	verdicts := s.handler.Accept(ctx, s.client, m, s.client.LMTP)
	if len(verdicts) != want {
		s.srv.cfg.Log.Error("wrong number of verdicts", "id", m.ID, "want", want, "got", len(verdicts))
		return s.replyAll(m.Envelope, failureReply(mail.Fail(mail.Internal, "", nil)))
	}
	for _, v := range verdicts {
		reply := acceptedReply(v.Text)
		if v.Failure != nil {
			reply = failureReply(v.Failure)
		} else {
			s.commands, s.errors, s.unknown, s.discarded = 0, 0, 0, 0
		}
		if !s.reply(reply) {
			return false
		}
		if s.client.LMTP {
			faults.Point("lmtp.replying")
		}
	}
	faults.Point("smtp.before-reply")
	err := s.out.flush()
	faults.Point("smtp.replied")
	return err == nil
}

// replyAll gives the one reply to content, or for LMTP the same to every
// recipient (RFC 2033 section 4.2).
func (s *session) replyAll(env mail.Envelope, r serverReply) bool {
	s.srv.counts.contentsRefused.Add(1)
	ok := s.refuse(r)
	for i := 1; ok && s.client.LMTP && i < len(env.Recipients); i++ {
		ok = s.reply(r)
	}
	return ok
}

package smtpbridge

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
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
	env := *s.env
	s.env = nil
	content := mail.NewBuffer(s.srv.cfg.TempDir)
	defer content.Close()
	err := s.receive(content)
	if refused, ok := errors.AsType[*refusedContent](err); ok {
		return s.replyAll(env, refused.reply)
	}
	if err != nil {
		return s.contentLost(env, err)
	}
	m := &mail.Message{Envelope: env, Content: content, Facts: content.Facts(), Origin: s.origin()}
	return s.handOver(ctx, m)
}

func (s *session) dataRefusal(cmd command) *serverReply {
	switch {
	case s.env == nil:
		return &serverReply{503, "5.5.1", "no MAIL before DATA"}
	case len(s.env.Recipients) == 0 && s.client.LMTP: // RFC 2033 section 4.2
		return &serverReply{503, "5.5.1", "no valid recipients"}
	case len(s.env.Recipients) == 0:
		return &serverReply{554, "5.5.1", "no valid recipients"}
	case cmd.arg != "":
		return &serverReply{501, "5.5.4", "DATA takes no argument"}
	}
	return nil
}

// receive takes in the content; its errors are those of dotReader.WriteTo.
func (s *session) receive(content io.Writer) error {
	t := s.srv.cfg.Timeouts
	large := s.srv.large.Get().(*[]byte)
	small := s.in.resize(*large)
	defer func() {
		// Commands after the content may fill more than the small buffer; the
		// session then keeps the large one until the next message.
		if s.in.buffered() <= len(small) {
			s.in.resize(small)
			s.srv.large.Put(large)
		}
	}()
	s.reads, s.deadline = readContent, time.Now().Add(t.DataStart)
	if _, err := s.in.block(); err != nil {
		return err
	}
	s.deadline = time.Now().Add(t.DataTotal)
	_, err := newDotReader(s.in, s.srv.cfg.Limits).WriteTo(content)
	return err
}

// contentLost ends the session after content without an end: whatever comes
// next would be the rest of it, to be taken for commands by whoever wrote it.
func (s *session) contentLost(env mail.Envelope, err error) bool {
	switch {
	case errors.Is(err, errEndless):
		// Not 421, after which the client would come with the same again.
		s.replyAll(env, serverReply{552, "5.3.4", "message is too large"})
		return s.breakOff()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.violation(serverReply{421, "4.4.2", "waited too long for the message"})
	}
	s.srv.cfg.Log.Info("smtp connection lost in content", "remote", s.remote(), "err", err)
	return false
}

func (s *session) origin() mail.Origin {
	transport := "smtp"
	if s.client.LMTP {
		transport = "lmtp"
	}
	return mail.Origin{
		Transport: transport, Remote: s.remote(), Helo: s.client.Helo, User: s.client.User,
		TLS: s.client.TLS, Received: time.Now(),
	}
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
	verdicts := s.srv.cfg.Handler.Accept(ctx, s.client, m, s.client.LMTP)
	if len(verdicts) != want {
		s.srv.cfg.Log.Error("wrong number of verdicts", "id", m.ID, "want", want, "got", len(verdicts))
		return s.replyAll(m.Envelope, failureReply(mail.Fail(mail.Internal, "", nil)))
	}
	for _, v := range verdicts {
		reply := acceptedReply(v.Text)
		if v.Failure != nil {
			reply = failureReply(v.Failure)
		} else {
			s.commands, s.errors, s.unknown = 0, 0, 0
		}
		if !s.reply(reply) {
			return false
		}
	}
	faults.Point("smtp.before-reply")
	return s.out.flush() == nil
}

// replyAll gives the one reply to content, or for LMTP the same to every
// recipient (RFC 2033 section 4.2).
func (s *session) replyAll(env mail.Envelope, r serverReply) bool {
	ok := s.refuse(r)
	for i := 1; ok && s.client.LMTP && i < len(env.Recipients); i++ {
		ok = s.reply(r)
	}
	return ok
}

// sinkReply is the reply for content that could not be kept.
func sinkReply(err error) serverReply {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return serverReply{452, "4.3.1", "no space left, try again later"}
	}
	return serverReply{451, "4.3.0", "temporary local problem"}
}

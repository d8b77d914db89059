package smtpbridge

import (
	"errors"
	"io"
	"syscall"
	"time"

	"mailxmppd/mail"
)

// intake is the content of one message as it comes in: at once by DATA, or in
// chunks by BDAT.
type intake struct {
	env      mail.Envelope
	buffer   *mail.Buffer
	sink     io.Writer    // to the buffer, through what a submission server repairs
	fixer    *headerFixer // nil where the content is taken as it is
	guard    contentGuard // of BDAT; DATA's has its own
	size     int64        // octets so far, by BDAT
	deadline time.Time    // for the end of the content
}

// newIntake begins to take in content for an envelope.
func (s *session) newIntake(env mail.Envelope) *intake {
	cfg := &s.srv.cfg
	in := &intake{env: env, buffer: mail.NewBuffer(cfg.TempDir), deadline: time.Now().Add(cfg.Timeouts.DataTotal)}
	in.sink = in.buffer
	if cfg.Kind == KindSubmission {
		in.fixer = &headerFixer{w: in.buffer, host: cfg.Hostname, limit: cfg.Limits.HeaderBytes}
		in.sink = in.fixer
	}
	if s.repairs(env) {
		in.sink = &lineRepairer{w: in.sink}
	}
	return in
}

// repairs says whether bare LFs are to be repaired: only for a client of the
// submission listener, and not in content that is said to be binary.
func (s *session) repairs(env mail.Envelope) bool {
	cfg := &s.srv.cfg
	return cfg.Kind == KindSubmission && cfg.RepairLF && env.Body != mail.BodyBinaryMIME
}

// finish ends the content.
func (in *intake) finish() error {
	if in.fixer == nil {
		return nil
	}
	if err := in.fixer.Close(); err != nil {
		return &refusedContent{sinkReply(err)}
	}
	return nil
}

func (in *intake) close() {
	if in != nil {
		in.buffer.Close()
	}
}

// message is the message once its content is complete.
func (s *session) message(in *intake) *mail.Message {
	return &mail.Message{Envelope: in.env, Content: in.buffer, Facts: in.buffer.Facts(), Origin: s.origin()}
}

// origin says where the message in hand came from, as far as it is known.
func (s *session) origin() mail.Origin {
	transport := "smtp"
	if s.client.LMTP {
		transport = "lmtp"
	}
	addr, helo := s.client.Author()
	return mail.Origin{
		Transport: transport, Remote: remoteText(addr), Helo: helo, User: s.client.User,
		TLS: s.client.TLS, Received: time.Now(),
	}
}

// sinkReply is the reply for content that could not be kept.
func sinkReply(err error) serverReply {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return serverReply{452, "4.3.1", "no space left, try again later"}
	}
	return serverReply{451, "4.3.0", "temporary local problem"}
}

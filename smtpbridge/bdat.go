package smtpbridge

import (
	"context"
	"io"
	"strconv"
	"strings"
	"time"

	"mailxmppd/mail"
)

// chunk is the argument of BDAT (RFC 3030 section 2): a number of octets that
// follow the command, and whether they are the last ones of the message.
type chunk struct {
	size int64
	last bool
}

// parseChunk reads the argument of BDAT. Where it fails nobody can tell where
// the next command begins.
func parseChunk(arg string) (chunk, bool) {
	digits, rest, more := strings.Cut(arg, " ")
	last := strings.EqualFold(strings.Trim(rest, " "), "LAST")
	if len(digits) == 0 || len(digits) > 20 || strings.Trim(digits, "0123456789") != "" || more && !last {
		return chunk{}, false
	}
	size, err := strconv.ParseInt(digits, 10, 64)
	return chunk{size: size, last: last}, err == nil
}

// freeChunk is the size from which a chunk does not count as a command: such
// chunks are bounded by the size of the message.
const freeChunk = 1024

// bdat answers BDAT (RFC 3030 section 2). The octets of a chunk are always read
// to their number, whether they are wanted or not: a client that pipelines has
// sent them before it could know, and they are never read as commands.
func (s *session) bdat(ctx context.Context, cmd command) bool {
	c, ok := parseChunk(cmd.arg)
	if !ok {
		return s.violation(serverReply{501, "5.5.4", "syntax: BDAT size [LAST]"})
	}
	s.wary = true // if the size was wrong, what follows the chunk is no command
	refusal := s.chunkRefusal()
	if refusal != nil {
		return s.discardChunk(c, *refusal)
	}
	if s.intake == nil {
		s.intake = s.newIntake(*s.env)
		s.intake.guard = newContentGuard(s.srv.cfg.Limits, s.env.Body == mail.BodyBinaryMIME, s.repairs(*s.env))
	}
	in := s.intake
	if c.size > s.srv.cfg.Limits.MaxSize-in.size {
		return s.discardChunk(c, tooLarge())
	}
	if time.Now().After(in.deadline) {
		s.srv.counts.timedOut.Add(1)
		return s.violation(serverReply{421, "4.4.2", "waited too long for the message"})
	}
	if c.size >= freeChunk {
		s.commands--
	}
	if err := s.receiveChunk(in, c.size); err != nil {
		return s.contentLost(mail.Envelope{}, err)
	}
	if c.last {
		return s.lastChunk(ctx, in)
	}
	if refused := in.guard.refused; refused != nil {
		s.reset()
		s.srv.counts.contentsRefused.Add(1)
		return s.refuse(refused.reply)
	}
	return s.reply(serverReply{250, "2.0.0", strconv.FormatInt(c.size, 10) + " octets taken"})
}

func (s *session) chunkRefusal() *serverReply {
	switch {
	case s.env == nil: // or a chunk before this one was refused
		return &serverReply{503, "5.5.1", "no MAIL before BDAT"}
	case len(s.env.Recipients) == 0:
		return s.noRecipients()
	}
	return nil
}

// discardChunk reads a chunk away and refuses it. How much of that a client
// may have done has the bound that a message has by DATA.
func (s *session) discardChunk(c chunk, r serverReply) bool {
	var env mail.Envelope // whose recipients wait for a reply each (RFC 2033 section 4.3)
	if c.last && s.env != nil {
		env = *s.env
	}
	s.reset()
	if c.size > s.srv.cfg.Limits.endless()-s.discarded {
		return s.violation(r)
	}
	s.discarded += c.size
	in := &intake{sink: io.Discard, deadline: time.Now().Add(s.srv.cfg.Timeouts.DataTotal)}
	in.guard.refused = &refusedContent{r}
	if err := s.receiveChunk(in, c.size); err != nil {
		return s.contentLost(mail.Envelope{}, err)
	}
	if len(env.Recipients) > 0 {
		return s.replyAll(env, r)
	}
	return s.refuse(r)
}

// receiveChunk takes in the octets of a chunk. An error means that not all of
// them came.
func (s *session) receiveChunk(in *intake, size int64) error {
	if size > inputSmall {
		defer s.enlarge()()
	}
	s.reads, s.deadline = readContent, in.deadline
	for left := size; left > 0; {
		p, err := s.in.block()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		p = p[:min(int64(len(p)), left)]
		in.take(p)
		s.in.discard(len(p))
		left -= int64(len(p))
	}
	in.size += size
	return nil
}

// take gives octets to the sink unless the content is refused already.
func (in *intake) take(p []byte) {
	if in.guard.refused != nil {
		return
	}
	if in.guard.all(p); in.guard.refused != nil {
		return
	}
	if _, err := in.sink.Write(p); err != nil {
		in.guard.refuse(sinkReply(err))
	}
}

// lastChunk ends the content and hands the message on.
func (s *session) lastChunk(ctx context.Context, in *intake) bool {
	defer s.reset()
	in.guard.end()
	if in.size+in.guard.repaired > s.srv.cfg.Limits.MaxSize {
		in.guard.refuse(tooLarge())
	}
	if in.guard.refused != nil {
		return s.replyAll(in.env, in.guard.refused.reply)
	}
	if err := in.finish(); err != nil {
		return s.replyAll(in.env, sinkReply(err))
	}
	return s.handOver(ctx, s.message(in))
}

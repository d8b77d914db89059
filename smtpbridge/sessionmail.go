package smtpbridge

import (
	"context"
	"slices"

	"mailxmppd/mail"
)

// mail answers MAIL (RFC 5321 section 4.1.1.2), which begins a transaction.
func (s *session) mail(ctx context.Context, cmd command) bool {
	switch {
	case !s.greeted:
		return s.refuse(serverReply{503, "5.5.1", "say hello first"})
	case s.env != nil:
		return s.refuse(serverReply{503, "5.5.1", "nested MAIL"})
	case s.srv.cfg.Kind == KindSubmission && s.client.User == "": // RFC 6409 section 4.3
		return s.refuse(serverReply{530, "5.7.0", "authenticate first"})
	}
	path, refusal := parsePathArg("FROM:", cmd.arg)
	if refusal != nil {
		return s.refuse(*refusal)
	}
	env := mail.Envelope{Sender: path.address}
	if refusal := mailParams(&env, path.params, s.offered()); refusal != nil {
		return s.refuse(*refusal)
	}
	if !path.ascii && !env.SMTPUTF8 {
		return s.refuse(needsUTF8())
	}
	if refusal := s.srv.rates.message(s.client); refusal != nil {
		s.srv.counts.rateLimited.Add(1)
		s.srv.cfg.Log.Info("smtp message rate exceeded", "remote", s.remote(), "user", s.client.User)
		return s.refuse(*refusal)
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.cfg.Timeouts.Check)
	defer cancel()
	if f := s.handler.Sender(ctx, s.client, env); f != nil {
		return s.refuse(failureReply(f))
	}
	s.env = &env
	return s.reply(serverReply{250, "2.1.0", "sender ok"})
}

// rcpt answers RCPT (RFC 5321 section 4.1.1.3).
func (s *session) rcpt(ctx context.Context, cmd command) bool {
	if s.env == nil {
		return s.refuse(serverReply{503, "5.5.1", "no MAIL before RCPT"})
	}
	if s.intake != nil { // RFC 3030 section 2: the chunks are for those there are
		return s.refuse(serverReply{503, "5.5.1", "RCPT after BDAT"})
	}
	if len(s.env.Recipients) >= s.srv.cfg.Limits.Recipients {
		// Section 4.5.3.1.10: the client sends the rest in another transaction.
		return s.refuse(serverReply{452, "4.5.3", "too many recipients"})
	}
	path, refusal := parsePathArg("TO:", cmd.arg)
	if refusal != nil {
		return s.refuse(*refusal)
	}
	if path.address.IsNull() {
		return s.refuse(serverReply{553, "5.1.3", "no recipient"})
	}
	if !path.ascii && !s.env.SMTPUTF8 {
		return s.refuse(needsUTF8())
	}
	r := mail.Recipient{Address: path.address}
	if refusal := rcptParams(&r, path.params, s.env.SMTPUTF8); refusal != nil {
		return s.refuse(*refusal)
	}
	ctx, cancel := context.WithTimeout(ctx, s.srv.cfg.Timeouts.Check)
	defer cancel()
	env := *s.env
	env.Recipients = slices.Clip(env.Recipients)
	if f := s.handler.Recipient(ctx, s.client, env, r); f != nil {
		return s.refuseRecipient(f)
	}
	s.env.Recipients = append(s.env.Recipients, r)
	return s.reply(serverReply{250, "2.1.5", "recipient ok"})
}

// refuseRecipient does not count as an error of the session: a message to a
// list has many recipients that are gone, and 421 would keep it from the
// others for as long as its sender tries.
func (s *session) refuseRecipient(f *mail.Failure) bool {
	if s.unknown++; s.unknown > s.srv.cfg.Limits.Recipients {
		return s.violation(serverReply{421, "4.7.0", "too many refused recipients"})
	}
	return s.reply(failureReply(f))
}

// needsUTF8: RFC 6531 section 3.5.
func needsUTF8() serverReply {
	return serverReply{553, "5.6.7", "address needs the SMTPUTF8 parameter of MAIL"}
}

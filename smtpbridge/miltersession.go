package smtpbridge

import (
	"context"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-milter"

	"mailxmppd/mail"
)

// milterSession is one SMTP session of the neighbour's, with the message in
// hand. All of it runs on one goroutine, go-milter's.
type milterSession struct {
	m      *Milter
	ctx    context.Context
	client mail.Client
	msg    *milterMessage // nil outside a message
}

func (s *milterSession) inMessage() bool { return s.msg != nil }

// reset ends the message in hand.
func (s *milterSession) reset() {
	if s.msg != nil {
		s.msg.buffer.Close()
		s.msg = nil
	}
}

// milterRefusal is the answer to a failure. Sendmail takes its text for a format,
// other MTAs do not: percent signs are left out.
func milterRefusal(r serverReply) milter.Response {
	text := strings.ReplaceAll(r.text, "%", "")
	return milter.NewResponseStr(byte(milter.ActReplyCode), strconv.Itoa(r.code)+" "+r.status+" "+text)
}

// Connect begins the session.
func (s *milterSession) Connect(host, family string, port uint16, addr net.IP, m *milter.Modifier) (milter.Response, error) {
	s.reset()
	s.client = mail.Client{}
	if ip, ok := netip.AddrFromSlice(addr); ok {
		s.client.Addr = netip.AddrPortFrom(ip.Unmap(), port)
	}
	// Postfix says "unknown" of a host whose name and address do not agree, and
	// writes an address in brackets where there is no name.
	if host != "unknown" && !strings.HasPrefix(host, "[") {
		s.client.Name = clipName(host)
	}
	return milter.RespContinue, nil
}

// Helo takes the client's name for itself.
func (s *milterSession) Helo(name string, m *milter.Modifier) (milter.Response, error) {
	s.client.Helo, s.client.ESMTP = clipName(name), true
	s.client.TLS = milterTLS(m.Macros)
	return milter.RespContinue, nil
}

func clipName(s string) string { return cleanHello(s[:min(len(s), maxHello)]) }

// milterTLS writes the session's TLS as our own server does.
func milterTLS(macros map[string]string) string {
	version := macros["{tls_version}"]
	if version == "" {
		return ""
	}
	version = strings.Replace(version, "TLSv", "TLS", 1)
	return mail.Sanitise(strings.TrimSpace(version + " " + macros["{cipher}"]))
}

// MailFrom begins a message.
func (s *milterSession) MailFrom(from string, m *milter.Modifier) (milter.Response, error) {
	s.reset()
	sender, err := milterAddress(from)
	if err != nil {
		return s.refuse(mail.Fail(mail.BadAddress, "sender address is not valid", err)), nil
	}
	if s.client.TLS == "" { // the session began without; STARTTLS brings no HELO event of its own everywhere
		s.client.TLS = milterTLS(m.Macros)
	}
	s.client.User = m.Macros["{auth_authen}"]
	if !validUserName(s.client.User) {
		s.client.User = ""
	}
	s.msg = newMilterMessage(s.m.cfg, sender)
	return milter.RespContinue, nil
}

// milterAddress reads an address as the neighbour has it. go-milter has taken
// the brackets off.
func milterAddress(s string) (mail.Address, error) {
	if s == "" {
		return mail.Address{}, nil
	}
	return mail.ParseAddress(s)
}

// RcptTo judges a recipient. Whether its domain may be relayed to is the
// neighbour's own business.
func (s *milterSession) RcptTo(to string, m *milter.Modifier) (milter.Response, error) {
	if s.msg == nil {
		return milter.RespContinue, nil
	}
	address, err := milterAddress(to)
	if err != nil || address.IsNull() {
		return s.refuseRecipient(mail.Fail(mail.BadAddress, "", err)), nil
	}
	if len(s.msg.env.Recipients) >= s.m.cfg.Limits.Recipients {
		return milterRefusal(serverReply{452, "4.5.3", "too many recipients"}), nil
	}
	r := mail.Recipient{Address: address}
	ctx, cancel := context.WithTimeout(s.ctx, s.m.cfg.Timeouts.Recipient)
	defer cancel()
	env := s.msg.env
	env.Recipients = slices.Clip(env.Recipients)
	env.SMTPUTF8 = env.NeedsUTF8() || !address.IsASCII()
	if f := s.m.cfg.Judge.Recipient(ctx, s.client, env, r); f != nil {
		return s.refuseRecipient(f), nil
	}
	s.msg.env.Recipients, s.msg.rcpts = append(s.msg.env.Recipients, r), append(s.msg.rcpts, to)
	return milter.RespContinue, nil
}

func (s *milterSession) refuseRecipient(f *mail.Failure) milter.Response {
	s.m.counts.refusedRecipients.Add(1)
	return milterRefusal(failureReply(f))
}

// refuse refuses the message in hand, and ends it.
func (s *milterSession) refuse(f *mail.Failure) milter.Response {
	s.m.counts.refused.Add(1)
	var sender mail.Address
	var size int64
	if s.msg != nil {
		sender, size = s.msg.env.Sender, s.msg.buffer.Size()
	}
	s.m.log.Info("refused", "dir", "in", "transport", "milter", "from", sender, "remote", remoteText(s.client.Addr),
		"size", size, "status", f.Status(), "err", f)
	s.reset()
	return milterRefusal(failureReply(f))
}

// Header takes a field of the message.
func (s *milterSession) Header(name, value string, m *milter.Modifier) (milter.Response, error) {
	if s.msg == nil {
		return milter.RespContinue, nil
	}
	if f := s.msg.field(name, value); f != nil {
		return s.refuse(f), nil
	}
	s.msg.note(s.m.cfg.Judge, name, value)
	return milter.RespContinue, nil
}

// Headers ends the header. What go-milter has gathered of it is thrown away: it
// would do so only where a message is broken off.
func (s *milterSession) Headers(gathered textproto.MIMEHeader, m *milter.Modifier) (milter.Response, error) {
	clear(gathered)
	if s.msg == nil {
		return milter.RespContinue, nil
	}
	if f := s.msg.endHeader(); f != nil {
		return s.refuse(f), nil
	}
	return milter.RespContinue, nil
}

// BodyChunk takes a piece of the body.
func (s *milterSession) BodyChunk(chunk []byte, m *milter.Modifier) (milter.Response, error) {
	if s.msg == nil {
		return milter.RespContinue, nil
	}
	if f := s.msg.body(chunk); f != nil {
		return s.refuse(f), nil
	}
	return milter.RespContinue, nil
}

// Body judges the message, which is there whole now.
func (s *milterSession) Body(m *milter.Modifier) (milter.Response, error) {
	if s.msg == nil {
		return milter.RespContinue, nil
	}
	env := s.msg.env
	env.SMTPUTF8 = env.NeedsUTF8()
	ctx, cancel := context.WithTimeout(s.ctx, s.m.cfg.Timeouts.Content)
	defer cancel()
	found, f := askContent(ctx, s.m.cfg.Judge, Arrival{
		Client: s.client, Envelope: env, Content: s.msg.buffer, Facts: s.msg.buffer.Facts(), ID: clipName(m.Macros["i"]),
	})
	s.m.counts.messages.Add(1)
	if f != nil {
		return s.refuse(f), nil
	}
	poses, rcpts := s.msg.poses, s.msg.rcpts
	s.reset()
	for _, i := range found.Refused {
		if err := m.DeleteRecipient(rcpts[i]); err != nil {
			return nil, err
		}
	}
	// From the end, or the counts of those behind would change.
	for _, at := range slices.Backward(poses) {
		if err := m.ChangeHeader(at.n, at.name, ""); err != nil {
			return nil, err
		}
	}
	// Each goes before those that are there.
	for _, field := range slices.Backward(found.Fields) {
		if err := m.InsertHeader(0, field.Name, " "+field.Value); err != nil {
			return nil, err
		}
	}
	return milter.RespAccept, nil
}

// Abort ends the message in hand without a verdict.
func (s *milterSession) Abort(m *milter.Modifier) error {
	s.reset()
	return nil
}

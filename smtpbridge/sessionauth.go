package smtpbridge

import (
	"context"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"time"

	"mailxmppd/mail"
)

// mechanisms lists what AUTH takes now: nothing without TLS, and nothing more
// once the client is known.
func (s *session) mechanisms() []string {
	cfg := &s.srv.cfg
	if cfg.Kind != KindSubmission || s.client.TLS == "" || s.client.User != "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.srv.ctx, cfg.Timeouts.Check)
	defer cancel()
	list := cfg.Auth.Mechanisms(ctx, s.tls.bindings())
	if cfg.Tokens != nil {
		list = append(slices.Clip(list), mechBearer)
	}
	return list
}

// errTooManyAttempts is for an address or a user name with too many failures.
var errTooManyAttempts = errors.New("too many failed attempts")

// errCancelled is for a client that breaks an exchange off (RFC 4954 section 4).
var errCancelled = errors.New("cancelled")

// auth answers AUTH (RFC 4954).
func (s *session) auth(ctx context.Context, cmd command) bool {
	if s.srv.cfg.Kind != KindSubmission {
		return s.refuse(serverReply{502, "5.5.1", "command is not implemented"})
	}
	name, initial, given := strings.Cut(cmd.arg, " ")
	name = strings.ToUpper(name)
	switch {
	case !s.greeted:
		return s.refuse(serverReply{503, "5.5.1", "say hello first"})
	case s.client.User != "":
		return s.refuse(serverReply{503, "5.5.1", "already authenticated"})
	case s.env != nil:
		return s.refuse(serverReply{503, "5.5.1", "not in a mail transaction"})
	case !slices.Contains(s.mechanisms(), name):
		return s.refuse(serverReply{504, "5.5.4", "mechanism is not offered"})
	}
	x := &authAttempt{session: s, mechanism: name}
	user, ended, err := x.run(ctx, initial, given)
	if ended { // the connection, and err says how
		return s.authLost(err)
	}
	x.log(user, err)
	if err == nil {
		s.client.User = user
		return s.reply(serverReply{235, "2.7.0", "authenticated"})
	}
	r, told := authReply(err)
	if !told { // nobody failed but we
		s.srv.cfg.Guard.giveBack(s.client.Addr, x.admitted, time.Now())
	}
	if s.authTries++; s.authTries >= s.srv.cfg.Limits.AuthTries {
		s.reply(r)
		return s.violation(serverReply{421, "4.7.0", "too many failed authentications"})
	}
	return s.refuse(r)
}

// authReply: RFC 4954 section 6. told is false where the attempt came to no
// answer.
func authReply(err error) (r serverReply, told bool) {
	f, isFailure := errors.AsType[*mail.Failure](err)
	switch {
	case isFailure && f.Kind == mail.NotAuthorized:
		return serverReply{535, "5.7.8", "authentication failed"}, true
	case errors.Is(err, errTooManyAttempts):
		return serverReply{454, "4.7.0", "too many failed authentications, try again later"}, true
	case errors.Is(err, errCancelled):
		return serverReply{501, "5.7.0", "authentication cancelled"}, true
	case errors.Is(err, errResponse):
		return serverReply{501, "5.5.2", "malformed response"}, true
	}
	return serverReply{454, "4.7.0", "cannot authenticate now, try again later"}, false
}

// authLost ends a session that ended within an exchange.
func (s *session) authLost(err error) bool {
	s.srv.counts.authFailed.Add(1)
	if errors.Is(err, errStopping) {
		return s.end(serverReply{421, "4.3.2", "service is shutting down"})
	}
	return s.badInput(err)
}

// authAttempt is one AUTH command.
type authAttempt struct {
	*session
	mechanism string
	name      string // as the client gave it
	admitted  string // the name, once an attempt for it has been counted
}

// maxSteps bounds exchanges that somebody else conducts.
const maxSteps = 8

// run conducts the exchange. ended says that err is one of the connection.
func (x *authAttempt) run(ctx context.Context, initial string, given bool) (user string, ended bool, err error) {
	cfg := &x.srv.cfg
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeouts.Auth)
	defer cancel()
	if !cfg.Guard.address(x.client.Addr, time.Now()) {
		return "", false, errTooManyAttempts
	}
	exchange, err := x.begin(ctx)
	if err != nil {
		return "", false, err
	}
	defer exchange.Close()
	response, err := initialResponse(initial, given)
	if !given && x.mechanism != mechLogin { // these have the client begin
		response, ended, err = x.ask(ctx, nil)
	}
	for range maxSteps {
		if ended || err != nil {
			return "", ended, err
		}
		var step AuthStep
		if step, err = exchange.Next(ctx, response); err != nil {
			return "", false, err
		}
		if step.Done {
			return x.finish(step.User)
		}
		response, ended, err = x.ask(ctx, step.Challenge)
	}
	return "", false, errResponse
}

func (x *authAttempt) begin(ctx context.Context) (Exchange, error) {
	request := AuthRequest{Client: x.client, Bindings: x.tls.bindings(), Admit: x.admit}
	switch x.mechanism {
	case mechPlain, mechLogin:
		return &passwordExchange{auth: x.srv.cfg.Auth, request: request, login: x.mechanism == mechLogin}, nil
	case mechBearer:
		return &tokenExchange{tokens: x.srv.cfg.Tokens, request: request}, nil
	}
	return x.srv.cfg.Auth.Exchange(ctx, x.mechanism, request)
}

// admit counts an attempt for a user.
func (x *authAttempt) admit(user string) error {
	x.name = user
	if !x.srv.cfg.Guard.user(user, time.Now()) {
		return errTooManyAttempts
	}
	x.admitted = user
	return nil
}

func (x *authAttempt) finish(user string) (string, bool, error) {
	if !validUserName(user) {
		return "", false, errors.New("authenticator gave no fit user name")
	}
	x.srv.cfg.Guard.giveBack(x.client.Addr, x.admitted, time.Now())
	return user, false, nil
}

// log tells of the attempt, but nothing of what was in it.
func (x *authAttempt) log(user string, err error) {
	counts := &x.srv.counts
	if err == nil {
		counts.authOK.Add(1)
		x.srv.cfg.Log.Info("smtp authenticated", "remote", x.remote(), "user", user, "mechanism", x.mechanism)
		return
	}
	counts.authFailed.Add(1)
	if errors.Is(err, errTooManyAttempts) {
		counts.authLimited.Add(1)
	}
	x.srv.cfg.Log.Info("smtp authentication failed", "remote", x.remote(), "user", mail.Sanitise(x.name), "mechanism", x.mechanism, "err", err)
}

// initialResponse: RFC 4954 section 4, "=" being the empty one. nil stands for
// none.
func initialResponse(s string, given bool) ([]byte, error) {
	switch {
	case !given:
		return nil, nil
	case s == "=":
		return []byte{}, nil
	case s == "":
		return nil, errResponse
	}
	return decodeResponse([]byte(s))
}

func decodeResponse(line []byte) ([]byte, error) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(line)))
	n, err := base64.StdEncoding.Strict().Decode(out, line)
	if err != nil {
		return nil, errResponse
	}
	return out[:n], nil
}

// ask sends a challenge and reads the response to it.
func (x *authAttempt) ask(ctx context.Context, challenge []byte) (response []byte, ended bool, err error) {
	x.reply(serverReply{334, "", base64.StdEncoding.EncodeToString(challenge)})
	x.reads = readCommand
	x.deadline, _ = ctx.Deadline()
	line, err := x.in.line(authLine)
	if stopping := x.awake(); stopping {
		err = errStopping
	}
	switch {
	case err != nil:
		return nil, true, err
	case string(line) == "*":
		return nil, false, errCancelled
	}
	response, err = decodeResponse(line)
	return response, false, err
}

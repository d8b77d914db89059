package smtpbridge

import (
	"bytes"
	"context"
	"unicode/utf8"
)

// maxPassword bounds passwords, in octets.
const maxPassword = 1024

// passwordExchange is PLAIN or LOGIN, which hand over a password as it is.
type passwordExchange struct {
	auth    Authenticator
	request AuthRequest
	login   bool
	asked   bool   // LOGIN: for the user name
	user    string // LOGIN: once it is known
}

func (x *passwordExchange) Close() {}

func (x *passwordExchange) Next(ctx context.Context, response []byte) (AuthStep, error) {
	if x.login {
		return x.nextLogin(ctx, response)
	}
	user, password, ok := parsePlain(response)
	if !ok {
		return AuthStep{}, errResponse
	}
	return x.check(ctx, user, password)
}

// nextLogin: LOGIN was never more than a draft; the challenges are those that
// clients look for. A nil response means that there was none with the command.
func (x *passwordExchange) nextLogin(ctx context.Context, response []byte) (AuthStep, error) {
	switch {
	case response == nil && !x.asked:
		x.asked = true
		return AuthStep{Challenge: []byte("Username:")}, nil
	case x.user == "":
		if x.user = string(response); !validUserName(x.user) {
			return AuthStep{}, errResponse
		}
		return AuthStep{Challenge: []byte("Password:")}, nil
	case !validPassword(string(response)):
		return AuthStep{}, errResponse
	}
	return x.check(ctx, x.user, string(response))
}

func (x *passwordExchange) check(ctx context.Context, user, password string) (AuthStep, error) {
	if err := x.request.Admit(user); err != nil {
		return AuthStep{}, err
	}
	name, err := x.auth.Password(ctx, x.request.Client, user, password)
	return AuthStep{Done: err == nil, User: name}, err
}

// parsePlain reads the one message of PLAIN (RFC 4616 section 2). Nobody may
// act as somebody else, so that the authorization identity is the user or none.
func parsePlain(message []byte) (user, password string, ok bool) {
	parts := bytes.Split(message, []byte{0})
	if len(parts) != 3 {
		return "", "", false
	}
	user, password = string(parts[1]), string(parts[2])
	if as := string(parts[0]); as != "" && as != user {
		return "", "", false
	}
	return user, password, validUserName(user) && validPassword(password)
}

func validPassword(s string) bool {
	return s != "" && len(s) <= maxPassword && utf8.ValidString(s) && bytes.IndexByte([]byte(s), 0) < 0
}

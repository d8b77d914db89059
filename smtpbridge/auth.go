package smtpbridge

import (
	"context"
	"errors"
	"unicode"
	"unicode/utf8"

	"mailxmppd/mail"
)

// Authenticator knows the users of a submission listener. It is asked from
// many sessions at once, honours its context, and takes as long for a user
// that does not exist as for a wrong password. It returns the name of the
// user; wrong credentials are a *mail.Failure of kind mail.NotAuthorized, and
// any other error means that it cannot tell now.
type Authenticator interface {
	// Mechanisms lists what can be used over a connection with these bindings,
	// best first. PLAIN and LOGIN lead to Password, the rest to Exchange.
	Mechanisms(ctx context.Context, b ChannelBindings) []string
	// Password checks a user name and a password.
	Password(ctx context.Context, c mail.Client, user, password string) (string, error)
	// Exchange begins an exchange of another mechanism of the list.
	Exchange(ctx context.Context, mechanism string, request AuthRequest) (Exchange, error)
}

// AuthRequest is what an Exchange knows of the session that it is for.
type AuthRequest struct {
	Client   mail.Client
	Bindings ChannelBindings
	// Admit must be called, once, with the name that the client gives, before
	// anything is checked. Its error ends the exchange.
	Admit func(user string) error
}

// Exchange is an authentication under way (RFC 4422 section 3). One goroutine
// uses it; Close ends it, finished or not.
type Exchange interface {
	// Next takes a response of the client, the first one first, and gives the
	// next challenge, or with Done the user. It fails as Authenticator does.
	Next(ctx context.Context, response []byte) (AuthStep, error)
	Close()
}

// AuthStep is what an Exchange says to a response.
type AuthStep struct {
	Challenge []byte
	Done      bool
	User      string // with Done
}

// TokenVerifier checks the bearer tokens of OAUTHBEARER (RFC 7628). It fails
// as Authenticator does.
type TokenVerifier interface {
	Token(ctx context.Context, c mail.Client, token string) (user string, err error)
}

// errResponse is for a client that does not follow its mechanism.
var errResponse = errors.New("malformed response")

// wrongCredentials says no more than that: not whether the user exists.
func wrongCredentials() error { return mail.Fail(mail.NotAuthorized, "authentication failed", nil) }

// maxUserName bounds the names of users, in octets.
const maxUserName = 255

// validUserName keeps what could do harm in a log or another program's
// protocol out of names.
func validUserName(s string) bool {
	if s == "" || len(s) > maxUserName || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

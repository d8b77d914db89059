package smtpbridge

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"mailxmppd/mail"
)

// Users is where the gateway's own users are kept.
type Users interface {
	// Verifier returns the user's own form of a name and the Verifier in its
	// stored form; found is false where there is no such user, whose form of the
	// name is then that which a user would have. Safe for concurrent use.
	Verifier(ctx context.Context, name string) (user, verifier string, found bool, err error)
}

// StoredAuth is the Authenticator for Users: PLAIN, LOGIN, SCRAM-SHA-256 and
// SCRAM-SHA-256-PLUS.
type StoredAuth struct {
	users  Users
	secret []byte
	checks chan struct{} // holds a token for each Argon2id check under way
}

// argonChecks is how many passwords are checked at once, each in 19 MiB.
const argonChecks = 4

// NewStoredAuth makes a StoredAuth. From secret come the salts that names
// without a user are shown; it must be the same on all nodes and after a
// restart, or changing salts tell who does not exist. nil takes a random one.
func NewStoredAuth(users Users, secret []byte) (*StoredAuth, error) {
	if users == nil {
		return nil, errors.New("stored users: no users")
	}
	if secret == nil {
		secret = make([]byte, 32)
		rand.Read(secret)
	}
	if len(secret) < 16 {
		return nil, fmt.Errorf("stored users: secret has %d octets, must have at least 16", len(secret))
	}
	return &StoredAuth{users: users, secret: secret, checks: make(chan struct{}, argonChecks)}, nil
}

// Mechanisms is the same for all but the channel binding.
func (a *StoredAuth) Mechanisms(_ context.Context, b ChannelBindings) []string {
	list := []string{mechScram, mechPlain, mechLogin}
	if len(b) > 0 {
		list = append([]string{mechScramPlus}, list...)
	}
	return list
}

// Password checks a password, waiting its turn where many are checked.
func (a *StoredAuth) Password(ctx context.Context, _ mail.Client, user, password string) (string, error) {
	name, v, found, err := a.find(ctx, user)
	if err != nil {
		return "", err
	}
	select {
	case a.checks <- struct{}{}:
		defer func() { <-a.checks }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if matches := v.Matches(password); !matches || !found {
		return "", wrongCredentials()
	}
	return name, nil
}

// Exchange begins SCRAM.
func (a *StoredAuth) Exchange(_ context.Context, mechanism string, request AuthRequest) (Exchange, error) {
	if mechanism != mechScram && mechanism != mechScramPlus {
		return nil, fmt.Errorf("mechanism %q is not known", mechanism)
	}
	return newScramExchange(request, mechanism == mechScramPlus, func(ctx context.Context, user string) (scramLookup, error) {
		name, v, found, err := a.find(ctx, user)
		return scramLookup{User: name, Keys: v.Scram, Known: found}, err
	}), nil
}

// find returns a verifier for every name, made up where there is no user: the
// same for all ways to write a name, as that of a user would be.
func (a *StoredAuth) find(ctx context.Context, user string) (name string, v Verifier, found bool, err error) {
	name, stored, found, err := a.users.Verifier(ctx, user)
	fake := fakeVerifier(a.secret, cmp.Or(name, user))
	if err != nil || !found {
		return "", fake, false, err
	}
	if v, err = ParseVerifier(stored); err != nil {
		return "", fake, false, fmt.Errorf("user %q: %w", name, err)
	}
	return name, v, true, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/text/secure/precis"

	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
)

// Bounds of what is kept of a user.
const (
	maxUserName      = 255
	maxOwnAddresses  = 500
	wholeDomainStart = "@"
)

// users are the store's users as smtpbridge and the gateway see them.
type users struct {
	store store.Users
	// domain completes the names of users whom only Dovecot knows; "" where
	// Dovecot is not asked, and somebody unknown owns nothing.
	domain string
}

// Verifier implements smtpbridge.Users.
func (u users) Verifier(ctx context.Context, name string) (user, verifier string, found bool, err error) {
	known, err := u.find(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		user, _ = userName(name) // "" for what nobody can be called
		return user, "", false, nil
	case err != nil:
		return "", "", false, err
	}
	return known.Name, known.Verifier, known.Verifier != "", nil
}

// Owns implements gateway.Owners.
func (u users) Owns(ctx context.Context, name string) ([]string, error) {
	known, err := u.find(ctx, name)
	if !errors.Is(err, store.ErrNotFound) {
		return known.Addresses, err
	}
	if own, ok := nameAddress(name, u.domain); ok && u.domain != "" {
		return []string{own}, nil
	}
	return nil, nil
}

func (u users) find(ctx context.Context, name string) (store.User, error) {
	name, err := userName(name)
	if err != nil {
		return store.User{}, store.ErrNotFound
	}
	return u.store.User(ctx, name)
}

// userName puts a name into the form in which users are stored and compared:
// capital letters make no difference (RFC 8265 section 3.3).
func userName(s string) (string, error) {
	name, err := precis.UsernameCaseMapped.String(s)
	if err != nil || len(name) > maxUserName {
		return "", fmt.Errorf("%q is not a user name: wants at most %d octets without spaces and control characters", clip(s), maxUserName)
	}
	return name, nil
}

// nameAddress is the address that a user's name is, at domain where it has none
// of its own.
func nameAddress(name, domain string) (string, bool) {
	if !strings.Contains(name, "@") {
		name += "@" + domain
	}
	a, err := mail.ParseAddress(name)
	return a.String(), err == nil && a.Domain != ""
}

// ownAddresses puts what a user may write from into the form that the gateway
// compares.
func ownAddresses(list []string) ([]string, error) {
	if len(list) > maxOwnAddresses {
		return nil, fmt.Errorf("at most %d addresses", maxOwnAddresses)
	}
	out := make([]string, len(list))
	for i, s := range list {
		if domain, whole := strings.CutPrefix(s, wholeDomainStart); whole {
			d, err := mail.ParseDomain(domain)
			if err != nil {
				return nil, err
			}
			out[i] = wholeDomainStart + d
			continue
		}
		a, err := mail.ParseAddress(s)
		if err != nil {
			return nil, err
		}
		if a.Domain == "" {
			return nil, fmt.Errorf("address %q: no domain", clip(s))
		}
		out[i] = a.String()
	}
	return out, nil
}

// asksDovecot reports whether any listener leaves its users to Dovecot.
func asksDovecot(cfg *config.Config) bool {
	for _, l := range cfg.Listeners {
		if _, ok := l.DovecotSocket(); ok {
			return true
		}
	}
	return false
}

package grants

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Book is where an operator decides on grants: the store, or a running
// gateway's socket. See store.Grants.
type Book interface {
	PutGrant(ctx context.Context, g store.Grant, b store.GrantBounds) error
	DeleteGrant(ctx context.Context, n store.GrantName) error
	FindGrants(ctx context.Context, kind store.GrantKind, recipients []string, peer string, authors []string) ([]store.Grant, error)
}

// Party reads who a grant is for or from, as an operator writes it: a mailbox,
// or a domain with or without "@" before it. The result is the form in which
// it is stored.
func Party(s string) (name, domain string, err error) {
	if d, whole := strings.CutPrefix(s, wholeDomain); whole || !strings.Contains(s, "@") {
		if domain, err = mail.ParseDomain(d); err != nil {
			return "", "", err
		}
		return wholeDomain + domain, domain, nil
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		return "", "", err
	}
	return Name(a), a.Domain, nil
}

// Permit is the grant of a recipient of ours for an author, with a fresh key
// where both are mailboxes: a key is bound to them (xep-draft section 10.2).
// until zero stands for no end.
func Permit(recipient, author, peer string, origin store.GrantOrigin, until time.Time) store.Grant {
	g := store.Grant{
		GrantName: store.GrantName{Kind: store.GrantGiven, Recipient: recipient, Author: author},
		Peer:      peer, State: store.Granted, Origin: origin, Expires: until, Told: true,
	}
	if !strings.HasPrefix(recipient, wholeDomain) && !strings.HasPrefix(author, wholeDomain) {
		g.Key, g.Told = make([]byte, keyLength), false
		rand.Read(g.Key)
	}
	return g
}

// Approve permits what was asked for, if it still waits.
func Approve(ctx context.Context, st Book, asked store.Grant, origin store.GrantOrigin, until time.Time) error {
	if err := st.PutGrant(ctx, Permit(asked.Recipient, asked.Author, asked.Peer, origin, until), store.GrantBounds{}); err != nil {
		return err
	}
	return forget(ctx, st, asked.GrantName)
}

// Deny refuses what was asked for, for good. The author hears nothing
// (xep-draft section 10.1).
func Deny(ctx context.Context, st Book, asked store.Grant, origin store.GrantOrigin) error {
	denied := store.Grant{
		GrantName: store.GrantName{Kind: store.GrantGiven, Recipient: asked.Recipient, Author: asked.Author},
		Peer:      asked.Peer, State: store.Revoked, Origin: origin, Told: true,
	}
	if err := st.PutGrant(ctx, denied, store.GrantBounds{}); err != nil {
		return err
	}
	return forget(ctx, st, asked.GrantName)
}

// Revoke takes a grant of ours back, or gives one of an author of ours up. Its
// key is forgotten, hence not valid any more.
func Revoke(ctx context.Context, st Book, n store.GrantName, peer string) error {
	known, err := Find(ctx, st, n, peer)
	if err != nil {
		return err
	}
	known.State, known.Origin, known.Key, known.Expires = store.Revoked, store.ByOperator, nil, time.Time{}
	known.Told = strings.HasPrefix(n.Recipient, wholeDomain) || strings.HasPrefix(n.Author, wholeDomain)
	if n.Kind == store.GrantHeld {
		known.Expires = time.Now().Add(heldRevokedFor)
	}
	return st.PutGrant(ctx, known, store.GrantBounds{})
}

// heldRevokedFor is how long a grant that was given up is kept, so that its
// peer hears of it.
const heldRevokedFor = 30 * 24 * time.Hour

// Ask has an author of ours ask a peer's recipient.
func Ask(ctx context.Context, st Book, recipient, author, peer, text string) error {
	if strings.HasPrefix(recipient, wholeDomain) || strings.HasPrefix(author, wholeDomain) {
		return errors.New("only a mailbox can ask a mailbox")
	}
	return st.PutGrant(ctx, store.Grant{
		GrantName: store.GrantName{Kind: store.GrantWanted, Recipient: recipient, Author: author},
		Peer:      peer, State: store.Pending, Origin: store.ByOperator, Text: mail.Sanitise(text), Expires: time.Now().Add(wantedFor),
	}, store.GrantBounds{PerAuthor: maxWanted})
}

// A request of ours is kept for a while, and an author has so many.
const (
	wantedFor = 30 * 24 * time.Hour
	maxWanted = 100
)

// Find returns one entry; store.ErrNotFound if there is none.
func Find(ctx context.Context, st Book, n store.GrantName, peer string) (store.Grant, error) {
	all, err := st.FindGrants(ctx, n.Kind, []string{n.Recipient}, peer, []string{n.Author})
	if err != nil {
		return store.Grant{}, err
	}
	if len(all) == 0 {
		return store.Grant{}, fmt.Errorf("grant for %s to write to %s: %w", n.Author, n.Recipient, store.ErrNotFound)
	}
	return all[0], nil
}

// forget deletes what may be gone already.
func forget(ctx context.Context, st Book, n store.GrantName) error {
	if err := st.DeleteGrant(ctx, n); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return nil
}

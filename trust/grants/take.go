package grants

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Take implements transfer.Permissions.
func (g *Grants) Take(ctx context.Context, b mail.Binding, p mail.Permission) *mail.Failure {
	ours := g.cfg.Ours(p.Mailbox.Domain) // else the author is
	var err error
	switch {
	case p.Type == mail.PermissionRequest && ours:
		g.later(func(ctx context.Context) { g.asked(ctx, p) })
		return nil
	case p.Type == mail.PermissionGrant && !ours:
		err = g.granted(ctx, p)
	case p.Type == mail.PermissionRevoke && ours:
		err = g.unwanted(ctx, p)
	case p.Type == mail.PermissionRevoke:
		err = g.revoked(ctx, p)
	default: // the caller has seen to it
		return mail.Fail(mail.NotPermitted, "", nil)
	}
	switch {
	case errors.Is(err, store.ErrTooMany):
		g.add("too-many")
		return mail.Fail(mail.ResourceShort, "no room for more grants", err)
	case err != nil:
		return mail.AsFailure(err)
	}
	if !ours && g.cfg.Heard != nil {
		g.cfg.Heard(p.Mailbox)
	}
	g.cfg.Log.Info("permission of a peer", "type", p.Type, "peer", b.Remote, "mailbox", p.Mailbox, "author", p.Author)
	return nil
}

func nameOf(kind store.GrantKind, p mail.Permission) store.GrantName {
	return store.GrantName{Kind: kind, Recipient: Name(p.Mailbox), Author: Name(p.Author)}
}

// asked notes a request of a peer's author, after it has been answered, and
// asks the recipient by mail. Whatever is in the way, nobody hears of it.
func (g *Grants) asked(ctx context.Context, p mail.Permission) {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	n := nameOf(store.GrantAsked, p)
	log := g.cfg.Log.With("mailbox", n.Recipient, "author", n.Author)
	what, err := g.note(ctx, n, p)
	if err != nil {
		what = "failed"
		log.Warn("request for permission not kept", "err", err)
	} else {
		log.Info("request for permission", "result", what)
	}
	g.add("request-" + what)
}

// jobTimeout bounds what one request, or one message, makes us do.
const jobTimeout = 30 * time.Second

func (g *Grants) note(ctx context.Context, n store.GrantName, p mail.Permission) (what string, err error) {
	given, err := g.cfg.Store.FindGrants(ctx, store.GrantGiven, []string{n.Recipient}, p.Author.Domain, []string{n.Author})
	if err != nil {
		return "", err
	}
	if len(given) > 0 && given[0].State != store.Granted {
		return "refused", nil
	}
	if len(given) > 0 {
		// It has lost its key, or never heard of it.
		given[0].Told = false
		err := g.cfg.Store.PutGrant(ctx, given[0], store.GrantBounds{})
		g.Changed()
		return "told-again", err
	}
	// One domain must not take all places that a recipient has for requests.
	waiting, err := g.cfg.Store.FindGrants(ctx, store.GrantAsked, []string{n.Recipient}, p.Author.Domain, nil)
	switch {
	case err != nil:
		return "", err
	case slices.ContainsFunc(waiting, func(a store.Grant) bool { return a.Author == n.Author }):
		return "repeated", nil
	case len(waiting) >= g.most.askedOfBy:
		return "too-many", nil
	}
	if !g.cfg.Exists(ctx, p.Mailbox) {
		return "unknown-mailbox", nil
	}
	asked := store.Grant{
		GrantName: n, Peer: p.Author.Domain, State: store.Pending, Origin: store.ByPeer, Text: p.Text, Told: true,
		Key: make([]byte, keyLength), Expires: time.Now().Add(g.cfg.RequestFor).Truncate(time.Second).UTC(),
	}
	rand.Read(asked.Key)
	err = g.cfg.Store.PutGrant(ctx, asked, store.GrantBounds{PerRecipient: g.most.askedOf, PerPeer: g.most.askedByPeer})
	switch {
	case errors.Is(err, store.ErrTooMany):
		return "too-many", nil
	case err != nil:
		return "", err
	case g.cfg.Notify == nil:
		return "noted", nil
	}
	return "asked", g.cfg.Notify(ctx, p.Mailbox, g.requestMail(p.Mailbox, asked))
}

// granted keeps what a peer's mailbox permits an author of ours. No request
// need have been before it.
func (g *Grants) granted(ctx context.Context, p mail.Permission) error {
	n := nameOf(store.GrantHeld, p)
	defer g.held.forget()
	if !p.Until.IsZero() && !p.Until.After(time.Now()) {
		return forget(ctx, g.cfg.Store, n) // it is over
	}
	err := g.cfg.Store.PutGrant(ctx, store.Grant{
		GrantName: n, Peer: p.Mailbox.Domain, State: store.Granted, Origin: store.ByPeer, Key: p.Key, Told: true, Expires: p.Until,
	}, store.GrantBounds{PerAuthor: g.most.heldByOne, PerPeer: g.most.heldOfPeer})
	if err != nil {
		return err
	}
	return forget(ctx, g.cfg.Store, nameOf(store.GrantWanted, p))
}

// revoked forgets what a peer's mailbox takes back.
func (g *Grants) revoked(ctx context.Context, p mail.Permission) error {
	defer g.held.forget()
	return errors.Join(forget(ctx, g.cfg.Store, nameOf(store.GrantHeld, p)), forget(ctx, g.cfg.Store, nameOf(store.GrantWanted, p)))
}

// unwanted forgets what an author does not want any more: a request or a
// grant, but never that somebody here has refused, which would let him ask
// again.
func (g *Grants) unwanted(ctx context.Context, p mail.Permission) error {
	n := nameOf(store.GrantGiven, p)
	given, err := Find(ctx, g.cfg.Store, n, p.Author.Domain)
	switch {
	case errors.Is(err, store.ErrNotFound):
		err = nil
	case err == nil && given.State == store.Granted:
		err = forget(ctx, g.cfg.Store, n)
	}
	return errors.Join(err, forget(ctx, g.cfg.Store, nameOf(store.GrantAsked, p)))
}

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
		if err := g.hear(ctx, p); err != nil {
			return mail.AsFailure(err)
		}
		return nil // whoever asked learns nothing more
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

// asked looks at a request of a peer's author, after it has been answered, and
// asks the recipient by mail. Whatever is in the way, nobody hears of it. done
// is false for what has to be looked at again.
func (g *Grants) asked(ctx context.Context, heard store.Grant) (done bool) {
	ctx, cancel := context.WithTimeout(ctx, jobTimeout)
	defer cancel()
	log := g.cfg.Log.With("mailbox", heard.Recipient, "author", heard.Author)
	what, err := g.note(ctx, heard)
	if err != nil {
		what = "failed"
		log.Warn("request for permission not kept", "err", err)
	} else {
		log.Info("request for permission", "result", what)
	}
	g.add("request-" + what)
	return err == nil && what != atWork
}

// jobTimeout bounds what one request, or one message, makes us do.
const jobTimeout = 30 * time.Second

// atWork is what becomes of a request that another node is looking at, or had
// begun with when it ended.
const atWork = "at-work"

// note keeps a request for its recipient, and asks them once.
func (g *Grants) note(ctx context.Context, heard store.Grant) (what string, err error) {
	n := heard.GrantName
	n.Kind = store.GrantAsked
	mailbox, err := mail.ParseAddress(n.Recipient)
	if err != nil {
		return "malformed", nil // nobody's
	}
	given, err := g.cfg.Store.FindGrants(ctx, store.GrantGiven, []string{n.Recipient}, heard.Peer, []string{n.Author})
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
	waiting, err := g.cfg.Store.FindGrants(ctx, store.GrantAsked, []string{n.Recipient}, heard.Peer, nil)
	if err != nil {
		return "", err
	}
	if i := slices.IndexFunc(waiting, func(a store.Grant) bool { return a.Author == n.Author }); i >= 0 {
		return g.askedAgain(ctx, mailbox, waiting[i], heard.Text)
	}
	if len(waiting) >= g.most.askedOfBy {
		return "too-many", nil
	}
	switch exists, err := g.cfg.Exists(ctx, mailbox); {
	case err != nil:
		return "", err
	case !exists:
		return "unknown-mailbox", nil
	}
	asked := store.Grant{
		GrantName: n, Peer: heard.Peer, State: store.Pending, Origin: store.ByPeer, Text: heard.Text, Told: g.cfg.Notify == nil,
		Key: make([]byte, keyLength), Expires: time.Now().Add(g.cfg.RequestFor).Truncate(time.Second).UTC(),
	}
	rand.Read(asked.Key)
	err = g.cfg.Store.PutGrant(ctx, asked, store.GrantBounds{Fresh: true, PerRecipient: g.most.askedOf, PerPeer: g.most.askedByPeer})
	switch {
	case errors.Is(err, store.ErrTooMany):
		return "too-many", nil
	case errors.Is(err, store.ErrExists):
		return atWork, nil // it will be asked, or else we come again
	case err != nil:
		return "", err
	case g.cfg.Notify == nil:
		return "noted", nil
	}
	if asked, err = Find(ctx, g.cfg.Store, n, heard.Peer); err != nil {
		return "", err
	}
	return "asked", g.askByMail(ctx, mailbox, asked)
}

// askedAgain is note for a request that was made before. Whoever has a mail about
// it gets no other, though it was withdrawn in between.
func (g *Grants) askedAgain(ctx context.Context, mailbox mail.Address, asked store.Grant, text string) (what string, err error) {
	if asked.State == store.Revoked {
		asked.State, asked.Text = store.Pending, text
		if err := g.cfg.Store.PutGrant(ctx, asked, store.GrantBounds{}); err != nil {
			return "", err
		}
		if asked, err = Find(ctx, g.cfg.Store, asked.GrantName, asked.Peer); err != nil {
			return "", err
		}
	}
	if asked.Told {
		return "repeated", nil
	}
	return "asked", g.askByMail(ctx, mailbox, asked)
}

// askByMail asks a recipient, and notes that it has. Whoever does it again, since
// nothing was noted or at the same time, makes the mail that is there already.
func (g *Grants) askByMail(ctx context.Context, mailbox mail.Address, asked store.Grant) error {
	if g.cfg.Notify != nil {
		id := mail.DerivedID(asked.Created, asked.Key)
		if err := g.cfg.Notify(ctx, id, mailbox, g.requestMail(mailbox, asked)); err != nil {
			return err
		}
	}
	return g.cfg.Store.ToldGrant(ctx, asked.GrantName, asked.Version)
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
	return errors.Join(err, forget(ctx, g.cfg.Store, nameOf(store.GrantHeard, p)), g.withdraw(ctx, p))
}

// withdraw ends a request, which keeps its place among those that wait until it
// expires: else a domain that asks and withdraws in turns could have a mail sent
// to somebody as often as it likes.
func (g *Grants) withdraw(ctx context.Context, p mail.Permission) error {
	asked, err := Find(ctx, g.cfg.Store, nameOf(store.GrantAsked, p), p.Author.Domain)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	asked.State, asked.Text = store.Revoked, ""
	return g.cfg.Store.PutGrant(ctx, asked, store.GrantBounds{})
}

package transfer

import (
	"context"
	"encoding/base64"
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// Permissions is who keeps grants for our mailboxes and those that our authors
// have (xep-draft section 10). Safe for concurrent use.
type Permissions interface {
	// Take notes what a peer says, whose domain has been shown to be that of
	// the mailbox or of the author; the other one is ours. A request must not
	// make it wait or fail for what becomes of it: its answer, and the time of
	// it, tell nothing about the mailbox. Otherwise nil says that it is kept.
	Take(ctx context.Context, b mail.Binding, p mail.Permission) *mail.Failure
}

// Bounds of a grant's key, in octets (xep-draft section 18).
const (
	leastKey = 16
	mostKey  = 128
)

// permission takes a request, a grant or a revocation. The result is empty.
func (r *request) permission(ctx context.Context, e *wire.Element) *mail.Failure {
	if r.s.cfg.Permissions == nil || !r.s.cfg.Capabilities.Has(ExtGrants) {
		return mail.Fail(mail.NotOffered, "grants are not kept here", nil)
	}
	p, f := decodePermission(e)
	if f == nil {
		f = r.partyTo(ctx, p)
	}
	if f != nil {
		return f
	}
	// Of the proven domain, or of the one that it is a service for: that costs
	// it its own allowance.
	wait := r.s.permissions.take(r.b.Remote, 1, r.now)
	if wait == 0 {
		wait = r.s.authors.take(r.b.Remote+" "+p.Author.String(), 1, r.now)
	}
	if wait > 0 {
		r.s.tally.add(countGrantFlood)
		return tooOften("too many requests for permission, try again later", wait)
	}
	return r.s.cfg.Permissions.Take(ctx, r.b, p)
}

// partyTo holds a permission against the binding: requests come from the
// author's domain, grants from the mailbox's, and both may end one (xep-draft
// section 10).
func (r *request) partyTo(ctx context.Context, p mail.Permission) *mail.Failure {
	ours := r.s.serves(r.b.Local)
	mailbox, author := slices.Contains(ours, p.Mailbox.Domain), slices.Contains(ours, p.Author.Domain)
	switch {
	case mailbox == author:
		return mail.Fail(mail.NotPermitted, "a permission is between a mailbox of one side and an author of the other", nil)
	case mailbox && p.Type != mail.PermissionGrant:
		return r.bound(ctx, p.Author.Domain, ours)
	case author && p.Type != mail.PermissionRequest:
		return r.bound(ctx, p.Mailbox.Domain, ours)
	}
	return mail.Failf(mail.NotPermitted, "a %s does not come from this side", p.Type)
}

// Permission tells a peer of a request, a grant or a revocation. nil says that
// it was understood.
func (s *Sender) Permission(ctx context.Context, local, domain string, p mail.Permission) *mail.Failure {
	payload, err := encodePermission(p)
	if err != nil {
		return mail.Fail(mail.BadAddress, "an address cannot be written in XML", err)
	}
	link, caps, err := s.cfg.Links.Link(ctx, local, domain)
	if err != nil {
		return unreachable(domain, err)
	}
	if !caps.Has(ExtGrants) {
		return mail.Failf(mail.NotAcceptable, "%s does not keep grants", domain)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	if _, err := link.Request(ctx, "set", payload); err != nil {
		t := &attempt{s: s, link: link, caps: caps, a: mail.Attempt{Local: local, Domain: domain}}
		return t.failure(err)
	}
	return nil
}

// Keys knows the keys of the grants that our authors have from peers. Safe for
// concurrent use. It bounds its own waits; nil where there is none, or it
// cannot be told now.
type Keys interface {
	Key(ctx context.Context, mailbox, author mail.Address) []byte
}

// withKeys adds to an envelope the keys of the grants that its sender has
// (xep-draft section 10.3).
func (s *Sender) withKeys(ctx context.Context, env mail.Envelope, caps Capabilities) mail.Envelope {
	if s.cfg.Keys == nil || !caps.Has(ExtGrants) || env.Sender.IsNull() {
		return env
	}
	cloned := false
	for i, r := range env.Recipients {
		key := s.cfg.Keys.Key(ctx, r.Address, env.Sender)
		if len(key) == 0 {
			continue
		}
		if !cloned {
			env.Recipients, cloned = slices.Clone(env.Recipients), true
		}
		env.Recipients[i].Grant = string(key)
	}
	return env
}

func encodePermission(p mail.Permission) ([]byte, error) {
	e := wire.NewEncoder(nil)
	e.Start("permission", Namespace)
	e.Attr("type", string(p.Type))
	e.Attr("mailbox", p.Mailbox.String())
	e.Attr("author", p.Author.String())
	optional(e, "key", base64.StdEncoding.EncodeToString(p.Key))
	if !p.Until.IsZero() {
		e.Attr("until", p.Until.UTC().Format(time.RFC3339))
	}
	if p.Text != "" {
		e.Start("text", "")
		e.Text(p.Text)
		e.End()
	}
	e.End()
	return e.Bytes()
}

func decodePermission(e *wire.Element) (mail.Permission, *mail.Failure) {
	r := &reader{}
	r.only(e, "type mailbox author key until", "text")
	p := mail.Permission{Type: mail.PermissionType(r.word(e, "type", string(mail.PermissionRequest), string(mail.PermissionGrant), string(mail.PermissionRevoke)))}
	if p.Type == "" {
		r.fail("permission: no type")
	}
	p.Mailbox, p.Author = r.mailbox(e, "mailbox"), r.mailbox(e, "author")
	if p.Type != mail.PermissionGrant && (e.HasAttr("key") || e.HasAttr("until")) {
		r.fail("permission: key or until without a grant")
	}
	p.Key = r.key(e, "key")
	if v := e.Attr("until"); e.HasAttr("until") {
		var err error
		if p.Until, err = time.Parse(time.RFC3339, v); err != nil {
			r.fail("permission: until is not a time")
		}
	}
	if t := r.one(e, "text"); t != nil {
		p.Text = mail.Sanitise(string(t.Text))
	}
	return p, r.err
}

// mailbox reads a required mailbox with a domain.
func (r *reader) mailbox(e *wire.Element, attr string) mail.Address {
	a, err := mail.ParseAddress(e.Attr(attr))
	switch {
	case err != nil && r.err == nil:
		r.err = mail.Fail(mail.BadAddress, attr+" is not a mailbox", err)
	case a.Domain == "":
		r.fail("%s: %s without a domain", e.Name.Local, attr)
	}
	return a
}

// key reads an optional key of a grant.
func (r *reader) key(e *wire.Element, attr string) []byte {
	if !e.HasAttr(attr) {
		return nil
	}
	v := e.Attr(attr)
	key, err := base64.StdEncoding.Strict().DecodeString(v)
	if err != nil || len(v) != base64.StdEncoding.EncodedLen(len(key)) || len(key) < leastKey || len(key) > mostKey {
		r.fail("%s: %s is not the base64 form of %d to %d octets", e.Name.Local, attr, leastKey, mostKey)
		return nil
	}
	return key
}

package gateway

import (
	"context"
	"errors"
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Voucher tells those to whom we forward a message what we have found of it
// (package trust). Safe for concurrent use; it bounds its own waits.
type Voucher interface {
	// Vouch returns header fields to be prepended to a message: what was found of
	// it when it came here, sealed if we seal; none where nothing was looked at. It
	// keeps nothing of m, whose Content is there.
	Vouch(ctx context.Context, src mail.Source, m *mail.Message) []byte
}

// vouch is for mail that others have sent and that goes on to others: neither
// the reverse-path nor the client's address will tell them what it told us. found
// says what was found when the message was judged; nil where it was not.
func (g *Gateway) vouch(ctx context.Context, src mail.Source, m *mail.Message, content mail.Content, found func() []byte) []byte {
	_, ours := g.domains[m.Envelope.Sender.Domain]
	if g.Voucher == nil || src.Client.User != "" || ours || !slices.ContainsFunc(m.Envelope.Recipients, func(r mail.Recipient) bool {
		_, local := g.domains[r.Address.Domain]
		return !local && !m.Envelope.Sender.IsNull() || local && g.leadsAbroad(r.Address)
	}) {
		return nil
	}
	if found != nil {
		return found()
	}
	part := *m
	part.Content = content
	return g.Voucher.Vouch(ctx, src, &part)
}

// leadsAbroad reports whether an address of ours stands for one that is not.
func (g *Gateway) leadsAbroad(a mail.Address) bool {
	return g.aliases.has(a) && slices.ContainsFunc(g.aliases.targets(a), func(t mail.Address) bool {
		_, ours := g.domains[t.Domain]
		return !ours
	})
}

// notForwarded refuses mail that is forged, or would be once it goes on in our
// name; whoever has a mailbox here decides about it by the domain's policy.
func (g *Gateway) notForwarded(a mail.Address, j mail.Judged) *mail.Failure {
	if _, ours := g.domains[a.Domain]; ours && !g.leadsAbroad(a) {
		return nil
	}
	if j.Forged {
		return mail.Fail(mail.NotPermitted, "mail that its author's domain disowns is not forwarded", nil)
	}
	return j.Borrowed
}

// reversePath is the one under which a message goes on by SMTP: what is
// forwarded has to come from a domain of ours for the next hop's SPF, which
// knows only the author's own hosts (RFC 7208 section 10.3).
func (g *Gateway) reversePath(sender mail.Address, o mail.Origin) mail.Address {
	if g.SRS == nil || !g.rewrites(sender, o) {
		return sender
	}
	as, err := g.SRS.Forward(sender)
	if err != nil {
		return sender // as if we did not rewrite: it may still arrive
	}
	return as
}

// rewrites reports whether a reverse-path is to be ours by SMTP, too. Users may
// have addresses elsewhere, for which their smarthosts stand.
func (g *Gateway) rewrites(sender mail.Address, o mail.Origin) bool {
	if _, ours := g.domains[sender.Domain]; ours || sender.IsNull() || sender.Domain == "" {
		return false
	}
	return o.Forwarded && g.RewriteAliases || g.RewriteRelayed && o.User == "" && o.Transport != "local"
}

// keepReturnPath makes durable what a reverse-path's short form stands for,
// before a message that may leave under it is taken.
func (g *Gateway) keepReturnPath(ctx context.Context, m *mail.Message) *mail.Failure {
	_, ours := g.domains[m.Envelope.Sender.Domain]
	if g.SRS == nil || ours || m.Envelope.Sender.IsNull() || !slices.ContainsFunc(m.Envelope.Recipients, func(r mail.Recipient) bool {
		_, local := g.domains[r.Address.Domain]
		return !local
	}) {
		return nil
	}
	name, short := g.SRS.Stored(m.Envelope.Sender)
	if !short {
		return nil
	}
	// As long as the others, which are made anew with each attempt.
	if err := g.Store.PutReturnPath(ctx, name, m.Envelope.Sender, srsValid*24*time.Hour+g.Lifetime); err != nil {
		return g.storeFailure(err)
	}
	return nil
}

// storedReturn finds the address that a short form stands for. a has its name.
func (g *Gateway) storedReturn(ctx context.Context, r mail.Recipient, a mail.Address) (mail.Recipient, bool, *mail.Failure) {
	back, err := g.Store.ReturnPath(ctx, a.Local)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return r, false, mail.Fail(mail.NoSuchMailbox, "this forwarding address is not valid, or no longer", ErrSRSExpired)
	case err != nil:
		return r, false, mail.AsFailure(err)
	}
	r.Address = back
	return r, true, nil
}

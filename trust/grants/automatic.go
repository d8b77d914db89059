package grants

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/textproto"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Wrote implements trust.Granter: whoever a user writes to may write back, for a
// while. Mail that was not written by somebody, or to too many, grants nothing,
// and what was refused or taken back stays so.
func (g *Grants) Wrote(_ context.Context, mailbox mail.Address, m *mail.Message) {
	if mailbox.IsNull() || len(m.Envelope.Recipients) > maxAtOnce {
		return
	}
	if automatic, err := isAutomatic(m.Content); err != nil || automatic {
		return
	}
	var to []mail.Address
	for _, r := range m.Envelope.Recipients {
		if !g.cfg.Ours(r.Address.Domain) && r.Address.Domain != "" {
			to = append(to, r.Address)
		}
	}
	if len(to) == 0 {
		return
	}
	g.later(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, jobTimeout)
		defer cancel()
		for _, author := range to {
			if err := g.wayBack(ctx, mailbox, author); err != nil {
				g.cfg.Log.Warn("the way back is not granted", "mailbox", Name(mailbox), "author", Name(author), "err", err)
				if errors.Is(err, store.ErrTooMany) {
					g.add("too-many")
				}
				return
			}
		}
	})
}

func (g *Grants) wayBack(ctx context.Context, mailbox, author mail.Address) error {
	n := store.GrantName{Kind: store.GrantGiven, Recipient: Name(mailbox), Author: Name(author)}
	known, err := Find(ctx, g.cfg.Store, n, author.Domain)
	switch {
	case err == nil && (known.Origin != store.Automatic || known.State != store.Granted):
		return nil // decided by somebody
	case err == nil && time.Until(known.Expires) > g.cfg.AutomaticFor/2:
		return nil
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	}
	until := time.Now().Add(g.cfg.AutomaticFor).Truncate(time.Second).UTC()
	fresh := Permit(n.Recipient, n.Author, author.Domain, store.Automatic, until)
	if err := g.cfg.Store.PutGrant(ctx, fresh, store.GrantBounds{PerRecipient: g.most.automatic}); err != nil {
		return err
	}
	g.add("way-back")
	g.Changed()
	return forget(ctx, g.cfg.Store, store.GrantName{Kind: store.GrantAsked, Recipient: n.Recipient, Author: n.Author})
}

// maxHeader bounds how much of a message is looked through.
const maxHeader = 64 << 10

// isAutomatic reports whether a message was not written by somebody who means
// its recipients: it says so (RFC 3834 section 5), is of a list or sent in
// bulk, or is a report. What cannot be read within 64 KiB may
// be.
func isAutomatic(content mail.Content) (bool, error) {
	rc, err := content.Open()
	if err != nil {
		return false, err
	}
	defer rc.Close()
	tp := textproto.NewReader(bufio.NewReader(io.LimitReader(rc, maxHeader)))
	for {
		line, err := tp.ReadContinuedLineBytes()
		switch {
		case err == nil && len(line) == 0:
			return false, nil
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return true, nil
		case err != nil:
			return false, err
		}
		key, value, _ := bytes.Cut(line, []byte(":"))
		word, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(string(value))), ";")
		word, _, _ = strings.Cut(strings.TrimSpace(word), " ")
		switch name := strings.ToLower(strings.TrimSpace(string(key))); {
		case name == "auto-submitted" && word != "no",
			name == "precedence" && (word == "bulk" || word == "list" || word == "junk" || word == "auto_reply"),
			name == "content-type" && word == "multipart/report",
			strings.HasPrefix(name, "list-"), name == "mailing-list",
			name == "x-autoreply", name == "x-autorespond", name == "feedback-id":
			return true, nil
		}
	}
}

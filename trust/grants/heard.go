package grants

import (
	"context"
	"errors"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// What a peer's author asks is stored before the answer, the same for every
// mailbox and author, and looked at after it, by any node, until that has come to
// its end: nothing is lost by a stop or a crash. Two nodes may look at the same
// request; what they do for it is done once (see note).
const (
	lookEvery = time.Minute
	lookPage  = 100
	heardFor  = 24 * time.Hour // after which a request that could not be looked at is forgotten
)

// hear keeps a request. Where a domain has too many that are not looked at yet,
// it is forgotten, and who asks hears nothing of it.
func (g *Grants) hear(ctx context.Context, p mail.Permission) error {
	err := g.cfg.Store.PutGrant(ctx, store.Grant{
		GrantName: nameOf(store.GrantHeard, p), Peer: p.Author.Domain, State: store.Pending, Origin: store.ByPeer,
		Text: p.Text, Told: true, Expires: time.Now().Add(heardFor).Truncate(time.Second).UTC(),
	}, store.GrantBounds{PerPeer: g.most.heardOfPeer})
	if errors.Is(err, store.ErrTooMany) {
		g.add("crowded")
		return nil
	}
	if err == nil {
		select {
		case g.heard <- struct{}{}:
		default:
		}
	}
	return err
}

// lookAtAll looks at what was heard, until ctx ends.
func (g *Grants) lookAtAll(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		if err := g.lookAtHeard(ctx); err != nil && ctx.Err() == nil {
			g.cfg.Log.Warn("requests for permission not looked at", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-g.heard:
		}
	}
}

func (g *Grants) lookAtHeard(ctx context.Context) error {
	f := store.GrantFilter{Kind: store.GrantHeard, Limit: lookPage}
	for {
		page, err := g.cfg.Store.Grants(ctx, f)
		if err != nil {
			return err
		}
		for _, heard := range page {
			f.After = heard.GrantName
			if !g.asked(ctx, heard) {
				continue // comes again
			}
			if err := forget(ctx, g.cfg.Store, heard.GrantName); err != nil {
				return err
			}
		}
		if len(page) < lookPage || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

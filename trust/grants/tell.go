package grants

import (
	"context"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// How peers are told: all that wait are looked at this often, so many peers at
// a time, each bounded; a peer that cannot be reached is left alone for longer
// and longer.
const (
	tellEvery   = time.Minute
	tellAtOnce  = 4
	tellPage    = 200
	tellTimeout = time.Minute
	leastPause  = 2 * time.Minute
	longPause   = 6 * time.Hour
)

// tellAll tells peers what they have not heard of yet, until ctx ends.
func (g *Grants) tellAll(ctx context.Context) {
	ticker := time.NewTicker(tellEvery)
	defer ticker.Stop()
	for {
		for _, kind := range []store.GrantKind{store.GrantGiven, store.GrantWanted, store.GrantHeld} {
			if err := g.tellKind(ctx, kind); err != nil && ctx.Err() == nil {
				g.cfg.Log.Warn("grants not told", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-g.wake:
		}
	}
}

func (g *Grants) tellKind(ctx context.Context, kind store.GrantKind) error {
	f := store.GrantFilter{Kind: kind, Untold: true, Limit: tellPage}
	for {
		page, err := g.cfg.Store.Grants(ctx, f)
		if err != nil {
			return err
		}
		byPeer := map[string][]store.Grant{}
		for _, gr := range page {
			f.After = gr.GrantName
			byPeer[gr.Peer] = append(byPeer[gr.Peer], gr)
		}
		var all sync.WaitGroup
		turns := make(chan struct{}, tellAtOnce)
		for peer, grants := range byPeer {
			if g.told.waits(peer, time.Now()) {
				continue
			}
			turns <- struct{}{}
			all.Go(func() {
				defer func() { <-turns }()
				g.tellPeer(ctx, peer, grants)
			})
		}
		all.Wait()
		if len(page) < tellPage || ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// tellPeer goes on until something fails that may pass.
func (g *Grants) tellPeer(ctx context.Context, peer string, grants []store.Grant) {
	for _, gr := range grants {
		p, local, err := permissionOf(gr)
		if err == nil {
			one, cancel := context.WithTimeout(ctx, tellTimeout)
			f := g.cfg.Tell(one, local, peer, p)
			cancel()
			if f != nil && passing(f) {
				g.told.failed(peer, f.RetryAfter, time.Now())
				g.cfg.Log.Info("peer not told of a permission yet", "peer", peer, "type", p.Type, "status", f.Status(), "err", f)
				return
			}
			g.told.succeeded(peer)
			g.cfg.Log.Info("peer told of a permission", "peer", peer, "type", p.Type, "mailbox", gr.Recipient, "author", gr.Author, "kept", f == nil)
		}
		if err := g.cfg.Store.ToldGrant(ctx, gr.GrantName, gr.Version); err != nil {
			g.cfg.Log.Warn("what a peer was told is not noted", "peer", peer, "err", err)
			return
		}
	}
}

// passing reports whether trying again may help. Who does not understand the
// request, or offers nothing of the kind, keeps no grants.
func passing(f *mail.Failure) bool {
	return f.Class == mail.Temporary && f.Kind != mail.Malformed && f.Kind != mail.NotOffered
}

// permissionOf is what a peer has to hear of an entry, and the domain of ours
// that says it.
func permissionOf(g store.Grant) (p mail.Permission, local string, err error) {
	if p.Mailbox, err = mail.ParseAddress(g.Recipient); err != nil {
		return p, "", err
	}
	if p.Author, err = mail.ParseAddress(g.Author); err != nil {
		return p, "", err
	}
	local = p.Mailbox.Domain
	if g.Kind == store.GrantWanted || g.Kind == store.GrantHeld {
		local = p.Author.Domain
	}
	switch {
	case g.Kind == store.GrantWanted:
		p.Type, p.Text = mail.PermissionRequest, g.Text
	case g.State == store.Granted && g.Kind == store.GrantGiven:
		p.Type, p.Key, p.Until = mail.PermissionGrant, g.Key, g.Expires
	default:
		p.Type = mail.PermissionRevoke
	}
	return p, local, nil
}

// backoffs remembers which peers could not be told.
type backoffs struct {
	mu    sync.Mutex
	until map[string]backoff
}

type backoff struct {
	until time.Time
	pause time.Duration
}

const maxBackoffs = 10_000

func (b *backoffs) waits(peer string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return now.Before(b.until[peer].until)
}

func (b *backoffs) failed(peer string, asked time.Duration, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.until) >= maxBackoffs {
		clear(b.until)
	}
	pause := min(max(2*b.until[peer].pause, leastPause), longPause)
	b.until[strings.Clone(peer)] = backoff{now.Add(max(pause, asked)), pause}
}

func (b *backoffs) succeeded(peer string) {
	b.mu.Lock()
	delete(b.until, peer)
	b.mu.Unlock()
}

// PeerUp is to be called when a stream with a peer came up: what it has to hear
// need not wait.
func (g *Grants) PeerUp(peer string) {
	g.told.succeeded(peer)
	g.Changed()
}

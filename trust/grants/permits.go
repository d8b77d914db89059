package grants

import (
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
)

// Permits implements trust.Permits. Of several entries that fit, the most
// special decides: one for the author before one for all of the domain, and
// then one of the mailbox before one of its domain. The key in an offer is not
// asked for again here: once there is content, it is the author whom the domain
// has proven that counts (xep-draft section 10.3).
func (g *Grants) Permits(ctx context.Context, recipient, author mail.Address, _ *trust.Evidence) (reason string, ok bool, err error) {
	if !g.given.any(ctx, g.cfg.Store, author.Domain) {
		return "", false, nil
	}
	recipients, authors := namesFor(recipient), []string{Name(author), wholeDomain + author.Domain}
	all, err := g.cfg.Store.FindGrants(ctx, store.GrantGiven, recipients, author.Domain, authors)
	if err != nil || len(all) == 0 {
		return "", false, err
	}
	best := slices.MinFunc(all, func(a, b store.Grant) int {
		if by := slices.Index(authors, a.Author) - slices.Index(authors, b.Author); by != 0 {
			return by
		}
		return slices.Index(recipients, a.Recipient) - slices.Index(recipients, b.Recipient)
	})
	who := best.Author
	if strings.HasPrefix(who, wholeDomain) {
		who = "all of " + author.Domain
	}
	if best.State != store.Granted {
		return fmt.Sprintf("%s is not wanted by the %s", who, best.Origin), false, nil
	}
	if best.Origin == store.Automatic {
		return fmt.Sprintf("the recipient has written to %s", who), true, nil
	}
	return fmt.Sprintf("%s is permitted by the %s", who, best.Origin), true, nil
}

// MayPermit implements trust.Permits: a key that is valid shows that the
// mailbox has permitted somebody of the sender's domain. Else all of our
// recipients are looked at as one, since who has no key must not learn whom a
// mailbox has permitted.
func (g *Grants) MayPermit(ctx context.Context, sender mail.Address, r mail.Recipient) (bool, error) {
	if sender.IsNull() {
		return false, nil
	}
	if r.Grant != "" {
		if ok, err := g.opens(ctx, r, sender.Domain); ok || err != nil {
			return ok, err
		}
	}
	return g.cfg.Store.AnyGrant(ctx, store.GrantGiven, store.Granted, domains(sender.Domain))
}

// opens reports whether a key is one of a mailbox's for a peer. All keys are
// compared, each in constant time.
func (g *Grants) opens(ctx context.Context, r mail.Recipient, peer string) (bool, error) {
	all, err := g.cfg.Store.FindGrants(ctx, store.GrantGiven, namesFor(r.Address), peer, nil)
	if err != nil {
		return false, err
	}
	found := 0
	for _, known := range all {
		if known.State == store.Granted && len(known.Key) > 0 {
			found |= subtle.ConstantTimeCompare([]byte(r.Grant), known.Key)
		}
	}
	if found == 0 {
		g.add("wrong-key")
	}
	return found == 1, nil
}

// maxParents bounds the domains above a sender's.
const maxParents = 8

// domains lists a domain and those above it: a reverse-path is often of one
// below the author's.
func domains(domain string) []string {
	list := []string{domain}
	for len(list) < maxParents && !mail.IsLiteral(domain) {
		_, above, ok := strings.Cut(domain, ".")
		if !ok || !strings.Contains(above, ".") {
			break
		}
		list = append(list, above)
		domain = above
	}
	return list
}

// Key implements transfer.Keys: the key that a peer's mailbox has given an
// author of ours; nil where there is none, or it cannot be told now.
func (g *Grants) Key(ctx context.Context, mailbox, author mail.Address) []byte {
	if !g.held.any(ctx, g.cfg.Store, mailbox.Domain) {
		return nil
	}
	names := namesFor(mailbox)
	all, err := g.cfg.Store.FindGrants(ctx, store.GrantHeld, names, mailbox.Domain, []string{Name(author)})
	if err != nil {
		g.cfg.Log.Warn("grants not read", "peer", mailbox.Domain, "err", err)
		return nil
	}
	for _, name := range names {
		for _, known := range all {
			if known.Recipient == name && known.State == store.Granted {
				return known.Key
			}
		}
	}
	return nil
}

// peersKnown remembers of which peers there is any grant of a kind, so that most
// messages ask the store nothing. What another node has stored comes late by
// validFor.
type peersKnown struct {
	kind store.GrantKind

	mu    sync.Mutex
	known map[string]peerKnown
}

type peerKnown struct {
	any   bool
	until time.Time
}

const (
	validFor      = 30 * time.Second
	maxPeersKnown = 10_000
)

func newPeersKnown(kind store.GrantKind) *peersKnown {
	return &peersKnown{kind: kind, known: map[string]peerKnown{}}
}

func (k *peersKnown) any(ctx context.Context, st store.Grants, peer string) bool {
	k.mu.Lock()
	known, ok := k.known[peer]
	k.mu.Unlock()
	if ok && time.Now().Before(known.until) {
		return known.any
	}
	found, err := st.AnyGrant(ctx, k.kind, "", []string{peer})
	if err != nil {
		return true // asking for the grant itself tells what is wrong
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= maxPeersKnown {
		clear(k.known)
	}
	k.known[peer] = peerKnown{found, time.Now().Add(validFor)}
	return found
}

func (k *peersKnown) forget() {
	k.mu.Lock()
	clear(k.known)
	k.mu.Unlock()
}

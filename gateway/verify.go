package gateway

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
)

// verifyLocal tells which recipients of one domain of ours exist, from memory
// or from the domain's verifier: per recipient nil or why not. What cannot be
// told now is temporary, so that no mail is taken that would bounce later.
func (g *Gateway) verifyLocal(ctx context.Context, d Domain, sender mail.Address, utf8 bool, rcpts []mail.Recipient) []*mail.Failure {
	if d.Verifier == nil {
		return make([]*mail.Failure, len(rcpts))
	}
	if slices.ContainsFunc(rcpts, func(r mail.Recipient) bool { return g.aliases.has(r.Address) }) {
		return g.verifyBesideAliases(ctx, d, sender, utf8, rcpts)
	}
	out := g.remembered(verdictKey{sender: sender, utf8: utf8}, rcpts, func(ask []mail.Recipient) ([]*mail.Failure, error) {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		return d.Verifier.Verify(ctx, sender, utf8, ask)
	})
	for i, f := range out {
		// RFC 5321 section 4.5.1: it exists in every domain. A neighbour that
		// still refuses it when the mail comes makes a DSN.
		if f != nil && f.Class == mail.Permanent && strings.EqualFold(rcpts[i].Address.Local, "postmaster") {
			out[i] = nil
		}
	}
	return out
}

// verifyBesideAliases is verifyLocal where some recipients are aliases: those
// exist here, and nobody else knows them.
func (g *Gateway) verifyBesideAliases(ctx context.Context, d Domain, sender mail.Address, utf8 bool, rcpts []mail.Recipient) []*mail.Failure {
	out := make([]*mail.Failure, len(rcpts))
	var others []mail.Recipient
	var at []int
	for i, r := range rcpts {
		if !g.aliases.has(r.Address) {
			others, at = append(others, r), append(at, i)
		}
	}
	if len(others) > 0 {
		for n, f := range g.verifyLocal(ctx, d, sender, utf8, others) {
			out[at[n]] = f
		}
	}
	return out
}

// verifyPeer asks a peer about a recipient. Only a permanent refusal counts:
// in all other cases the message is taken, and the offer will tell.
func (g *Gateway) verifyPeer(ctx context.Context, local, domain string, sender mail.Address, utf8 bool, r mail.Recipient) *mail.Failure {
	f := g.remembered(verdictKey{scope: local, sender: sender, utf8: utf8}, []mail.Recipient{r}, func(ask []mail.Recipient) ([]*mail.Failure, error) {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		return g.Peers.Check(ctx, local, domain, sender, utf8, ask)
	})[0]
	if f != nil && f.Class == mail.Permanent {
		return f
	}
	return nil
}

// remembered answers from the cache what it can and asks for the rest in one
// call. Temporary answers are not remembered. k is the key but for the
// recipient.
func (g *Gateway) remembered(k verdictKey, rcpts []mail.Recipient, ask func([]mail.Recipient) ([]*mail.Failure, error)) []*mail.Failure {
	out := make([]*mail.Failure, len(rcpts))
	var open []int
	var unknown []mail.Recipient
	for i, r := range rcpts {
		k.recipient = r.Address
		f, known := g.verdicts.get(k)
		if out[i] = f; !known {
			open, unknown = append(open, i), append(unknown, r)
		}
	}
	if len(open) == 0 {
		return out
	}
	answers, err := ask(unknown)
	for j, i := range open {
		switch {
		case err != nil:
			out[i] = mail.AsFailure(err)
		case j < len(answers):
			out[i] = answers[j]
			k.recipient = rcpts[i].Address
			g.verdicts.put(k, answers[j])
		}
	}
	return out
}

// verdictKey names an answer: a peer's or neighbour's verdict may depend on
// the sender, and on whether the message asks for SMTPUTF8.
type verdictKey struct {
	scope     string // our domain that asked a peer; "" for a neighbour
	sender    mail.Address
	utf8      bool
	recipient mail.Address
}

// verdictCache remembers for a short time which recipients exist. It holds at
// most size answers; when it is full, it is emptied.
type verdictCache struct {
	mu   sync.Mutex
	size int
	m    map[verdictKey]verdictEntry
}

type verdictEntry struct {
	failure *mail.Failure
	until   time.Time
}

func newVerdictCache(size int) *verdictCache {
	return &verdictCache{size: size, m: map[verdictKey]verdictEntry{}}
}

func (c *verdictCache) get(k verdictKey) (*mail.Failure, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[k]
	return e.failure, ok && time.Now().Before(e.until)
}

func (c *verdictCache) put(k verdictKey, f *mail.Failure) {
	ttl := verdictTTL
	if f != nil {
		if f.Class != mail.Permanent {
			return
		}
		ttl = refusalTTL
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= c.size {
		clear(c.m)
	}
	c.m[k] = verdictEntry{f, time.Now().Add(ttl)}
}

// forget drops what is remembered of a recipient.
func (c *verdictCache) forget(recipient mail.Address) {
	name := folded(recipient)
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.m {
		if folded(k.recipient) == name {
			delete(c.m, k)
		}
	}
}

// AskAgain is to be called when a peer's recipient may answer otherwise than
// before: who was refused may try at once.
func (g *Gateway) AskAgain(recipient mail.Address) { g.verdicts.forget(recipient) }

// Table is a Verifier that knows all mailboxes of a domain.
type Table map[mail.Address]bool

// NewTable makes a Table. Local parts are compared without regard to ASCII
// case, as mailbox servers do; postmaster exists always (RFC 5321 section
// 4.5.1).
func NewTable(mailboxes []mail.Address) Table {
	t := Table{}
	for _, a := range mailboxes {
		t[folded(a)] = true
	}
	return t
}

// Verify never fails and never waits.
func (t Table) Verify(_ context.Context, _ mail.Address, _ bool, rcpts []mail.Recipient) ([]*mail.Failure, error) {
	out := make([]*mail.Failure, len(rcpts))
	for i, r := range rcpts {
		if a := folded(r.Address); !t[a] && a.Local != "postmaster" {
			out[i] = mail.Fail(mail.NoSuchMailbox, "", nil)
		}
	}
	return out, nil
}

func folded(a mail.Address) mail.Address {
	lower := func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}
	return mail.Address{Local: strings.Map(lower, a.Local), Domain: a.Domain}
}

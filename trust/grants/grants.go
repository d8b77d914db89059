// Package grants keeps who may write to whom (xep-draft section 10): it takes
// what peers say of it, tells peers what is decided here, asks recipients by
// mail, and knows for the verdict whom a recipient has permitted.
//
// Invariants: the word of a peer counts for addresses of the domain that its
// stream has proven, which the caller has checked. What becomes of a request
// never shows to whoever made it: it is noted at once and looked at later.
// What a recipient or an operator has refused or taken back is undone by
// nobody but them, and not by having written to the author either. Nothing
// that answers by itself permits anybody (RFC 3834).
//
// Failure semantics: what is decided is in the store before it is told, and
// told again until the peer has heard of it or says that it keeps no grants; a
// key that was taken back is not valid any more in any case. Requests are
// bounded; those beyond the bounds are forgotten, and counted. A request that was
// answered is in the store until it has been looked at to its end. What somebody's
// mail grants to those it went to is noted after the mail was taken: a crash in
// between forgets it, and the next mail to them grants it.
package grants

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Config is what Grants is made of. Zero durations and counts stand for the
// defaults.
type Config struct {
	Store  store.Grants
	Secret []byte // signs the addresses to answer to; the same on all nodes
	// Ours tells which domains are.
	Ours func(domain string) bool
	// Exists reports whether a mailbox of ours is there. An error means that it
	// cannot be told now.
	Exists func(ctx context.Context, mailbox mail.Address) (bool, error)
	// Notify hands a mail of our own to a mailbox of ours, once for an id; nil:
	// recipients are not asked by mail.
	Notify func(ctx context.Context, id mail.ID, to mail.Address, content []byte) error
	// Tell says something to a peer, over XMPP. A permanent failure says that
	// the domain keeps no grants, or cannot be told.
	Tell func(ctx context.Context, local, domain string, p mail.Permission) *mail.Failure
	// Heard is called after a peer's mailbox has permitted an author of ours, or
	// taken it back; nil: nobody wants to know.
	Heard func(mailbox mail.Address)

	RequestFor   time.Duration // how long a request waits for an answer; 14 days
	AutomaticFor time.Duration // how long whoever was written to may write back; 180 days
	Log          *slog.Logger
}

const (
	maxAtOnce   = 50  // recipients of a message that are granted the way back
	queueLength = 256 // messages not looked at yet
	keyLength   = 24  // octets: 192 random bits
)

// bounds are of what is kept, so that nobody can fill the store.
type bounds struct {
	automatic   int // granted by having written, of one recipient
	askedOf     int // requests waiting for one recipient
	askedOfBy   int // of those, from one domain
	askedByPeer int // requests of one domain waiting, for all recipients
	heardOfPeer int // requests of one domain not looked at yet
	heldByOne   int // grants of one author of ours
	heldOfPeer  int // grants of one peer's
}

func defaultBounds() bounds {
	return bounds{automatic: 2000, askedOf: 20, askedOfBy: 3, askedByPeer: 500, heardOfPeer: 100, heldByOne: 2000, heldOfPeer: 10_000}
}

// Grants keeps grants. Make it with New, start it with Run. Safe for
// concurrent use.
type Grants struct {
	cfg   Config
	most  bounds
	jobs  chan func(context.Context)
	wake  chan struct{}
	heard chan struct{}
	given *peersKnown
	held  *peersKnown
	told  backoffs
	mu    sync.Mutex
	count map[string]int64
}

// New makes a Grants.
func New(cfg Config) *Grants {
	if cfg.RequestFor <= 0 {
		cfg.RequestFor = 14 * 24 * time.Hour
	}
	if cfg.AutomaticFor <= 0 {
		cfg.AutomaticFor = 180 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Grants{
		cfg: cfg, most: defaultBounds(), jobs: make(chan func(context.Context), queueLength), wake: make(chan struct{}, 1), heard: make(chan struct{}, 1),
		given: newPeersKnown(store.GrantGiven), held: newPeersKnown(store.GrantHeld), told: backoffs{until: map[string]backoff{}}, count: map[string]int64{},
	}
}

// Run looks at what has come in and tells peers what they have to hear, until
// ctx ends; then it does what it was given before, for at most stopFor.
func (g *Grants) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	late, cancel := lateContext(ctx)
	defer cancel()
	all.Go(func() { g.tellAll(ctx) })
	all.Go(func() { g.lookAtAll(ctx) })
	for {
		select {
		case <-ctx.Done():
			g.finish(late)
			return
		case job := <-g.jobs:
			job(late)
		}
	}
}

// stopFor bounds what is done after the end.
const stopFor = 5 * time.Second

// lateContext ends so much later than ctx.
func lateContext(ctx context.Context) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, func() { time.AfterFunc(stopFor, cancel) })
	return late, cancel
}

func (g *Grants) finish(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case job := <-g.jobs:
			job(ctx)
		default:
			return
		}
	}
}

// Changed is to be called when grants were stored by others: peers may have to
// hear of them.
func (g *Grants) Changed() {
	g.given.forget()
	g.held.forget()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// later does something on the goroutine of Run, or forgets it where too much
// waits already.
func (g *Grants) later(job func(context.Context)) {
	select {
	case g.jobs <- job:
	default:
		g.add("crowded")
	}
}

// Snapshot returns what was counted since the start.
func (g *Grants) Snapshot() map[string]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]int64, len(g.count))
	for name, n := range g.count {
		out[name] = n
	}
	return out
}

func (g *Grants) add(name string) {
	g.mu.Lock()
	g.count[name]++
	g.mu.Unlock()
}

// Name is the form in which mailboxes are stored and compared here: capital
// letters make no difference. A mailbox of a domain that tells them apart
// would be its own doing.
func Name(a mail.Address) string {
	a.Local = strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, a.Local)
	return a.String()
}

// wholeDomain is how all mailboxes of a domain are written.
const wholeDomain = "@"

// namesFor lists what a grant for a mailbox may be stored under, the most
// special first: itself, the mailbox that it is a detail of (RFC 5233), its
// whole domain.
func namesFor(a mail.Address) []string {
	names := []string{Name(a)}
	if base, _, detailed := strings.Cut(a.Local, "+"); detailed && base != "" {
		names = append(names, Name(mail.Address{Local: base, Domain: a.Domain}))
	}
	return append(names, wholeDomain+a.Domain)
}

package contacts

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust"
	"mailxmppd/trust/header"
)

// Bounds of learning.
const (
	learnWaiting = 64             // directories to be asked; more are left out
	learnAgain   = 24 * time.Hour // until the directory is asked again for the same author
	learnAsked   = 10_000         // authors that are remembered as asked for
	learnTime    = 5 * time.Second
)

// LearnConfig is what a Learner needs.
type LearnConfig struct {
	Store     store.Contacts
	Autocrypt bool       // learn from the Autocrypt field
	Directory *Directory // nil: no directories are asked
	Log       *slog.Logger
}

// Learner keeps the keys of authors whose mail a recipient has permitted, if
// nobody has imported one: learnt from a stranger, a key would let the stranger
// in the second time. Safe for concurrent use.
type Learner struct {
	conf LearnConfig
	now  func() time.Time
	jobs chan job

	mu    sync.Mutex
	asked map[job]time.Time
}

// job is a directory to be asked.
type job struct {
	owner  string
	author mail.Address
}

var _ trust.Learner = (*Learner)(nil)

// NewLearner makes a Learner.
func NewLearner(conf LearnConfig) *Learner {
	return &Learner{conf: conf, now: time.Now, jobs: make(chan job, learnWaiting), asked: map[job]time.Time{}}
}

// Permitted implements trust.Learner. Directories are asked later, by Run.
func (l *Learner) Permitted(ctx context.Context, recipient, author mail.Address, ev *trust.Evidence) {
	ctx, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	owner := Form(recipient)
	keys, err := l.conf.Store.ContactKeys(ctx, owner, Form(author))
	if err != nil {
		l.conf.Log.Warn("contact keys not read", "rcpt", recipient, "err", err)
		return
	}
	for _, k := range keys {
		if !k.Learnt() {
			return
		}
	}
	if l.conf.Autocrypt {
		l.fromMail(ctx, owner, author, ev)
	}
	if l.conf.Directory != nil {
		l.enqueue(job{owner, author})
	}
}

func (l *Learner) fromMail(ctx context.Context, owner string, author mail.Address, ev *trust.Evidence) {
	rc, err := ev.Message.Content.Open()
	if err != nil {
		l.conf.Log.Warn("content not read for its key", "from", author, "err", err)
		return
	}
	defer rc.Close()
	h, err := header.Read(bufio.NewReader(rc))
	if err != nil {
		return // of a header that is too large nothing is learnt
	}
	if c := autocryptKey(h, author); c != nil {
		l.keep(ctx, owner, author, c, store.FromMail)
	}
}

func (l *Learner) enqueue(j job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.asked[j]; ok && l.now().Sub(at) < learnAgain {
		return
	}
	if len(l.asked) >= learnAsked {
		clear(l.asked) // some are asked for again too soon, which harms nobody
	}
	select {
	case l.jobs <- j:
		l.asked[j] = l.now()
	default: // the next message of the author comes back to it
	}
}

// Run asks directories, one after the other, until ctx ends.
func (l *Learner) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-l.jobs:
			certs, err := l.conf.Directory.Keys(ctx, j.author)
			if err != nil {
				l.conf.Log.Info("key directory gave no key", "from", j.author, "err", err)
			}
			for _, c := range certs {
				l.keep(ctx, j.owner, j.author, c, store.FromDirectory)
			}
		}
	}
}

// keep stores a key that would count.
func (l *Learner) keep(ctx context.Context, owner string, author mail.Address, c *Certificate, origin string) {
	if err := c.Usable(l.now()); err != nil {
		return
	}
	err := l.conf.Store.PutContactKey(ctx, store.ContactKey{Owner: owner, Address: Form(author), Fingerprint: c.Fingerprint, Kind: c.Kind,
		Origin: origin, Name: clip(c.Name), Certificate: c.Data, Expires: c.Expires})
	switch {
	case errors.Is(err, store.ErrTooManyKeys):
		l.conf.Log.Warn("contact key not kept", "rcpt", owner, "from", author, "key", c.Fingerprint, "err", err)
	case err != nil:
		l.conf.Log.Error("contact key not kept", "rcpt", owner, "from", author, "key", c.Fingerprint, "err", err)
	}
}

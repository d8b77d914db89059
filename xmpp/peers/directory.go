package peers

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// Policy is what the operator says of a peer.
type Policy string

const (
	Required  Policy = "required"  // over XMPP only; what "" means
	Preferred Policy = "preferred" // over XMPP where it works, as for a domain that was discovered
	Never     Policy = "never"     // by SMTP only
)

// Configured is a peer that the operator has named.
type Configured struct {
	Domain string   // A-labels
	Addrs  []string // "host:port" for direct TLS; empty: by SRV
	Policy Policy
}

// DNS is what discovery asks; *dns.Resolver does it.
type DNS interface {
	SRV(ctx context.Context, name string) dns.Answer[dns.SRV]
	Addrs(ctx context.Context, host string) dns.Answer[netip.Addr]
}

// Streams is what keeps the streams; see Over.
type Streams interface {
	// Live returns a live link of the pair, or nil.
	Live(local, remote string) transfer.Link
	// Link returns a live link, or dials the targets in their order. It fails
	// at once while a dead peer's back-off lasts.
	Link(ctx context.Context, local, remote string, targets []stream.Target) (transfer.Link, error)
}

// Config configures a Directory. Zero values stand for the defaults.
type Config struct {
	Peers       []Configured
	DNS         DNS
	Streams     Streams
	Store       store.Peers
	Timeout     time.Duration // for finding out about a domain; 5 s
	LinkTimeout time.Duration // for having a stream; 30 s
	NegativeFor time.Duration // how long "no mail transport here" is believed; 24 h
	MaxExpected int           // domains redialled at a time; 256
	Log         *slog.Logger
}

// sightingFor is how long a domain seen with the feature stays a peer
// (xep-draft section 4.3).
const sightingFor = 30 * 24 * time.Hour

// Directory finds peers. Safe for concurrent use.
type Directory struct {
	cfg        Config
	configured map[string]Configured
	probes     singleflight.Group
	memory     memory
	links      linkFacts
	waiting    waiting
	ctx        context.Context
	stop       context.CancelFunc
	running    sync.WaitGroup
}

// NewDirectory makes a Directory; Close ends it.
func NewDirectory(cfg Config) *Directory {
	defaultTo(&cfg.Timeout, 5*time.Second)
	defaultTo(&cfg.LinkTimeout, 30*time.Second)
	defaultTo(&cfg.NegativeFor, 24*time.Hour)
	defaultTo(&cfg.MaxExpected, 256)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d := &Directory{cfg: cfg, configured: map[string]Configured{}}
	d.memory = memory{store: cfg.Store, negativeFor: cfg.NegativeFor, facts: map[string]fact{}}
	d.links = linkFacts{known: map[pair]linkFact{}}
	d.waiting = waiting{max: cfg.MaxExpected, until: map[pair]time.Time{}, noting: make(chan struct{}, maxNoting)}
	for _, c := range cfg.Peers {
		if c.Policy == "" {
			c.Policy = Required
		}
		d.configured[c.Domain] = c
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d
}

func defaultTo[T int | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Close ends what runs in the background and waits for it.
func (d *Directory) Close() {
	d.stop()
	d.waiting.close()
	d.running.Wait()
}

// pair is one of our domains and a peer's.
type pair struct{ local, remote string }

// Standing says how mail from local to domain travels. A failure comes with
// Unsure only.
func (d *Directory) Standing(ctx context.Context, local, domain string) (mail.Standing, *mail.Failure) {
	switch d.configured[domain].Policy {
	case Never:
		return mail.Legacy, nil
	case Required:
		return mail.Peer, nil
	}
	if l := d.cfg.Streams.Live(local, domain); l != nil {
		_, has, err := d.features(ctx, pair{local, domain}, l)
		if err == nil {
			return standing(has), nil
		}
	}
	known, err := d.memory.recall(ctx, domain)
	if err != nil {
		return mail.Unsure, mail.Fail(mail.Internal, "", err)
	}
	if known != nothing {
		return standing(known == sighted), nil
	}
	return d.discover(ctx, pair{local, domain})
}

func standing(has bool) mail.Standing {
	if has {
		return mail.Peer
	}
	return mail.Legacy
}

// discover asks about a domain of which nothing is known, once for all who
// ask at the same time.
func (d *Directory) discover(ctx context.Context, p pair) (mail.Standing, *mail.Failure) {
	ch := d.probes.DoChan(p.local+" "+p.remote, func() (any, error) {
		if !d.waiting.run(func() { d.running.Add(1) }) {
			return nil, context.Canceled
		}
		defer d.running.Done()
		ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
		defer cancel()
		return d.probe(ctx, p), nil
	})
	select {
	case r := <-ch:
		if found, ok := r.Val.(mail.Standing); ok {
			return found, nil
		}
		return mail.Unsure, mail.Fail(mail.Internal, "", r.Err)
	case <-ctx.Done():
		return mail.Unsure, mail.Fail(mail.Internal, "", ctx.Err())
	}
}

func (d *Directory) probe(ctx context.Context, p pair) mail.Standing {
	// Somebody may have found out between our look and this probe.
	if known, err := d.memory.recall(ctx, p.remote); err == nil && known != nothing {
		return standing(known == sighted)
	}
	c := d.configured[p.remote]
	if len(c.Addrs) == 0 {
		switch own := d.cfg.DNS.SRV(ctx, mailService+p.remote); {
		case own.Status == dns.Found && declines(own.Records):
			return mail.Legacy // the target "." is a definite no (RFC 2782)
		case own.Status == dns.Found:
			return mail.Peer
		}
		if chat := d.cfg.DNS.SRV(ctx, serverService+p.remote); chat.Status != dns.Found || declines(chat.Records) {
			return mail.Legacy
		}
	}
	_, _, err := d.Link(ctx, p.local, p.remote)
	if err == nil {
		return mail.Peer
	}
	d.cfg.Log.Debug("domain is no peer", "peer", p.remote, "local", p.local, "err", err)
	// Unless its own word has just been noted: so that not every message pays
	// for a chat server that cannot be reached or authenticated.
	d.memory.noteFailed(p.remote)
	return mail.Legacy
}

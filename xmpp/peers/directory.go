package peers

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"mailxmppd/dns"
	"mailxmppd/store"
)

// Policy is what the operator says of a peer.
type Policy string

const (
	Required  Policy = "required"  // over XMPP only; what "" means
	Preferred Policy = "preferred" // over XMPP where it works, else by SMTP, even where the domain is pinned
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

// Config configures a Directory. Zero values stand for the defaults.
type Config struct {
	Peers []Configured
	// Services are the names under which domains of ours send and take their
	// mail, where these are not their own (xep-draft section 6.3).
	Services map[string]string
	DNS      DNS
	Streams  Streams
	Store    store.Peers
	// Validating says that DNS validates DNSSEC, or asks over a trusted path one
	// that does. Without it an answer marked as secure is as good as any other.
	Validating  bool
	Timeout     time.Duration // for finding out about a domain; 5 s
	LinkTimeout time.Duration // for having a stream; 30 s
	NegativeFor time.Duration // how long "no mail transport here" is believed; 24 h
	MaxExpected int           // domains redialled at a time; 256
	// Roots verify the web server of a withdrawal; nil for the system's.
	Roots *x509.CertPool
	// Dial connects to it; nil dials what DNS says.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Reached tells that a domain which was expected takes mail again, where no
	// stream that came up could tell: its chat server's was up. nil: nobody
	// wants to know.
	Reached func(local, domain string)
	Log     *slog.Logger
}

// Directory finds peers. Safe for concurrent use.
type Directory struct {
	cfg         Config
	configured  map[string]Configured
	probes      singleflight.Group
	memory      memory
	links       linkFacts
	listings    listings
	waiting     waiting
	withdrawals withdrawals
	ctx         context.Context
	stop        context.CancelFunc
	running     sync.WaitGroup
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
	d.memory = memory{store: cfg.Store, negativeFor: cfg.NegativeFor, writing: make(chan struct{}, 1), entries: map[string]entry{}}
	d.links = linkFacts{known: map[Link]announced{}, bidi: map[pair]time.Time{}}
	d.listings = listings{validFor: cfg.NegativeFor, turns: make(chan struct{}, listingsAtOnce), known: map[string]listing{}}
	d.withdrawals = withdrawals{turns: make(chan struct{}, withdrawalsAtOnce), asked: map[string]time.Time{}}
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

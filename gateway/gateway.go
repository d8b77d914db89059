// Package gateway is the path of a message through the program: it accepts
// mail from SMTP clients and from peers, decides where each recipient's mail
// goes, hands it on at once (cut-through) or spools it, tries deliveries and
// settles them.
//
// Invariants: a positive answer is given only when another party has taken
// the message or our store holds it durably; what became of an attempt is
// settled under the lease it was made with, and a DSN is queued in that same
// transaction; nothing here waits without a bound.
//
// On failure: whatever is unknown is temporary. A crash at any point leaves
// either a client without an answer, which will come again, or a delivery in
// the store, which will be claimed again.
//
// A message's way, each hop naming the next: smtpbridge.Server or
// xmpp/transfer.Server -> Entrance.Accept or Gateway.Accept (accept.go,
// receive.go) -> scheduler.run (schedule.go) -> Gateway.attempt (deliver.go)
// -> Gateway.settle (settle.go).
package gateway

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Store is what the gateway uses of store.Store, which states the guarantees.
type Store interface {
	PutMessage(ctx context.Context, m store.NewMessage) ([]store.Lease, error)
	OpenContent(ctx context.Context, id mail.ID) (io.ReadCloser, error)
	Claim(ctx context.Context, n int, lease time.Duration, busy []string, perDest int) ([]store.Lease, error)
	NextDue(ctx context.Context, busy []string) (wait time.Duration, ok bool, err error)
	BeginAttempt(ctx context.Context, l store.Lease, way store.Way) (store.Lease, error)
	SetWay(ctx context.Context, l store.Lease, way store.Way) error
	Renew(ctx context.Context, leases []store.Lease, lease time.Duration) (lost []store.Lease, err error)
	Settle(ctx context.Context, s store.Settlement) error
	Release(ctx context.Context, destination string) (int, error)
	Seize(ctx context.Context, id mail.ID, n int, by string, lease time.Duration) ([]store.Lease, error)
	Wake() <-chan struct{}
	Revived() <-chan string
	PutReturnPath(ctx context.Context, name string, a mail.Address, valid time.Duration) error
	ReturnPath(ctx context.Context, name string) (mail.Address, error)
	Lookup(ctx context.Context, k store.TransferKey) (store.Transfer, error)
	OpenTransfer(ctx context.Context, k store.TransferKey) (io.ReadCloser, error)
	Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, m store.NewMessage) ([]mail.ID, []store.Lease, error)
	Maintain(ctx context.Context, r store.Retention) (more bool, err error)
}

// Transport hands messages to a next hop; mail.Attempt states the contract.
type Transport interface {
	Deliver(ctx context.Context, a mail.Attempt) []mail.Outcome
}

// Verifier tells which recipients exist: per recipient nil or why not. An
// error means that it cannot be told now.
type Verifier interface {
	Verify(ctx context.Context, sender mail.Address, utf8 bool, rcpts []mail.Recipient) ([]*mail.Failure, error)
}

// Peers is the XMPP side: which domains are peers, and the way to them. Its
// methods bound their own waits.
type Peers interface {
	Transport
	// Standing tells how a domain's mail goes; the failure explains Unsure.
	Standing(ctx context.Context, local, domain string) (mail.Standing, *mail.Failure)
	// Live tells whether a proven stream between the two domains is up now.
	Live(local, domain string) bool
	// Check asks the peer about recipients before content is there.
	Check(ctx context.Context, local, domain string, sender mail.Address, utf8 bool, rcpts []mail.Recipient) ([]*mail.Failure, error)
	// HeldToXMPP reports whether mail for a domain may go over XMPP only: the
	// operator has configured it, or it has pinned itself.
	HeldToXMPP(ctx context.Context, domain string) bool
	// Expect keeps trying to reach a peer that mail waits for; PeerUp is
	// called when it is there again.
	Expect(local, domain string)
}

// Domain is a domain of ours.
type Domain struct {
	Name      string    // A-labels
	Transport Transport // final delivery
	MTA       bool      // which is by SMTP, to an MTA that may send mail on
	Verifier  Verifier  // nil: every recipient exists
}

// Config is what a Gateway is made of. Durations and counts must be positive.
type Config struct {
	Hostname string   // in Received fields and DSNs
	Domains  []Domain // the first speaks for null reverse-paths without a From of ours
	Store    Store
	Peers    Peers
	Legacy   func(domain string) Transport        // for domains that are not ours and no peers
	Hop      func(next string) (Transport, error) // for what an operator redirected; nil: nothing can be
	SRS      *SRS                                 // rewrites foreign reverse-paths for peers; nil: such mail is refused
	Signer   Signer                               // of our own mail; nil: none is signed
	Answers  Answers                              // nil: no question of ours is answered by mail
	Owners   Owners                               // whose addresses are whose; nil: authenticated users own none
	Judge    Judge                                // nil: mail is taken as it comes, and delivered without tags
	LoopKey  []byte                               // the same on all nodes; none: looping mail is found by its hops alone
	Hops     int                                  // Received fields that a message may carry; 0 for mail.MaxHops
	TempDir  string                               // for DSNs in the making, "" for the system's
	Log      *slog.Logger

	Aliases        []Alias // of ours
	Voucher        Voucher // for what is forwarded; nil: it goes on without
	RewriteAliases bool    // SRS also by SMTP: for what our aliases forward
	RewriteRelayed bool    // and for what neighbours bring

	DoubtOtherPath bool // what may have been taken over XMPP may go by SMTP, where nothing holds the domain to XMPP

	CutThrough         bool
	CutThroughDeadline time.Duration // how long a client may wait for the peer's verdict
	CutThroughPerPeer  int           // how many sessions one peer may keep waiting

	Lifetime    time.Duration // of a delivery in the queue
	DelayNotice time.Duration // after which the sender hears of a delay
	RetryFirst  time.Duration // between the first and the second attempt
	RetryMax    time.Duration // longest time between attempts
	Concurrency int           // attempts in all
	PerDomain   int           // attempts to one domain
	Retention   store.Retention
}

const (
	attemptLimit  = 30 * time.Minute // the longest attempt
	checkTimeout  = 3 * time.Second  // for asking a peer or neighbour at RCPT time
	verdictTTL    = 5 * time.Minute  // how long a recipient's existence is remembered
	refusalTTL    = 30 * time.Second // and that it does not exist
	verdictMemory = 20_000           // recipients remembered
)

// Gateway carries messages. Make it with New, start it with Run.
type Gateway struct {
	Config
	domains  map[string]Domain
	aliases  aliases
	sched    *scheduler
	verdicts *verdictCache
	loops    loopMarks
	doubts   doubts
}

// New checks the configuration and makes a Gateway.
func New(cfg Config) (*Gateway, error) {
	if len(cfg.Domains) == 0 {
		return nil, fmt.Errorf("gateway: no domain of our own")
	}
	if cfg.Hops <= 0 {
		cfg.Hops = mail.MaxHops
	}
	g := &Gateway{Config: cfg, domains: map[string]Domain{}, aliases: newAliases(cfg.Aliases), verdicts: newVerdictCache(verdictMemory), loops: loopMarks{cfg.LoopKey}}
	for _, d := range cfg.Domains {
		g.domains[d.Name] = d
	}
	g.sched = newScheduler(g)
	return g, nil
}

// Run delivers what is in the store until ctx ends, then lets the attempts
// that are running come to their end, for at most grace.
func (g *Gateway) Run(ctx context.Context, grace time.Duration) {
	var beside sync.WaitGroup
	beside.Go(func() { g.maintain(ctx) })
	beside.Go(func() { watchNetwork(ctx, net.InterfaceAddrs, defaultRoutes, g.networkChanged) })
	g.sched.run(ctx, grace)
	beside.Wait()
}

// maintain removes from the store what has outlived its retention, in batches
// small enough to leave the store to the mail.
func (g *Gateway) maintain(ctx context.Context) {
	timer := time.NewTimer(maintainEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		more, err := g.Store.Maintain(ctx, g.Retention)
		if err != nil && ctx.Err() == nil {
			g.Log.Error("store not maintained", "err", err)
		}
		if more && err == nil {
			timer.Reset(time.Second)
		} else {
			timer.Reset(maintainEvery)
		}
	}
}

// PeerUp is to be called when a stream between one of our domains and a peer
// came up: what waits for the peer is due now.
func (g *Gateway) PeerUp(_, domain string) {
	g.sched.revive(domain, true)
	if !g.sched.isStopping() { // nobody would deliver it, and the store may be closed
		g.sched.release(domain, peerBack)
	}
}

const peerBack = "peer is back, waiting mail released"

// QueueChanged is to be called when an operator made deliveries due: domains
// that count as dead get another chance.
func (g *Gateway) QueueChanged() { g.sched.reviveAll() }

// fallbackDomain is the domain of ours that speaks where the message names none.
func (g *Gateway) fallbackDomain() string { return g.Domains[0].Name }

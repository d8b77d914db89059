package proof

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"mailxmppd/dns"
	"mailxmppd/xmpp/stream"
)

// DNS is asked for records. *dns.Resolver is one; it is called from many
// goroutines at once.
type DNS interface {
	SRV(ctx context.Context, name string) dns.Answer[dns.SRV]
	TLSA(ctx context.Context, name string) dns.Answer[dns.TLSA]
	Addrs(ctx context.Context, host string) dns.Answer[netip.Addr]
}

// Peer is what the operator has configured about a peer domain.
type Peer struct {
	Pins  []Pin    // with any, nothing else is a proof
	Addrs []string // "host:port" where it is dialled: named by the operator, so no signed SRV is needed
}

// Config is what a Prover needs. Zero values stand for the defaults given.
type Config struct {
	DNS  DNS  // required for DANE and POSH
	DANE bool // DNS validates, and its word can be trusted on the way to us
	POSH bool
	// Roots are the authorities for POSH's web sites, and for TLSA records of
	// the usages that demand PKIX as well; nil for the system's.
	Roots *x509.CertPool
	Peers map[string]Peer // by domain, A-labels

	// Dial connects to web sites. nil: to the addresses that DNS tells.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	Timeout    time.Duration // for DANE and for POSH each, 6 s
	MaxLookups int           // domains looked up at once, for DANE and for POSH each, 64
	MaxCached  int           // domains whose POSH documents are kept, 4096

	Log *slog.Logger
}

// Proofs, as mail.Binding names them.
const (
	proofPinned = "pinned"
	proofPKIX   = "pkix"
	proofDANE   = "dane"
	proofPOSH   = "posh"
)

// Prover judges certificates. It is safe for concurrent use.
type Prover struct {
	cfg    Config
	now    func() time.Time
	client *http.Client
	places *flights[[]published]
	sites  *flights[fetched]
	kept   *keptDocuments

	pinnedCount, pkixCount, daneCount, poshCount, refused, fetches atomic.Int64
}

// New makes a Prover. Close ends it.
func New(cfg Config) (*Prover, error) {
	if cfg.DNS == nil && (cfg.DANE || cfg.POSH && cfg.Dial == nil) {
		return nil, errors.New("proofs by DANE and POSH need DNS")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 6 * time.Second
	}
	if cfg.MaxLookups <= 0 {
		cfg.MaxLookups = 64
	}
	if cfg.MaxCached <= 0 {
		cfg.MaxCached = 4096
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	p := &Prover{
		cfg: cfg, now: time.Now,
		places: newFlights[[]published](cfg.MaxLookups, cfg.Timeout),
		sites:  newFlights[fetched](cfg.MaxLookups, cfg.Timeout),
		kept:   newKeptDocuments(cfg.MaxCached),
	}
	p.client = newClient(p)
	return p, nil
}

// Close gives up the lookups under way and waits for them to end. What is
// asked afterwards is proven by pins alone, and by PKIX where DANE is not to be
// asked first.
func (p *Prover) Close() {
	p.places.close()
	p.sites.close()
}

// Prove fits stream.Config.Prove. The error is an *Unproven.
func (p *Prover) Prove(ctx context.Context, e stream.Evidence) (string, error) {
	how, where, err := p.judge(ctx, e)
	if err != nil {
		p.refused.Add(1)
		return "", err
	}
	switch how {
	case proofPinned:
		p.pinnedCount.Add(1)
	case proofPKIX:
		p.pkixCount.Add(1)
	case proofDANE:
		p.daneCount.Add(1)
	case proofPOSH:
		p.poshCount.Add(1)
	}
	p.cfg.Log.Debug("domain proven", "peer", e.Remote, "proof", how, "at", where)
	return how, nil
}

func (p *Prover) judge(ctx context.Context, e stream.Evidence) (how, where string, err error) {
	no := &Unproven{Domain: e.Remote}
	certs := e.State.PeerCertificates
	if len(certs) == 0 {
		return "", "", no.because(proofPKIX, "", errors.New("no certificate was shown"))
	}
	if pins := p.cfg.Peers[e.Remote].Pins; len(pins) > 0 {
		if err := matchPins(pins, certs[0]); err != nil {
			return "", "", no.because(proofPinned, "", err)
		}
		return proofPinned, "", nil
	}
	// What was dialled is held to the signed records that it has, a chain that
	// holds or not. Who connects is not, and then DNS is not asked where the
	// chain is enough.
	if e.PKIX != nil {
		no.because(proofPKIX, "", e.PKIX)
	}
	if p.cfg.DANE && (e.Dialled != nil || e.PKIX != nil) {
		switch where, binding := p.byDANE(ctx, e, no); {
		case where != "":
			return proofDANE, where, nil
		case binding:
			return "", "", no
		}
	}
	if e.PKIX == nil {
		return proofPKIX, "", nil
	}
	if p.cfg.POSH {
		if where := p.byPOSH(ctx, e, no); where != "" {
			return proofPOSH, where, nil
		}
	}
	return "", "", no
}

// Snapshot is the state of the counters, which only grow.
type Snapshot struct {
	Pinned, PKIX, DANE, POSH int64 // certificates accepted, by proof
	Refused                  int64
	Fetches                  int64 // of POSH documents, those that pointed elsewhere counted once
	Shed                     int64 // lookups not made because MaxLookups were under way
}

// Snapshot reads the counters.
func (p *Prover) Snapshot() Snapshot {
	return Snapshot{
		Pinned: p.pinnedCount.Load(), PKIX: p.pkixCount.Load(), DANE: p.daneCount.Load(), POSH: p.poshCount.Load(),
		Refused: p.refused.Load(), Fetches: p.fetches.Load(), Shed: p.places.shed.Load() + p.sites.shed.Load(),
	}
}

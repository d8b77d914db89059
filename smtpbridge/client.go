package smtpbridge

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

// Resolver is what the client asks of DNS. Safe for concurrent use; bounds its
// own waits and honours ctx.
type Resolver interface {
	MX(ctx context.Context, domain string) dns.Answer[dns.MX]
	Addrs(ctx context.Context, host string) dns.Answer[netip.Addr]
}

// ClientTimeouts bound the client's waits, phase by phase. The zero value of
// each stands for what RFC 5321 section 4.5.3.2 says.
type ClientTimeouts struct {
	Connect   time.Duration // 30 s: of a TCP connection and of a TLS handshake, each
	Greeting  time.Duration // 5 min (4.5.3.2.1)
	Command   time.Duration // 5 min: EHLO, MAIL, RCPT and others (4.5.3.2.2, 4.5.3.2.3)
	DataStart time.Duration // 2 min: from DATA to 354 (4.5.3.2.4)
	DataBlock time.Duration // 3 min: for each block of up to 64 KiB (4.5.3.2.5)
	DataEnd   time.Duration // 10 min: for each reply after the final dot (4.5.3.2.6)
}

func (t ClientTimeouts) withDefaults() ClientTimeouts {
	for _, d := range []struct {
		set      *time.Duration
		standard time.Duration
	}{
		{&t.Connect, 30 * time.Second},
		{&t.Greeting, 5 * time.Minute},
		{&t.Command, 5 * time.Minute},
		{&t.DataStart, 2 * time.Minute},
		{&t.DataBlock, 3 * time.Minute},
		{&t.DataEnd, 10 * time.Minute},
	} {
		if *d.set <= 0 {
			*d.set = d.standard
		}
	}
	return t
}

// ClientConfig is what a Client needs. Zero values stand for the defaults
// given.
type ClientConfig struct {
	Hostname  string         // for EHLO and LHLO; "localhost"
	DNS       Resolver       // nil: by MX nothing can be delivered, fixed hops resolve as the system does
	MXPort    int            // 25
	Roots     *x509.CertPool // for verified TLS; nil: the system's
	Timeouts  ClientTimeouts
	MaxPerHop int           // connections at a time to one address; 20
	MaxIdle   int           // of them kept open while idle; as MaxPerHop
	IdleFor   time.Duration // how long; 30 s
	OwnNames  []string      // by which MX records may name this gateway, beside Hostname
	Log       *slog.Logger  // nil: none
}

// Client carries attempts to next hops by SMTP and LMTP. It is safe for
// concurrent use and keeps connections for the attempts that follow.
type Client struct {
	cfg      ClientConfig
	ownNames map[string]bool
	pool     *connPool
	log      *slog.Logger
}

// NewClient makes a Client; Close ends it.
func NewClient(cfg ClientConfig) *Client {
	if cfg.Hostname == "" {
		cfg.Hostname = "localhost"
	}
	if cfg.MXPort == 0 {
		cfg.MXPort = 25
	}
	if cfg.MaxPerHop <= 0 {
		cfg.MaxPerHop = 20
	}
	if cfg.MaxIdle <= 0 {
		cfg.MaxIdle = cfg.MaxPerHop
	}
	if cfg.IdleFor <= 0 {
		cfg.IdleFor = 30 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	c := &Client{
		cfg:      cfg,
		ownNames: map[string]bool{},
		pool:     newConnPool(cfg.MaxPerHop, cfg.MaxIdle, cfg.IdleFor),
		log:      cfg.Log,
	}
	for _, name := range append([]string{cfg.Hostname}, cfg.OwnNames...) {
		c.ownNames[strings.ToLower(strings.TrimSuffix(name, "."))] = true
	}
	return c
}

// Close closes idle connections and lets no new attempt begin. Connections in
// use end with the attempts they are used for.
func (c *Client) Close() { c.pool.close() }

// Deliver hands a.Trace and then a.Content to the hop for all recipients in
// one transaction and returns one outcome per recipient. What was settled
// before ctx ended is returned as it is; the connection is closed then.
func (c *Client) Deliver(ctx context.Context, hop Hop, a mail.Attempt) []mail.Outcome {
	n := len(a.Envelope.Recipients)
	if n == 0 {
		return nil
	}
	var outcomes []mail.Outcome
	f := c.transact(ctx, hop, a.Domain, func(hc *hopConn) (untouched bool) {
		outcomes, untouched = hc.deliver(a)
		return untouched
	})
	if f != nil {
		return mail.AllFailed(n, f)
	}
	return outcomes
}

// transact finds a place that lets us in, and runs fn on a connection to it,
// once, or twice where an idle connection turned out dead before it took
// anything: fn says so by untouched. A failure means that fn's result is not
// there: no place could be reached.
func (c *Client) transact(ctx context.Context, hop Hop, domain string, fn func(*hopConn) (untouched bool)) *mail.Failure {
	var failure *mail.Failure
	for place, f := range c.route(ctx, hop, domain) {
		if f == nil {
			f = c.transactAt(ctx, hop, place, fn)
		}
		if f == nil {
			return nil
		}
		// One host's refusal is final only where no other host may say yes later.
		if failure == nil || failure.Class == mail.Permanent {
			failure = f
		}
		if ctx.Err() != nil {
			break
		}
	}
	return failure
}

// transactAt runs fn at one place; a failure means that there was no getting
// in.
func (c *Client) transactAt(ctx context.Context, hop Hop, p place, fn func(*hopConn) bool) *mail.Failure {
	site, err := c.pool.enter(ctx, poolKey(hop, p), c.cfg.Timeouts.Command)
	if err != nil {
		return noAnswer(p.host, err)
	}
	defer c.pool.leave(site)
	if hc := c.pool.take(site); hc != nil {
		if untouched := c.run(ctx, site, hc, fn); !untouched || ctx.Err() != nil {
			return nil
		}
	}
	hc, f := c.dial(ctx, hop, p)
	if f != nil {
		return f
	}
	c.run(ctx, site, hc, fn)
	return nil
}

// run uses a connection and puts it back if it is fit for more. The end of ctx
// closes it: nothing else ends a wait in the midst of a dialogue.
func (c *Client) run(ctx context.Context, s *site, hc *hopConn, fn func(*hopConn) bool) (untouched bool) {
	stop := context.AfterFunc(ctx, hc.abort)
	untouched = fn(hc)
	if stop() && hc.settle() {
		c.pool.put(s, hc)
		return untouched
	}
	hc.abort()
	return untouched
}

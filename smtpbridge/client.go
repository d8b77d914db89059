package smtpbridge

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
)

// Client carries attempts to next hops by SMTP and LMTP. It is safe for
// concurrent use and keeps connections for the attempts that follow.
type Client struct {
	cfg      ClientConfig
	ownNames map[string]bool
	ownAddrs map[netip.Addr]bool
	pool     *connPool
	failed   *failedPlaces
	sets     *exchangerSets
	sts      *stsCache // nil: MTA-STS is not honoured
	log      *slog.Logger
}

// NewClient makes a Client; Close ends it.
func NewClient(cfg ClientConfig) *Client {
	cfg = cfg.withDefaults()
	c := &Client{
		cfg:      cfg,
		ownNames: map[string]bool{},
		ownAddrs: map[netip.Addr]bool{},
		pool:     newConnPool(cfg.MaxPerHop, cfg.MaxIdle, cfg.IdleFor),
		failed:   newFailedPlaces(cfg.FailedFor),
		sets:     &exchangerSets{of: map[string]string{}},
		log:      cfg.Log,
	}
	for _, name := range append([]string{cfg.Hostname}, cfg.OwnNames...) {
		c.ownNames[strings.ToLower(strings.TrimSuffix(name, "."))] = true
	}
	for _, ip := range cfg.OwnAddrs {
		c.ownAddrs[ip.Unmap()] = true
	}
	if cfg.MTASTS && cfg.DNS != nil {
		c.sts = newSTSCache(cfg)
	}
	return c
}

// Close closes idle connections and lets no new attempt begin. Connections in
// use end with the attempts they are used for.
func (c *Client) Close() {
	c.pool.close()
	if c.sts != nil {
		c.sts.close()
	}
}

// errand is what brings us to a next hop.
type errand struct {
	hop        Hop
	domain     string      // of the recipients
	requireTLS bool        // RFC 8689 section 4.2.1
	waived     func() bool // whether the message says that TLS policies do not matter to it (section 5)
}

// passage is how an errand fared on one connection.
type passage struct {
	stale bool          // the session was found dead at its first command: it may be made anew on another
	unfit *mail.Failure // nothing was said of the message: another host may be fitter
}

// Deliver hands a.Trace and then a.Content to the hop for all recipients, in
// one transaction unless it takes fewer at a time, and returns one outcome per
// recipient. What was settled before ctx ended is returned as it is; the
// connection is closed then.
func (c *Client) Deliver(ctx context.Context, hop Hop, a mail.Attempt) []mail.Outcome {
	n := len(a.Envelope.Recipients)
	if n == 0 {
		return nil
	}
	if by := a.Envelope.DeliverBy; by != nil && by.Mode == byReturn && time.Until(by.Deadline) <= 0 {
		// RFC 2852 section 4.1.1: not delivered in time, so not delivered at all.
		return mail.AllFailed(n, mail.Fail(mail.Expired, "the time that the sender set for delivery is over", nil))
	}
	e := errand{hop: hop, domain: a.Domain, waived: sync.OnceValue(func() bool { return waivesTLS(a) })}
	if a.Envelope.RequireTLS && hop.Protocol != ProtocolLMTP {
		e.requireTLS, e.hop.TLS = true, TLSVerified
	}
	return inParts(ctx, a, func(a mail.Attempt) (outcomes []mail.Outcome) {
		f := c.transact(ctx, e, func(hc *hopConn) (p passage) {
			outcomes, p = hc.deliverSome(a)
			return p
		})
		if f != nil {
			return mail.AllFailed(len(a.Envelope.Recipients), f)
		}
		return outcomes
	})
}

// transact finds a place that lets us in, and runs fn on a connection to it.
// Places that could not be connected to a short while ago come last. A failure
// means that fn's result is not there: no place could be reached, or none was
// fit.
func (c *Client) transact(ctx context.Context, e errand, fn func(*hopConn) passage) *mail.Failure {
	var failure *mail.Failure
	fail := func(f *mail.Failure) {
		// One host's refusal is final only where no other host may say yes later.
		if failure == nil || failure.Class == mail.Permanent {
			failure = f
		}
	}
	var last []place
	for place, f := range c.route(ctx, e) {
		if f == nil && c.failed.recently(place.addr) {
			last = append(last, place)
			continue
		}
		if f == nil {
			f = c.transactAt(ctx, e, place, fn)
		}
		if f == nil {
			return nil
		}
		if fail(f); ctx.Err() != nil {
			return failure
		}
	}
	for _, place := range last {
		f := c.transactAt(ctx, e, place, fn)
		if f == nil {
			return nil
		}
		if fail(f); ctx.Err() != nil {
			return failure
		}
	}
	return failure
}

// transactAt runs fn at one place, once, or twice where an idle connection
// turned out dead. A failure means that there was no getting in, or that the
// place was unfit.
func (c *Client) transactAt(ctx context.Context, e errand, p place, fn func(*hopConn) passage) *mail.Failure {
	site, err := c.pool.enter(ctx, poolKey(e.hop, p), c.cfg.Timeouts.Command)
	if err != nil {
		return noAnswer(p.host, err)
	}
	defer c.pool.leave(site)
	if hc := c.pool.take(site); hc != nil {
		if how := c.run(ctx, site, hc, fn); !how.stale || ctx.Err() != nil {
			return how.unfit
		}
	}
	hc, f := c.dial(ctx, e.hop, p)
	if f != nil {
		return e.judged(f)
	}
	return c.run(ctx, site, hc, fn).unfit
}

// judged makes a failure of TLS final where the message asked for TLS: RFC
// 8689 section 4.2.1 wants the sender told, not the message kept.
func (e errand) judged(f *mail.Failure) *mail.Failure {
	if !e.requireTLS || !isTLSFailure(f) {
		return f
	}
	out := mail.Fail(mail.TLSRequired, "message requires TLS: "+f.Text, f.Cause).WithStatus("5.7.10")
	out.Remote = f.Remote
	return out
}

// run uses a connection and puts it back if it is fit for more. The end of ctx
// closes it: nothing else ends a wait in the midst of a dialogue.
func (c *Client) run(ctx context.Context, s *site, hc *hopConn, fn func(*hopConn) passage) passage {
	stop := context.AfterFunc(ctx, hc.abort)
	how := fn(hc)
	if stop() && hc.settle() {
		c.pool.put(s, hc)
		return how
	}
	hc.abort()
	return how
}

// loopFailure is for mail that would come back to this host.
func loopFailure(domain string) *mail.Failure {
	return mail.Fail(mail.Loop, fmt.Sprintf("mail for %s would loop back to this host", domain), nil)
}

package smtpbridge

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"mailxmppd/dns"
	"mailxmppd/mail"
)

// PolicyStore keeps MTA-STS policies over restarts. Safe for concurrent use.
// An error costs protection only for as long as the policy has to be fetched
// anew: it is logged, and the memory goes on.
type PolicyStore interface {
	// GetPolicy returns what PutPolicy stored for a domain last; nil where
	// there is nothing, or it has expired.
	GetPolicy(ctx context.Context, domain string) ([]byte, error)
	// PutPolicy replaces what is stored for a domain; it may be forgotten once
	// expires has passed. Durable at the store's leisure.
	PutPolicy(ctx context.Context, domain string, policy []byte, expires time.Time) error
}

const (
	maxSTSDomains = 10_000 // held in memory
	stsRefreshers = 4      // policies fetched in the background at a time
	// stsRetry is how long a policy that could not be fetched is not asked for
	// again (RFC 8461 section 3.3: at least five minutes).
	stsRetry = 5 * time.Minute
	// stsRefresh is the age from which a policy in use is fetched again,
	// before it expires and although its id has not changed: whoever blocks
	// the DNS record must not be able to let it run out (RFC 8461 section 10.2).
	stsRefresh = 24 * time.Hour
)

// stsCache finds the MTA-STS policy of a domain: in memory, in the store, or by
// HTTPS where the domain's DNS record has an id that is not known.
type stsCache struct {
	resolver Resolver
	store    PolicyStore
	client   *http.Client
	timeout  time.Duration
	log      *slog.Logger
	now      func() time.Time

	ctx       context.Context // of what runs in the background
	cancel    context.CancelFunc
	refreshes sync.WaitGroup
	slots     chan struct{}

	mu      sync.Mutex
	closed  bool
	domains map[string]*stsEntry
}

// stsEntry is what is known of one domain; its fields are for whoever holds
// turn.
type stsEntry struct {
	turn    chan struct{} // one element while somebody asks
	loaded  bool          // the store was asked
	policy  *stsPolicy    // nil: none known
	failed  string        // the id whose policy could not be fetched
	trouble *stsTrouble   // why
	again   time.Time     // not to be fetched before
}

func newSTSCache(cfg ClientConfig) *stsCache {
	ctx, cancel := context.WithCancel(context.Background())
	return &stsCache{
		resolver: cfg.DNS, store: cfg.Policies, client: newSTSClient(cfg), timeout: cfg.Timeouts.Policy, log: cfg.Log, now: time.Now,
		ctx: ctx, cancel: cancel, slots: make(chan struct{}, stsRefreshers), domains: map[string]*stsEntry{},
	}
}

// close ends what runs in the background and waits for it.
func (c *stsCache) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.refreshes.Wait()
}

// policy returns the policy in force for a domain, nil for none, and why a
// newer one could not be had. An error means that ctx ended before either was
// known, or that the store, which may have a policy in force, could not be read.
func (c *stsCache) policy(ctx context.Context, domain string) (*stsPolicy, *stsTrouble, error) {
	if mail.IsLiteral(domain) {
		return nil, nil, nil
	}
	e := c.entry(domain)
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	defer func() { <-e.turn }()
	c.load(ctx, domain, e)
	policy, trouble := c.find(ctx, domain, e)
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if policy == nil && !e.loaded && c.store != nil {
		return nil, nil, errPolicyNotRead
	}
	return policy, trouble, nil
}

var errPolicyNotRead = errors.New("the store does not tell whether a policy is in force")

func (c *stsCache) entry(domain string) *stsEntry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.domains[domain]
	if e == nil {
		if len(c.domains) >= maxSTSDomains {
			c.makeRoom()
		}
		e = &stsEntry{turn: make(chan struct{}, 1)}
		c.domains[domain] = e
	}
	return e
}

// makeRoom drops one of 16 entries in the map's own random order; what it knew
// is in the store. c.mu is held.
func (c *stsCache) makeRoom() {
	looked := 0
	for domain, e := range c.domains {
		looked++
		select {
		case e.turn <- struct{}{}:
		default:
			continue // in use
		}
		idle := e.policy == nil
		<-e.turn
		if idle || looked >= 16 {
			delete(c.domains, domain)
			return
		}
	}
}

// load asks the store once.
func (c *stsCache) load(ctx context.Context, domain string, e *stsEntry) {
	if e.loaded || c.store == nil {
		return
	}
	data, err := c.store.GetPolicy(ctx, domain)
	if err != nil {
		c.log.Warn("mta-sts policy not read", "domain", domain, "err", err)
		return
	}
	e.loaded = true
	if data == nil {
		return
	}
	policy := new(stsPolicy)
	if err := json.Unmarshal(data, policy); err != nil {
		c.log.Warn("stored mta-sts policy is not readable", "domain", domain, "err", err)
		return
	}
	e.policy = policy
}

// find compares the DNS record with what is known. As long as a policy is in
// force, nothing that goes wrong ends it (RFC 8461 section 5.1). The caller has
// the entry's turn.
func (c *stsCache) find(ctx context.Context, domain string, e *stsEntry) (*stsPolicy, *stsTrouble) {
	if e.policy != nil && !c.now().Before(e.policy.expires()) {
		e.policy = nil
	}
	ans := c.resolver.TXT(ctx, "_mta-sts."+domain)
	id, ok := "", false
	if ans.Status == dns.Found {
		id, ok = stsRecordID(ans.Records)
	}
	switch {
	case !ok && e.policy == nil:
		return nil, nil
	case !ok || e.policy != nil && e.policy.ID == id:
		if c.now().Sub(e.policy.Fetched) > min(stsRefresh, e.policy.MaxAge/2) && !c.now().Before(e.again) {
			c.refresh(domain, e.policy.ID, e)
		}
		return e.policy, nil
	case e.failed == id && c.now().Before(e.again):
		return e.policy, e.trouble
	}
	return e.policy, c.fetch(ctx, domain, id, e)
}

// fetch replaces the entry's policy. The caller has the entry's turn.
func (c *stsCache) fetch(ctx context.Context, domain, id string, e *stsEntry) *stsTrouble {
	limited, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	policy, trouble := fetchSTS(limited, c.client, domain)
	if trouble != nil {
		if ctx.Err() == nil { // else it was us who gave up
			e.failed, e.trouble, e.again = id, trouble, c.now().Add(stsRetry)
			c.log.Warn("mta-sts policy not fetched", "domain", domain, "err", trouble)
		}
		return trouble
	}
	policy.ID, policy.Fetched = id, c.now().UTC()
	e.policy, e.failed, e.trouble = policy, "", nil
	c.log.Info("mta-sts policy fetched", "domain", domain, "mode", policy.Mode, "max_age", policy.MaxAge)
	c.keep(ctx, domain, policy)
	return nil
}

func (c *stsCache) keep(ctx context.Context, domain string, policy *stsPolicy) {
	if c.store == nil {
		return
	}
	data, err := json.Marshal(policy)
	if err == nil {
		err = c.store.PutPolicy(ctx, domain, data, policy.expires())
	}
	if err != nil {
		c.log.Warn("mta-sts policy not stored", "domain", domain, "err", err)
	}
}

// refresh fetches a policy again in the background, if a slot is free. The
// caller has the entry's turn, which the background waits for.
func (c *stsCache) refresh(domain, id string, e *stsEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return
	}
	e.again = c.now().Add(stsRetry) // not once for every message in the meantime
	c.refreshes.Go(func() {
		defer func() { <-c.slots }()
		select {
		case e.turn <- struct{}{}:
		case <-c.ctx.Done():
			return
		}
		defer func() { <-e.turn }()
		c.fetch(c.ctx, domain, id, e)
	})
}

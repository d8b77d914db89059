package component

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
)

const maxBackOff = 30 * time.Second

// provenAfter is how long a connection has to last before it counts as one
// that works even if nothing came over it.
const provenAfter = 30 * time.Second

// Component keeps the connection to the server. Safe for concurrent use.
type Component struct {
	cfg      Config
	counters counters

	mu      sync.Mutex
	session *session      // nil while there is none
	failure error         // of the last attempt; nil before the first has ended, and while there is a session
	changed chan struct{} // closed, and made anew, when one of the two changes
}

// New makes a component; Run connects it.
func New(cfg Config) (*Component, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Component{cfg: cfg, changed: make(chan struct{})}, nil
}

// Domain is the component's name, the one local domain of its links.
func (c *Component) Domain() string { return c.cfg.Domain }

// Run keeps a connection until ctx ends, and then closes it in order and waits
// for that, and for the handlers; it returns nil. It is called once.
func (c *Component) Run(ctx context.Context) error {
	defer c.set(nil, stream.ErrShutdown)
	for failures := 0; ; {
		began := time.Now()
		s, err := c.connect(ctx)
		if err == nil {
			c.set(s, nil)
			err = s.run(ctx)
			if s.heard.Load() || time.Since(began) > provenAfter {
				failures = 0
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		failures++
		c.set(nil, err)
		wait := c.backOff(failures, err)
		c.cfg.Log.Warn("component is not connected", "local", c.cfg.Domain, "remote", c.cfg.Address,
			"err", mail.Sanitise(err.Error()), "wait", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// backOff is the wait after the n-th failure in a row, with jitter so that
// nodes do not try in step. A server that refuses the name has another node
// for it (conflict), or has yet to be configured.
func (c *Component) backOff(n int, err error) time.Duration {
	d := c.cfg.BackOff
	for ; n > 1 && d < maxBackOff; n-- {
		d *= 2
	}
	d = min(d, max(maxBackOff, c.cfg.BackOff))
	if refused, ok := errors.AsType[*serverError](err); ok && refused.lasting() {
		c.counters.refused.Add(1)
		d = c.cfg.RefusedBackOff
	}
	return d/2 + rand.N(d/2+1)
}

func (c *Component) set(s *session, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.failure = s, failure
	close(c.changed)
	c.changed = make(chan struct{})
}

// Live returns the link to a peer that has been heard over the present
// connection, or nil.
func (c *Component) Live(local, remote string) *Link {
	c.mu.Lock()
	s := c.session
	c.mu.Unlock()
	if s == nil || local != c.cfg.Domain {
		return nil
	}
	return s.live(remote)
}

// Link returns the link to a peer. That there is one says nothing of the peer,
// which only the server can reach. While the server cannot be reached it fails
// at once; while the first connection is being made it waits.
func (c *Component) Link(ctx context.Context, local, remote string) (*Link, error) {
	if local != c.cfg.Domain || remote == c.cfg.Domain {
		return nil, mail.Failf(mail.Internal, "no component for mail from %s to %s", local, remote)
	}
	if !c.cfg.AssertAuthenticated {
		return nil, mail.Fail(mail.Unavailable, noAssertion, nil)
	}
	for {
		c.mu.Lock()
		s, failure, changed := c.session, c.failure, c.changed
		c.mu.Unlock()
		switch {
		case s != nil:
			l, err := s.link(remote)
			if !errors.Is(err, errEnded) {
				return l, err
			}
		case failure != nil:
			return nil, &stream.NegotiationError{Stage: stream.StageBackOff, Err: failure}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// noAssertion is what peers, and our own queue, are told.
const noAssertion = "operator has not asserted that the server of this component demands certificates"

// serverError is the stream error that the server ended the connection with.
type serverError struct{ condition, text string }

func (e *serverError) Error() string {
	s := "server ended the stream: " + e.condition
	if e.text != "" {
		s += ": " + e.text
	}
	return s
}

// lasting reports whether trying again soon will not help.
func (e *serverError) lasting() bool {
	switch e.condition {
	case "conflict", "not-authorized", "host-unknown", "host-gone", "invalid-from", "policy-violation":
		return true
	}
	return false
}

func ending(err error) string {
	if err == nil || err == io.EOF {
		return ""
	}
	return mail.Sanitise(err.Error())
}

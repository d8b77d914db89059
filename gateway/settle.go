package gateway

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// settle records what an attempt came to together with the DSNs that follow
// from it. A store that does not answer is asked again for as long as retry
// says; after that the lease runs out and the deliveries are tried anew. It says
// how many deliveries it settled.
func (g *Gateway) settle(l store.Lease, content mail.Content, t trial, retry time.Duration) (settled int) {
	if c, ok := content.(storedContent); ok {
		// The attempt's own context may have ended with it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), settleTimeout)
		defer cancel()
		c.ctx = ctx
		content = c
	}
	s := store.Settlement{Lease: l, Results: make([]store.Result, len(l.Deliveries))}
	for i, d := range l.Deliveries {
		s.Results[i] = g.result(l, d, t.outcomes[i])
		if r := &s.Results[i]; r.State == store.Deferred {
			switch {
			case t.off != nil:
				r.Delay = t.off.wait
			case t.cut:
				r.Delay = 0 // through no fault of the destination: at the next start
			}
			r.Delay = min(r.Delay, g.mostDelay(l, d))
		}
	}
	s = g.withDSNs(s, content, t.way)
	defer closeDSNs(s)
	if len(s.Results) == 0 {
		return 0
	}
	faults.Point("settle.before")
	if g.settleInStore(s, retry) {
		g.logSettled(s, t)
		settled = len(s.Results)
	}
	faults.Point("settle.after")
	return settled
}

// settleTimeout bounds one try to settle, and the making of its DSNs.
const settleTimeout = 30 * time.Second

func (g *Gateway) settleInStore(s store.Settlement, retry time.Duration) bool {
	deadline := time.Now().Add(retry)
	for wait := 500 * time.Millisecond; ; wait = min(2*wait, settleTimeout) {
		ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
		err := g.Store.Settle(ctx, s)
		cancel()
		switch {
		case err == nil:
			return true
		case errors.Is(err, store.ErrLeaseLost):
			g.Log.Warn("settlement refused, the deliveries are somebody else's now", "id", s.Lease.ID, "domain", s.Lease.Domain)
			return false
		case time.Now().Add(wait).After(deadline):
			g.Log.Error("settlement given up", "id", s.Lease.ID, "domain", s.Lease.Domain, "err", err)
			return false
		}
		g.Log.Error("settlement not stored, trying again", "id", s.Lease.ID, "domain", s.Lease.Domain, "err", err)
		time.Sleep(wait)
	}
}

// result turns an outcome into the delivery's next state.
func (g *Gateway) result(l store.Lease, d store.Delivery, o mail.Outcome) store.Result {
	r := store.Result{Outcome: o}
	switch {
	case o.Delivered():
		r.State = store.Delivered
	case o.Failure.Kind == mail.Expired && d.Expired:
		r.State = store.ExpiredSt
	case o.Failure.Class == mail.Permanent:
		r.State = store.Bounced
	default:
		r.State = store.Deferred
		r.InDoubt = o.Failure.Class == mail.InDoubt
		r.Delay = min(max(g.retryDelay(d.Attempt), o.Failure.RetryAfter), g.mostDelay(l, d))
		r.Delayed = !d.Delayed && g.tellsDelay(l, d)
	}
	return r
}

// retryDelay is the time until the next attempt: doubling from RetryFirst to
// RetryMax, with a jitter of a tenth either way so that what failed together
// does not come back together.
func (g *Gateway) retryDelay(attempt int) time.Duration {
	d := g.RetryMax
	if shift := max(attempt, 1) - 1; shift < 30 && g.RetryFirst < g.RetryMax>>shift {
		d = g.RetryFirst << shift
	}
	return jittered(d)
}

// spread is until when a delivery of that age is tried again that was not tried
// now: as Postfix does it, no later than after a time as long as it has waited.
func (g *Gateway) spread(age time.Duration) time.Duration {
	return rand.N(max(g.RetryFirst, min(age, g.RetryMax)))
}

func (g *Gateway) logSettled(s store.Settlement, t trial) {
	for i, d := range s.Lease.Deliveries {
		g.logOutcome(s.Lease, d, string(s.Results[i].State), t, s.Results[i].Outcome)
	}
	for _, m := range s.DSNs {
		g.Log.Info("dsn queued", "id", m.ID, "for", s.Lease.ID, "rcpt", m.Envelope.Recipients[0].Address)
	}
}

// logOutcome writes the one line for a delivery's change of state.
func (g *Gateway) logOutcome(l store.Lease, d store.Delivery, state string, t trial, o mail.Outcome) {
	attrs := []any{"id", l.ID, "n", d.N, "dir", "out", "transport", string(t.way), "state", state, "from", l.Envelope.Sender,
		"rcpt", l.Envelope.Recipients[d.N].Address, "domain", l.Domain, "remote", o.Remote, "attempt", d.Attempt, "size", l.Facts.Size}
	if t.took > 0 {
		attrs = append(attrs, "dur", t.took.Round(time.Millisecond))
	}
	if o.TLS != "" {
		attrs = append(attrs, "tls", o.TLS, "proof", o.Proof)
	}
	if o.Failure == nil {
		g.Log.Info("delivered", append(attrs, "remote_id", o.RemoteID)...)
		return
	}
	level := slog.LevelInfo
	if t.off != nil && !t.off.dead {
		level = slog.LevelDebug // no more than a wait for its turn
	}
	g.Log.Log(context.Background(), level, stateWord(state, o.Failure), append(attrs, "status", o.Failure.Status(), "cond", o.Failure.Condition, "err", o.Failure)...)
}

// stateWord is the message of a failed delivery's line. In cut-through a
// permanent failure is the client's to hear; nothing has bounced yet.
func stateWord(state string, f *mail.Failure) string {
	switch {
	case f.Class == mail.InDoubt:
		return "in doubt"
	case f.Class == mail.Temporary:
		return "deferred"
	case state == string(store.ExpiredSt):
		return "expired"
	case state == string(store.Bounced):
		return "bounced"
	}
	return "refused"
}

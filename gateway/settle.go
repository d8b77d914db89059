package gateway

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// settle records what an attempt came to, one outcome per delivery of the
// lease, together with the DSNs that follow from it. A store that does not
// answer is asked again while the lease can be kept; after that the delivery
// will be tried anew.
func (g *Gateway) settle(l store.Lease, content mail.Content, outcomes []mail.Outcome) {
	results := make([]store.Result, len(l.Deliveries))
	var failed, delayed []report
	for i, d := range l.Deliveries {
		results[i] = g.result(l, d, outcomes[i])
		r := report{l.Envelope.Recipients[d.N], results[i], d}
		switch {
		case results[i].State == store.Bounced || results[i].State == store.ExpiredSt:
			if r.recipient.WantsFailure() {
				failed = append(failed, r)
			}
		case results[i].Delayed:
			delayed = append(delayed, r)
		}
	}
	s := store.Settlement{Lease: l, Results: results}
	for _, d := range []struct {
		action  string
		reports []report
	}{{"failed", failed}, {"delayed", delayed}} {
		if m, err := g.dsn(l, content, d.action, d.reports); err != nil {
			g.Log.Error("dsn not made", "id", l.ID, "err", err)
			return // the lease runs out and the deliveries come again
		} else if m != nil {
			defer m.Content.(*mail.Buffer).Close()
			s.DSNs = append(s.DSNs, *m)
		}
	}
	faults.Point("settle.before")
	if g.settleInStore(s) {
		g.logSettled(s)
	}
	faults.Point("settle.after")
}

func (g *Gateway) settleInStore(s store.Settlement) bool {
	deadline := time.Now().Add(2 * leaseTime)
	for wait := 500 * time.Millisecond; ; wait = min(2*wait, 30*time.Second) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
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
		r.InDoubt = o.Failure.Class == mail.InDoubt || d.InDoubt
		r.Delay = min(max(g.retryDelay(d.Attempt), o.Failure.RetryAfter), max(d.Left, time.Second))
		r.Delayed = !d.Delayed && l.Age > g.DelayNotice && l.Envelope.Recipients[d.N].WantsDelay()
	}
	return r
}

// retryDelay is the time until the next attempt: doubling from RetryFirst to
// RetryMax, with a jitter of a tenth either way so that what failed together
// does not come back together.
func (g *Gateway) retryDelay(attempt int) time.Duration {
	d := g.RetryMax
	if shift := max(attempt, 1) - 1; shift < 30 && g.RetryFirst<<shift < g.RetryMax {
		d = g.RetryFirst << shift
	}
	return d - d/10 + rand.N(d/5+1)
}

func (g *Gateway) logSettled(s store.Settlement) {
	for i, d := range s.Lease.Deliveries {
		g.logOutcome(s.Lease.ID, d.N, string(s.Results[i].State), s.Lease.Envelope, s.Lease.Domain, d.Attempt, s.Results[i].Outcome, 0)
	}
	for _, m := range s.DSNs {
		g.Log.Info("dsn queued", "id", m.ID, "for", s.Lease.ID, "rcpt", m.Envelope.Recipients[0].Address)
	}
}

// logOutcome writes the one line for a delivery's change of state.
func (g *Gateway) logOutcome(id mail.ID, n int, state string, env mail.Envelope, domain string, attempt int, o mail.Outcome, took time.Duration) {
	attrs := []any{"id", id, "n", n, "dir", "out", "state", state, "from", env.Sender,
		"rcpt", env.Recipients[n].Address, "domain", domain, "remote", o.Remote, "attempt", attempt}
	if took > 0 {
		attrs = append(attrs, "dur", took.Round(time.Millisecond))
	}
	if o.TLS != "" {
		attrs = append(attrs, "tls", o.TLS, "proof", o.Proof)
	}
	if o.Failure == nil {
		g.Log.Info("delivered", append(attrs, "remote_id", o.RemoteID)...)
		return
	}
	msg := map[mail.Class]string{mail.Permanent: "bounced", mail.Temporary: "deferred", mail.InDoubt: "in doubt"}[o.Failure.Class]
	if o.Failure.Kind == mail.Expired {
		msg = "expired"
	}
	g.Log.Info(msg, append(attrs, "status", o.Failure.Status(), "cond", o.Failure.Condition, "err", o.Failure)...)
}

package stream

import (
	"context"
	"time"
)

// secondWait is how long Bulk waits for a second link while the first could
// be used.
const secondWait = 5 * time.Second

// Bulk returns a link for requests that carry much, so that small ones do not
// wait behind them: the younger of the pair's links, whoever opened it. If
// there is but one, a second is dialled; where that cannot be had, the only
// one serves. Errors are those of Link, which Bulk calls first.
func (m *Manager) Bulk(ctx context.Context, local, remote string, targets []Target) (*Link, error) {
	only, err := m.Link(ctx, local, remote, targets)
	if err != nil {
		return nil, err
	}
	p := pair{local, remote}
	second, d := m.secondOrDial(p, targets)
	if d != nil {
		t := time.NewTimer(secondWait)
		defer t.Stop()
		select {
		case <-d.done:
		case <-ctx.Done():
		case <-t.C:
		}
		second, _ = m.secondOrDial(p, nil)
	}
	if second != nil {
		return second, nil
	}
	return only, nil
}

// secondOrDial returns the link for bulk if the pair has two, or else a dial
// to wait for if one may be made now.
func (m *Manager) secondOrDial(p pair, targets []Target) (*Link, *dialling) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.routes[p]
	if r == nil || m.stopping {
		return nil, nil
	}
	usable := 0
	for _, l := range r.links {
		if l.usable() {
			usable++
		}
	}
	switch {
	case usable > 1:
		return r.pick(true), nil
	case usable == 0 || len(targets) == 0:
		return nil, nil
	case r.second.dial == nil && time.Now().Before(r.second.notBefore):
		return nil, nil
	}
	return nil, m.dial(p, &r.second, targets)
}

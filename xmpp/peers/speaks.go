package peers

import (
	"context"
	"errors"
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

var errNoItems = errors.New("answer is no list of items")

// Speaks reports whether a service, with which a proven stream is live, may
// send mail of a domain to us (xep-draft section 6.3): it names the domain
// itself, and the domain lists it on a stream that we have opened to it. nil
// says that it may. The failure is permanent only where one of the two has said
// otherwise.
func (d *Directory) Speaks(ctx context.Context, local, service, domain string) *mail.Failure {
	ctx, cancel := context.WithTimeout(ctx, 2*d.cfg.Timeout)
	defer cancel()
	live := d.cfg.Streams.Live(local, service)
	if live == nil || domain == local || domain == service {
		return notIts()
	}
	// First what costs no stream: else a service could have us dial whomever it
	// likes by claiming them.
	switch a := d.features(ctx, pair{local, service}, live, atUnknown); {
	case a.err != nil:
		return unreachable(service, "service does not say whose mail it carries", a.err)
	case !a.takes(domain):
		return notIts()
	}
	if d.lists(domain, service) {
		return nil
	}
	switch err := d.relist(ctx, pair{local, domain}); {
	case d.lists(domain, service):
		return nil
	case err != nil:
		return unreachable(domain, "domain cannot be asked whether the service speaks for it", err)
	}
	return notIts()
}

func notIts() *mail.Failure {
	return mail.Fail(mail.NotPermitted, "this stream does not speak for the sender's domain", nil)
}

func (d *Directory) lists(domain, service string) bool {
	l, ok := d.listings.get(domain)
	return ok && slices.Contains(l.items, service)
}

// relist asks a domain for its items, once for all who ask at the same time,
// and no sooner than relistAfter again.
func (d *Directory) relist(ctx context.Context, p pair) error {
	if l, _ := d.listings.get(p.remote); time.Since(l.asked) < relistAfter {
		return l.err
	}
	ch := d.probes.DoChan("items "+p.local+" "+p.remote, func() (any, error) {
		if !d.waiting.run(func() { d.running.Add(1) }) {
			return nil, context.Canceled
		}
		defer d.running.Done()
		select {
		case d.listings.turns <- struct{}{}:
			defer func() { <-d.listings.turns }()
		default:
			return nil, errors.New("too many domains are being asked")
		}
		ctx, cancel := context.WithTimeout(d.ctx, 2*d.cfg.Timeout)
		defer cancel()
		r, f := d.reach(ctx, p.remote)
		err := error(f)
		if f == nil {
			_, err = d.items(ctx, p.remote, r.service, d.asking(p, r))
		}
		if err != nil {
			l, _ := d.listings.get(p.remote) // what was listed holds on for its time
			l.asked, l.err = time.Now(), err
			d.listings.put(p.remote, l)
		}
		return nil, err
	})
	select {
	case r := <-ch:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// asking finds a stream that leads to a domain, opened by us: what another has
// opened proves the same and was not where DNS leads (xep-draft section 6.3).
func (d *Directory) asking(p pair, r reach) question {
	return func(ctx context.Context, payload []byte) (*wire.Element, error) {
		l, err := d.cfg.Streams.Link(ctx, p.local, p.remote, r.targets)
		if err == nil && !r.ours(l) {
			l, err = d.cfg.Streams.Bulk(ctx, p.local, p.remote, r.targets)
		}
		switch {
		case stageOf(err) == stream.StageBidi:
			return d.cfg.Streams.Probe(ctx, p.local, p.remote, r.targets, payload)
		case err != nil:
			return nil, err
		case !r.ours(l):
			return nil, errors.New("no stream of our own to the domain")
		}
		return l.Request(ctx, "get", payload)
	}
}

package peers

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

// maxLinkFacts is how many entries may gather before those of dead links go.
const maxLinkFacts = 1024

// linkFact is what a domain announced on one link; it holds as long as the
// link does.
type linkFact struct {
	link  transfer.Link
	caps  transfer.Capabilities
	has   bool
	err   error     // it did not answer
	until time.Time // of err
}

// muteFor is how long a domain that does not answer is not asked again on the
// same link, so that not every message waits for it.
const muteFor = 30 * time.Second

type linkFacts struct {
	mu    sync.Mutex
	known map[pair]linkFact
}

func (f *linkFacts) get(p pair, l transfer.Link) (linkFact, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fact, ok := f.known[p]
	return fact, ok && fact.link == l && (fact.err == nil || time.Now().Before(fact.until))
}

func (f *linkFacts) put(p pair, fact linkFact) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known) >= maxLinkFacts {
		for p, fact := range f.known {
			if dead(fact.link) {
				delete(f.known, p)
			}
		}
	}
	f.known[p] = fact
}

func dead(l transfer.Link) bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// Link returns a live link to a domain that has the feature, dialling if need
// be, and what the domain announced on it.
func (d *Directory) Link(ctx context.Context, local, domain string) (transfer.Link, transfer.Capabilities, error) {
	if d.configured[domain].Policy == Never {
		return nil, transfer.Capabilities{}, mail.Fail(mail.Unavailable, "peer is configured to get its mail by SMTP", nil)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.LinkTimeout)
	defer cancel()
	p := pair{local, domain}
	l := d.cfg.Streams.Live(local, domain)
	if l == nil {
		targets, f := d.targets(ctx, domain)
		if f != nil {
			return nil, transfer.Capabilities{}, f
		}
		var err error
		if l, err = d.cfg.Streams.Link(ctx, local, domain, targets); err != nil {
			return nil, transfer.Capabilities{}, noStream(domain, err)
		}
	}
	caps, has, err := d.features(ctx, p, l)
	switch {
	case err != nil:
		return nil, transfer.Capabilities{}, noAnswer(domain, err)
	case !has:
		f := mail.Fail(mail.Unavailable, "domain has no mail transport", nil)
		f.Remote = domain
		return nil, transfer.Capabilities{}, f
	}
	return l, caps, nil
}

// Forget drops what a domain announced on its link, so that it is asked anew.
func (d *Directory) Forget(local, domain string) {
	d.links.mu.Lock()
	defer d.links.mu.Unlock()
	delete(d.links.known, pair{local, domain})
}

// features asks a domain once per link what it takes (xep-draft section 4.2)
// and remembers the answer: it comes from a proven stream. An error says that
// the domain did not answer, which proves nothing.
func (d *Directory) features(ctx context.Context, p pair, l transfer.Link) (transfer.Capabilities, bool, error) {
	if fact, ok := d.links.get(p, l); ok {
		return fact.caps, fact.has, fact.err
	}
	asking, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	el, err := l.Request(asking, "get", []byte("<query xmlns='http://jabber.org/protocol/disco#info'/>"))
	if err != nil && !definite(err) {
		if ctx.Err() == nil { // it was not we who gave up early
			d.links.put(p, linkFact{link: l, err: err, until: time.Now().Add(muteFor)})
		}
		return transfer.Capabilities{}, false, err
	}
	caps, has := transfer.FromDisco(el)
	d.links.put(p, linkFact{link: l, caps: caps, has: has})
	// The answer is good even where it cannot be written down.
	if err := d.memory.note(ctx, p.remote, has); err != nil {
		d.cfg.Log.Warn("peer not remembered", "peer", p.remote, "err", err)
	}
	d.cfg.Log.Info("peer discovered", "peer", p.remote, "local", p.local, "feature", has)
	return caps, has, nil
}

// definite reports whether a refusal of disco#info says for certain that the
// domain has no features to show.
func definite(err error) bool {
	se, ok := errors.AsType[*stream.StanzaError](err)
	return ok && se.Type == "cancel" && (se.Condition == "service-unavailable" || se.Condition == "feature-not-implemented")
}

// noStream is the temporary failure where no stream could be had.
func noStream(domain string, err error) *mail.Failure {
	text := "no stream to the peer domain"
	if n, ok := errors.AsType[*stream.NegotiationError](err); ok {
		text += " (" + n.Stage + ")"
	}
	f := mail.Fail(mail.Unreachable, text, err)
	f.Remote = domain
	return f
}

func noAnswer(domain string, err error) *mail.Failure {
	f := mail.Fail(mail.Unreachable, "peer domain does not say what it takes", err)
	f.Remote = domain
	return f
}

// Over makes a stream manager fit for Config.Streams.
func Over(m *stream.Manager) Streams { return managed{m} }

type managed struct{ m *stream.Manager }

func (s managed) Live(local, remote string) transfer.Link {
	if l := s.m.Live(local, remote); l != nil {
		return l
	}
	return nil // not a Link that holds nil
}

func (s managed) Link(ctx context.Context, local, remote string, targets []stream.Target) (transfer.Link, error) {
	l, err := s.m.Link(ctx, local, remote, targets)
	if err != nil {
		return nil, err
	}
	return l, nil
}

package peers

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
)

const (
	// maxLinkFacts is how many entries may gather before those of dead links
	// go.
	maxLinkFacts = 1024
	// muteFor is how long a domain that does not answer is not asked again on
	// the same link, so that not every message waits for it.
	muteFor = 30 * time.Second
	// muteBriefly is the same for one whose asking failed at once, such as over
	// a component whose server could not reach it just then.
	muteBriefly = 2 * time.Second
	// askAgain is when a link without the feature is asked again.
	askAgain = time.Hour
)

const infoQuery = "<query xmlns='http://jabber.org/protocol/disco#info'/>"

// announced is what a domain said on one link: with the feature it holds as
// long as the link does.
type announced struct {
	pair    pair
	caps    transfer.Capabilities
	has     bool      // the feature; whose mail is taken, takes tells
	err     error     // it did not answer
	until   time.Time // of what is not a feature
	counted bool      // the absence has been held against the domain
}

// takes reports whether whoever is asked on the link takes the mail of a domain.
func (a announced) takes(domain string) bool { return a.has && a.caps.TakesFor(a.pair.remote, domain) }

// linkFacts is what was announced on the links that are live.
type linkFacts struct {
	mu    sync.Mutex
	known map[Link]announced
	bidi  map[pair]time.Time // until when a server without bidi is not probed again
}

func (f *linkFacts) get(l Link) (announced, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.known[l]
	return a, ok && (a.has || time.Now().Before(a.until))
}

func (f *linkFacts) put(l Link, a announced) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.known) >= maxLinkFacts {
		for l := range f.known {
			if dead(l) {
				delete(f.known, l)
			}
		}
	}
	f.known[l] = a
}

// withFeature finds a link of the pair that takes a domain's mail, where the one
// to be used first does not: a domain's chat server has its streams beside the
// mail service's.
func (f *linkFacts) withFeature(p pair, domain string) (Link, announced) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l, a := range f.known {
		if a.pair == p && a.takes(domain) && !dead(l) {
			return l, a
		}
	}
	return nil, announced{}
}

// count reports, once for each answer, that it may be held against the domain.
func (f *linkFacts) count(l Link) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.known[l]
	if !ok || a.counted {
		return false
	}
	a.counted = true
	f.known[l] = a
	return true
}

// mayProbe reports whether a server without bidi may be asked now, and takes
// the turn.
func (f *linkFacts) mayProbe(p pair) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Before(f.bidi[p]) {
		return false
	}
	for p, until := range f.bidi {
		if now.After(until) {
			delete(f.bidi, p)
		}
	}
	if len(f.bidi) >= maxLinkFacts {
		return false
	}
	f.bidi[p] = now.Add(failedFor)
	return true
}

func (f *linkFacts) forget(p pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l, a := range f.known {
		if a.pair == p {
			delete(f.known, l)
		}
	}
}

func dead(l Link) bool {
	select {
	case <-l.Done():
		return true
	default:
		return false
	}
}

// Forget drops what a domain announced on its links, so that it is asked anew.
func (d *Directory) Forget(local, domain string) {
	local = d.nameOf(local)
	d.links.forget(pair{local, domain})
	if l, _ := d.listings.get(domain); l.via != "" {
		d.links.forget(pair{local, l.via})
	}
}

// features asks a domain once per link what it takes (xep-draft section 4.2)
// and remembers a feature shown: it comes from a proven stream, whoever opened
// it. What absence counts for is another matter: see deny.
func (d *Directory) features(ctx context.Context, p pair, l Link, at service) announced {
	if a, ok := d.links.get(l); ok {
		return a
	}
	asking, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	el, err := l.Request(asking, "get", []byte(infoQuery))
	a := announced{pair: p}
	if err != nil && !definite(err) {
		mute := muteFor
		if asking.Err() == nil {
			mute = muteBriefly
		}
		a.err, a.until = err, time.Now().Add(mute)
		if ctx.Err() == nil { // it was not we who gave up early
			d.links.put(l, a)
		}
		return a
	}
	a.caps, a.has = transfer.FromDisco(el)
	a.until = time.Now().Add(askAgain)
	d.links.put(l, a)
	d.cfg.Log.Info("peer discovered", "peer", p.remote, "local", p.local, "feature", a.has, "policy", a.caps.Policy)
	if a.takes(p.remote) {
		d.note(p.remote, func(k *known, now time.Time) { k.sight(now, a.caps, at) })
	}
	return a
}

// note writes down what was learned, also when whoever asked has gone.
func (d *Directory) note(domain string, apply func(*known, time.Time)) {
	ctx, cancel := context.WithTimeout(d.ctx, d.cfg.Timeout)
	defer cancel()
	if err := d.memory.change(ctx, domain, apply); err != nil {
		d.cfg.Log.Warn("peer not remembered", "peer", domain, "err", err)
	}
}

// definite reports whether a refusal of disco#info says for certain that the
// domain has no features to show.
func definite(err error) bool {
	se, ok := errors.AsType[*stream.StanzaError](err)
	return ok && se.Type == "cancel" && (se.Condition == "service-unavailable" || se.Condition == "feature-not-implemented")
}

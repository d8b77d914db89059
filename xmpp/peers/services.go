package peers

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/wire"
)

// A domain's mail service may have another name, such as that of a component of
// its chat server (xep-draft sections 4.5 and 6.3). Chat servers list whatever
// runs beside them, so the domain's list alone says nothing: the service has to
// name the domain too.

const (
	// maxItems bounds the items of a domain that are asked what they take.
	maxItems = 8
	// relistAfter is when a domain is asked again whether it lists a service
	// that it did not list, or could not be asked about.
	relistAfter = time.Minute
	// maxListings bounds the domains whose items are held here.
	maxListings = 4096
	// listingsAtOnce bounds the domains that are asked because a service claims
	// them: each may cost a stream.
	listingsAtOnce = 16
)

// listing is what a domain said of its items on a stream that we opened to it.
type listing struct {
	items []string  // domains, A-labels
	by    service   // which service of the domain said so
	at    time.Time // and when
	via   string    // the item through which its mail goes; "" where none was found
	noted Link      // on which via was last seen to take the domain's mail
	asked time.Time // when it was last asked because a service claims it
	err   error     // why it could not be
}

// listings is what domains list, for as long as a negative answer is kept
// (section 6.3). It is not stored: after a start the domains are asked anew.
type listings struct {
	validFor time.Duration
	turns    chan struct{}

	mu    sync.Mutex
	known map[string]listing
}

func (s *listings) get(domain string) (listing, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.known[domain]
	return l, time.Since(l.at) < s.validFor
}

// put replaces what is known of a domain; when there is too much, any other
// goes.
func (s *listings) put(domain string, l listing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.known[domain]; !ok && len(s.known) >= maxListings {
		for other := range s.known {
			delete(s.known, other)
			break
		}
	}
	s.known[domain] = l
}

func (s *listings) forget(domain string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, domain)
}

// through are the domains whose mail goes through a service.
func (s *listings) through(service string) (domains []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for domain, l := range s.known {
		if l.via == service && time.Since(l.at) < s.validFor {
			domains = append(domains, domain)
		}
	}
	return domains
}

// Through returns the domains whose mail goes through a service of another
// name, as far as this process has found out: what waits for them waits for its
// streams.
func (d *Directory) Through(service string) []string { return d.listings.through(service) }

// takesNow reports whether a live stream leads to who takes a domain's mail.
func (d *Directory) takesNow(ctx context.Context, p pair) bool {
	names := []string{p.remote}
	if l, ok := d.listings.get(p.remote); ok && l.via != "" {
		names = append(names, l.via)
	}
	return slices.ContainsFunc(names, func(name string) bool {
		l := d.cfg.Streams.Live(p.local, name)
		return l != nil && d.features(ctx, pair{p.local, name}, l, atUnknown).takes(p.remote)
	})
}

// Live reports whether a stream is up now over which a domain's mail goes, or
// may go: who is at its end has not said otherwise, as a chat server does whose
// domain has its mail elsewhere.
func (d *Directory) Live(local, domain string) bool {
	local = d.nameOf(local)
	names := []string{domain}
	if l, ok := d.listings.get(domain); ok && l.via != "" {
		names = append(names, l.via)
	}
	return slices.ContainsFunc(names, func(name string) bool {
		l := d.cfg.Streams.Live(local, name)
		if l == nil {
			return false
		}
		if a, asked := d.links.get(l); !asked || a.err != nil || a.takes(domain) {
			return true
		}
		other, _ := d.links.withFeature(pair{local, name}, domain)
		return other != nil
	})
}

// nameOf is the name under which a domain of ours sends and takes its mail.
func (d *Directory) nameOf(local string) string {
	if service := d.cfg.Services[local]; service != "" {
		return service
	}
	return local
}

// knownService is the way through a service that was found not long ago. ok is
// false where there is none, or it does not lead there any more; what then is to
// be thought of the domain, it has to say itself.
func (d *Directory) knownService(ctx context.Context, p pair) (Link, announced, bool) {
	l, ok := d.listings.get(p.remote)
	if !ok || l.via == "" {
		return nil, announced{}, false
	}
	link, a, f := d.serving(ctx, p, l.via)
	if f == nil && link == nil {
		d.listings.forget(p.remote) // the service says that it takes the domain's mail no more
	}
	return link, a, f == nil && link != nil
}

// serving returns the link to a service, if that says on it that it takes the
// domain's mail; nil without a failure means that it says it does not, where
// its word counts.
func (d *Directory) serving(ctx context.Context, p pair, service string) (Link, announced, *mail.Failure) {
	link, a, r, f := d.connect(ctx, pair{p.local, service}, p.remote)
	switch {
	case f != nil:
		return nil, announced{}, f
	case a.takes(p.remote):
		d.noteService(p.remote, service, link, a)
		return link, a, nil
	case a.err != nil || !r.ours(link):
		return nil, announced{}, featureless(service, a)
	}
	return nil, announced{}, nil
}

// noteService notes, once a link, that a domain's mail goes through a service:
// both have said so.
func (d *Directory) noteService(domain, service string, link Link, a announced) {
	l, ok := d.listings.get(domain)
	if !ok || l.via == service && l.noted == link || !slices.Contains(l.items, service) {
		return
	}
	l.via, l.noted = service, link
	d.listings.put(domain, l)
	d.note(domain, func(k *known, now time.Time) { k.sightThrough(now, a.caps, l.by, service) })
}

// question asks a domain by whatever stream leads to it.
type question func(ctx context.Context, payload []byte) (*wire.Element, error)

const itemsQuery = "<query xmlns='http://jabber.org/protocol/disco#items'/>"

// findService looks for a service of the domain among its items. No link and no
// failure mean that there is none: then, and only then, what the domain has
// said of itself is all (xep-draft section 4.5). A service that cannot be asked
// is passed over, unless the domain's mail was last seen to go through it.
func (d *Directory) findService(ctx context.Context, p pair, by service, ask question) (Link, announced, *mail.Failure) {
	items, err := d.items(ctx, p.remote, by, ask)
	if err != nil {
		return nil, announced{}, unreachable(p.remote, "peer domain does not say what services it has", err)
	}
	k, basis, _, err := d.memory.recall(ctx, p.remote)
	if err != nil {
		return nil, announced{}, mail.Fail(mail.Internal, "", err)
	}
	wait := d.cfg.Timeout / 2
	if basis == Pinned || basis == Seen {
		wait = d.cfg.Timeout
	}
	asking, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	answers := make([]served, len(items))
	var wg sync.WaitGroup
	for i, service := range items {
		wg.Go(func() {
			answers[i].link, answers[i].announced, answers[i].failure = d.serving(asking, p, service)
		})
	}
	wg.Wait()
	for i, s := range answers {
		if s.link != nil {
			d.noteService(p.remote, items[i], s.link, s.announced)
			return s.link, s.announced, nil
		}
	}
	if i := slices.Index(items, k.via); i >= 0 && answers[i].failure != nil {
		return nil, announced{}, unreachable(p.remote, "mail service of the peer domain cannot be asked", answers[i].failure)
	}
	return nil, announced{}, nil
}

type served struct {
	link      Link
	announced announced
	failure   *mail.Failure
}

// items asks a domain for its items and remembers those that could be mail
// services.
func (d *Directory) items(ctx context.Context, domain string, by service, ask question) ([]string, error) {
	asking, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	el, err := ask(asking, []byte(itemsQuery))
	switch {
	case err != nil && !definite(err):
		return nil, err
	case err == nil && !el.Is("http://jabber.org/protocol/disco#items", "query"):
		return nil, errNoItems
	}
	was, _ := d.listings.get(domain)
	l := listing{items: domainsOf(el, domain), by: by, at: time.Now(), asked: time.Now()}
	if slices.Contains(l.items, was.via) {
		l.via, l.noted = was.via, was.noted
	}
	d.listings.put(domain, l)
	return l.items, nil
}

// domainsOf are the items that are domains and not the one that lists them, at
// most maxItems. A local part, a resource or a node names something else.
func domainsOf(query *wire.Element, domain string) (out []string) {
	if query == nil {
		return nil
	}
	for _, c := range query.Children {
		name := c.Attr("jid")
		if c.Name.Local != "item" || c.HasAttr("node") || strings.ContainsAny(name, "@/[") {
			continue
		}
		item, err := mail.ParseDomain(strings.TrimSuffix(name, "."))
		if err == nil && item != domain && !slices.Contains(out, item) && len(out) < maxItems {
			out = append(out, item)
		}
	}
	return out
}

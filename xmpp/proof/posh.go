package proof

import (
	"context"
	"errors"
	"sync"
	"time"

	"mailxmppd/xmpp/stream"
)

const (
	// maxKept caps what a document says of its own life (RFC 7711 section 6),
	// so that a domain that has lost its key is not bound to it for long.
	maxKept = 24 * time.Hour
	// failureKept is how long a site that gave no document is left alone:
	// anyone may connect in a domain's name, and must not make us hammer it.
	failureKept = 2 * time.Minute
	// askAgain is the age at which a document that does not match is fetched
	// anew: its domain may have a new certificate by now.
	askAgain = 5 * time.Minute
)

var errExpiredCert = errors.New("certificate has expired or is not valid yet")

// fetched is a document, or why there is none.
type fetched struct {
	where string // its URL
	doc   document
	err   error
	at    time.Time
	until time.Time
}

// byPOSH tells the URL of the document that proves the certificate, or "" and
// adds why there is none.
func (p *Prover) byPOSH(ctx context.Context, e stream.Evidence, no *Unproven) string {
	leaf, now := e.State.PeerCertificates[0], p.now()
	// The document says which certificate, not that its dates do not matter.
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		no.because(proofPOSH, "", errExpiredCert)
		return ""
	}
	f, kept := p.kept.get(e.Remote, now)
	if kept && f.err == nil && f.doc.match(leaf) != nil && now.Sub(f.at) >= askAgain {
		kept = false
	}
	if !kept {
		var err error
		f, err = p.sites.do(ctx, e.Remote, func(ctx context.Context) fetched {
			f := p.fetch(ctx, e.Remote)
			p.kept.put(e.Remote, f, f.at)
			return f
		})
		if err != nil {
			no.because(proofPOSH, "", err)
			return ""
		}
	}
	err := f.err
	if err == nil {
		err = f.doc.match(leaf)
	}
	if err != nil {
		no.because(proofPOSH, f.where, err)
		return ""
	}
	return f.where
}

// keptDocuments remembers what sites said, of a bounded number of domains.
type keptDocuments struct {
	mu  sync.Mutex
	max int
	of  map[string]fetched
}

func newKeptDocuments(max int) *keptDocuments {
	return &keptDocuments{max: max, of: map[string]fetched{}}
}

func (k *keptDocuments) get(domain string, now time.Time) (fetched, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f, ok := k.of[domain]
	if ok && !now.Before(f.until) {
		delete(k.of, domain)
		return fetched{}, false
	}
	return f, ok
}

func (k *keptDocuments) put(domain string, f fetched, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.of[domain]; !there && len(k.of) >= k.max {
		k.makeRoom(now)
	}
	k.of[domain] = f
}

// makeRoom looks at a few entries in the map's own random order and drops the
// one that would go first: a flood of names costs no more than itself.
func (k *keptDocuments) makeRoom(now time.Time) {
	var first string
	looked := 0
	for domain, f := range k.of {
		if looked == 0 || f.until.Before(k.of[first].until) {
			first = domain
		}
		if looked++; looked == 16 || f.until.Before(now) {
			break
		}
	}
	delete(k.of, first)
}

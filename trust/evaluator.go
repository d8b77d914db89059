// Package trust finds the evidence for who has really sent a message: what the
// stream, the client's address, signatures and the domains' own records say.
// What follows from it for a recipient is decided elsewhere.
//
// Invariants: evaluating a message costs bounded time, one budget for all its
// DNS, and bounded memory whatever its size; its content is read once; nothing
// of it is believed that is not proven, and nothing is decided by a single
// method.
//
// Failure semantics: Evaluate does not fail. What cannot be told now is a
// temperror of the method that needs it, so that a resolver that is down never
// delays or loses mail by itself.
package trust

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"mailxmppd/dns"
	"mailxmppd/trust/arc"
	"mailxmppd/trust/author"
	"mailxmppd/trust/authres"
	"mailxmppd/trust/dkim"
	"mailxmppd/trust/dmarc"
	"mailxmppd/trust/header"
	"mailxmppd/trust/spf"
)

// Resolver asks DNS; *dns.Resolver does. Safe for concurrent use; lookups end
// with their context.
type Resolver interface {
	TXT(ctx context.Context, name string) dns.Answer[string]
	MX(ctx context.Context, domain string) dns.Answer[dns.MX]
	Family(ctx context.Context, host string, v6 bool) dns.Answer[netip.Addr]
	PTR(ctx context.Context, addr netip.Addr) dns.Answer[string]
}

// Peers knows what peer domains have announced. Safe for concurrent use.
type Peers interface {
	// SendsOnlyXMPP reports whether a domain is pinned with the promise that
	// all its mail comes over XMPP. An error means that it cannot be told now.
	SendsOnlyXMPP(ctx context.Context, domain string) (bool, error)
}

// Secondary is another host that takes mail for us and judges it.
type Secondary struct {
	Networks   []netip.Prefix
	AuthservID string // that its Authentication-Results carry
	// Recipients are the domains and addresses whose mail it takes; all, if none.
	// To others its mail is judged as a stranger's.
	Recipients []string
}

// Config is what an Evaluator needs. Zero limits stand for the defaults.
type Config struct {
	DNS           Resolver
	Hostname      string   // our authserv-id
	Peers         Peers    // nil: nobody has announced anything
	Sealers       []string // domains whose ARC seals are trusted
	Forwarders    []string // domains trusted to hand on other domains' mail
	Secondaries   []Secondary
	Budget        time.Duration // for all DNS of a message; 10 seconds
	MaxSignatures int           // DKIM signatures that are looked at; 10
	Log           *slog.Logger
}

// The defaults of Config.
const (
	defaultBudget     = 10 * time.Second
	defaultSignatures = 10
)

// Evaluator evaluates messages. Safe for concurrent use.
type Evaluator struct {
	conf Config
	now  func() time.Time
}

// New makes an Evaluator.
func New(conf Config) *Evaluator {
	if conf.Budget <= 0 {
		conf.Budget = defaultBudget
	}
	if conf.MaxSignatures <= 0 {
		conf.MaxSignatures = defaultSignatures
	}
	if conf.Log == nil {
		conf.Log = slog.New(slog.DiscardHandler)
	}
	return &Evaluator{conf: conf, now: time.Now}
}

// Evaluate finds the evidence for a message. It returns when all of it is
// there, or DNS time is up; everything that it started has ended then.
func (e *Evaluator) Evaluate(ctx context.Context, in Input) Evidence {
	ev := Evidence{Message: in}
	if in.Arrival == Unjudged {
		return ev
	}
	ev.Judged = true
	ctx, cancel := context.WithTimeout(ctx, e.conf.Budget)
	defer cancel()

	client := in.Client.Unmap().WithZone("")
	secondary := e.secondary(in, client)
	var wg sync.WaitGroup
	switch in.Arrival {
	case ByXMPP:
		ev.Binding = Binding{authres.Pass, in.Binding.Remote, in.Binding.Proof}
	case BySubmission:
		ev.Auth = Auth{authres.Pass, in.User}
	case BySMTP:
		if secondary != nil && len(secondary.Recipients) == 0 {
			break // its address says nothing about where the mail comes from
		}
		wg.Go(func() { ev.IPRev = e.iprev(ctx, client, in.ClientName) })
		wg.Go(func() { ev.MailFrom = spf.MailFrom(ctx, e.conf.DNS, client, in.Helo, in.Sender) })
		wg.Go(func() { ev.Helo = spf.Helo(ctx, e.conf.DNS, client, in.Helo) })
	}
	m := e.readMessage(ctx, in)
	if m.err != nil && !errors.Is(m.err, header.ErrTooLarge) {
		e.conf.Log.Warn("content not read for its evidence", "from", in.Sender.String(), "err", m.err)
	}
	wg.Wait()

	ev.Header, ev.From, ev.DKIM, ev.Omitted, ev.ARC = m.err, m.from, m.sigs, m.omitted, m.chain
	for i, found := range m.policies {
		if w := m.walks[i]; w != nil {
			found = w.Conclude(ctx, found, identifiers(&ev))
		}
		ev.DMARC = append(ev.DMARC, found)
	}
	ev.Relation = relate(in, ev.From)
	ev.Carrier = e.carrier(&ev, secondary, m.header)
	if in.Arrival == BySMTP {
		ev.Sends = e.sends(ctx, in.Sender, &ev)
	}
	return ev
}

// identifiers lists what has been proven for DMARC to look at. Mail over XMPP
// has no client address, and SPF nothing to say; that the stream is the
// domain's own is the stronger proof of the same.
func identifiers(ev *Evidence) []dmarc.Identifier {
	var ids []dmarc.Identifier
	for _, s := range ev.DKIM {
		if s.Testing {
			continue // RFC 6376 section 3.6.1: as if it were unsigned
		}
		ids = append(ids, dmarc.Identifier{By: "dkim", Domain: s.Domain, Result: s.Result})
	}
	if ev.MailFrom.Result != "" {
		ids = append(ids, dmarc.Identifier{By: "spf", Domain: ev.MailFrom.Domain, Result: ev.MailFrom.Result})
	}
	if ev.Binding.Result != "" {
		ids = append(ids, dmarc.Identifier{By: "xmpp", Domain: ev.Binding.Domain, Result: ev.Binding.Result})
	}
	return ids
}

// message is what was found in the content.
type message struct {
	err      error
	header   header.Header
	from     author.From
	sigs     []*dkim.Signature
	omitted  int
	chain    arc.Chain
	walks    []*dmarc.Evaluator // nil for a domain whose policy nobody has to know
	policies []dmarc.Evaluation
}

// maxAuthorDomains bounds the author domains whose policies are looked up: those
// of the first ones. Of mail that names more it cannot be told who the author is.
const maxAuthorDomains = 4

// readMessage reads the content once: the header, with which lookups start,
// and then the body, which is hashed while they are under way.
func (e *Evaluator) readMessage(ctx context.Context, in Input) message {
	var m message
	rc, err := in.Content.Open()
	if err != nil {
		m.err = fmt.Errorf("content: %w", err)
		return m
	}
	defer rc.Close()
	r := bufio.NewReader(io.MultiReader(bytes.NewReader(in.Trace), rc))
	if m.header, m.err = header.Read(r); m.err != nil {
		return m
	}
	now := e.now()
	m.from = author.Read(m.header, in.Known)
	m.sigs, m.omitted = dkim.Collect(m.header, e.conf.MaxSignatures, now)
	m.chain = arc.Collect(m.header, now)

	var wg sync.WaitGroup
	defer wg.Wait()
	domains := m.from.Domains()
	if len(domains) > maxAuthorDomains {
		m.from.Problems = append(m.from.Problems, author.ManyDomains)
		domains = domains[:maxAuthorDomains]
	}
	m.policies = make([]dmarc.Evaluation, len(domains))
	for i, d := range domains {
		if in.Arrival == ByXMPP && d == in.Binding.Remote && len(m.sigs) == 0 {
			// The stream has proven the author's domain itself: whatever its
			// policy, this is its mail, and DNS need not be asked.
			m.walks, m.policies[i] = append(m.walks, nil), dmarc.Evaluation{Domain: d, Org: d, Aligned: []string{"xmpp"}}
			continue
		}
		w := dmarc.New(e.conf.DNS)
		m.walks = append(m.walks, w)
		wg.Go(func() { m.policies[i] = w.Discover(ctx, d) })
	}
	keys := dkim.NewKeys(e.conf.DNS)
	defer keys.Wait()
	dkim.FetchKeys(ctx, keys, m.sigs)
	m.chain.FetchKeys(ctx, keys)

	forms := append(dkim.BodyForms(m.sigs), m.chain.BodyForms()...)
	if len(forms) == 0 {
		return m // nobody has signed the body, nor a header that goes with it
	}
	body := dkim.NewBody(forms...)
	if _, err := io.Copy(body, r); err != nil {
		// Half a body must not look like one that was changed.
		m.err = fmt.Errorf("content: %w", err)
		m.sigs, m.chain = nil, arc.Chain{}
		return m
	}
	dkim.Verify(m.header, m.sigs, keys, body)
	m.chain.Verify(m.header, keys, body, e.conf.Sealers)
	return m
}

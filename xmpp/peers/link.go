package peers

import (
	"context"
	"errors"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/transfer"
	"mailxmppd/xmpp/wire"
)

// Link returns a live link to a domain that has the feature, dialling if need
// be, and what the domain announced on it.
func (d *Directory) Link(ctx context.Context, local, domain string) (transfer.Link, transfer.Capabilities, error) {
	if d.configured[domain].Policy == Never {
		return nil, transfer.Capabilities{}, mail.Fail(mail.Unavailable, "peer is configured to get its mail by SMTP", nil)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.LinkTimeout)
	defer cancel()
	l, a, f := d.link(ctx, pair{d.nameOf(local), domain})
	if f != nil {
		if f.Kind == mail.Unreachable {
			d.askWithdrawal(domain)
		}
		return nil, transfer.Capabilities{}, f
	}
	return l, a.caps, nil
}

// Bulk returns a link for requests that carry much, such as chunks, so that
// small ones do not wait behind them: a second link to the domain, dialled if
// need be, or the one that Link returns where there is no other with the
// feature.
func (d *Directory) Bulk(ctx context.Context, local, domain string) (transfer.Link, error) {
	only, _, err := d.Link(ctx, local, domain)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.LinkTimeout)
	defer cancel()
	p := pair{d.nameOf(local), domain}
	if service := only.Binding().Remote; service != "" {
		p.remote = service
	}
	r, f := d.reach(ctx, p.remote)
	if f != nil {
		r.targets = nil // what the peer has opened may still be two
	}
	second, err := d.cfg.Streams.Bulk(ctx, p.local, p.remote, r.targets)
	if err != nil {
		return only, nil
	}
	if a := d.features(ctx, p, second, r.of(second)); !a.takes(domain) {
		return only, nil // its chat server's, perhaps
	}
	return second, nil
}

// link finds the way to a domain: through a service that was found before, to
// the domain itself, or through a service that it lists.
func (d *Directory) link(ctx context.Context, p pair) (Link, announced, *mail.Failure) {
	if l, a, ok := d.knownService(ctx, p); ok {
		return l, a, nil
	}
	l, a, r, f := d.connect(ctx, p, p.remote)
	switch {
	case f != nil && stageOf(f.Cause) == stream.StageBidi:
		return d.oneWay(ctx, p, r, f)
	case f != nil:
		return nil, announced{}, f
	case a.takes(p.remote):
		d.locateFeature(p.remote, r.of(l))
		return l, a, nil
	case a.err != nil || !r.ours(l):
		return nil, announced{}, featureless(p.remote, a)
	}
	service, sa, f := d.findService(ctx, p, r.of(l), func(ctx context.Context, payload []byte) (*wire.Element, error) {
		return l.Request(ctx, "get", payload)
	})
	switch {
	case service != nil || f != nil:
		return service, sa, f
	case !r.holds(l):
		return nil, announced{}, featureless(p.remote, a)
	}
	return nil, announced{}, d.deny(ctx, p.remote, r, func() bool { return d.links.count(l) })
}

// connect returns a link of the pair and what was announced on it: one that
// takes the mail of domain, or else one whose answer was asked for just where
// DNS leads, if the streams let us have one.
func (d *Directory) connect(ctx context.Context, p pair, domain string) (Link, announced, reach, *mail.Failure) {
	live := d.cfg.Streams.Live(p.local, p.remote)
	var said *mail.Failure // by the live link
	if live != nil {
		a := d.features(ctx, p, live, atUnknown)
		if a.takes(domain) {
			return live, a, reach{}, nil
		}
		if other, a := d.links.withFeature(p, domain); other != nil {
			return other, a, reach{}, nil
		}
		said = featureless(p.remote, a)
	}
	r, f := d.reach(ctx, p.remote)
	if f != nil {
		if said != nil {
			f = said
		}
		return nil, announced{}, r, f
	}
	l, err := live, error(nil)
	switch {
	case live == nil:
		l, err = d.cfg.Streams.Link(ctx, p.local, p.remote, r.targets)
	case !r.holds(live): // it is the peer's doing, and says nothing of the service that DNS names
		l, err = d.cfg.Streams.Bulk(ctx, p.local, p.remote, r.targets)
	}
	if err != nil {
		return nil, announced{}, r, noStream(p.remote, err)
	}
	return l, d.features(ctx, p, l, r.of(l)), r, nil
}

// of says at which service a link was made.
func (r reach) of(l Link) service {
	if r.holds(l) {
		return r.service
	}
	return atUnknown
}

// locateFeature notes where the feature is found, if that was not known when
// it was seen.
func (d *Directory) locateFeature(domain string, at service) {
	if at == atUnknown {
		return
	}
	if k, _, _, err := d.memory.recall(d.ctx, domain); err == nil && k.service != at && !k.sighted.IsZero() {
		d.note(domain, func(k *known, _ time.Time) { k.service = at })
	}
}

const saysNo = "peer domain says that it takes no mail over XMPP"

const otherService = "chat server of the peer domain takes no mail, and its mail service was another"

// deny holds it against a domain that the service which was dialled has said,
// authenticated, to have no feature; fresh tells whether the answer is a new
// one. While nobody can tell whether there are _xmpps-mail records, a chat
// server's answer counts for this attempt alone: the records may lead to a
// service that takes mail.
func (d *Directory) deny(ctx context.Context, domain string, r reach, fresh func() bool) *mail.Failure {
	k, basis, _, err := d.memory.recall(ctx, domain)
	switch held := basis == Pinned || basis == Seen; {
	case err != nil:
		return mail.Fail(mail.Internal, "", err)
	case held && !r.speaksFor(k):
		return unreachable(domain, otherService, nil)
	case r.service == atServer && r.mailDark:
		return unreachable(domain, "chat server of the peer domain takes no mail, and its _xmpps-mail records cannot be looked up", nil)
	}

	if fresh() {
		d.note(domain, func(k *known, now time.Time) {
			if !k.held(now) || r.speaksFor(*k) { // another node may have learned more since
				k.deny(now, saysNo, r.service)
			}
		})
	}
	text := saysNo
	switch k, basis, _, err := d.memory.recall(ctx, domain); {
	case err != nil:
	case (basis == Pinned || basis == Seen) && !r.speaksFor(k):
		return unreachable(domain, otherService, nil)
	case basis == Pinned:
		text += "; it is pinned until it says so again a day later"
	}
	f := mail.Fail(mail.Unavailable, text, nil)
	f.Remote = domain
	return f
}

// speaksFor reports whether the service that was dialled can deny a feature
// that was seen. The chat server of a domain whose feature was seen elsewhere
// cannot speak for its mail service: whoever hides the _xmpps-mail records
// would else make it do so (xep-draft section 4.3). It can where DNSSEC proves
// that there are none.
func (r reach) speaksFor(k known) bool {
	return r.service != atServer || k.service == atServer || r.mailGone
}

// oneWay deals with a domain whose server has proven itself and has no
// bidirectional streams: no mail goes there, but it can say that it takes none,
// or which service does. It is asked only where mail is held for it otherwise.
func (d *Directory) oneWay(ctx context.Context, p pair, r reach, f *mail.Failure) (Link, announced, *mail.Failure) {
	f = unreachable(p.remote, "server of the peer domain has no bidirectional streams (XEP-0288)", f.Cause)
	if _, basis, _, err := d.memory.recall(ctx, p.remote); err != nil || basis != Pinned && basis != Seen || !d.links.mayProbe(p) {
		return nil, announced{}, f
	}
	ask := func(ctx context.Context, payload []byte) (*wire.Element, error) {
		return d.cfg.Streams.Probe(ctx, p.local, p.remote, r.targets, payload)
	}
	asking, cancel := context.WithTimeout(ctx, d.cfg.Timeout)
	defer cancel()
	el, err := ask(asking, []byte(infoQuery))
	if err != nil && !definite(err) {
		return nil, announced{}, f
	}
	if _, has := transfer.FromDisco(el); has {
		return nil, announced{}, f
	}
	if l, a, f := d.findService(ctx, p, r.service, ask); l != nil || f != nil {
		return l, a, f
	}
	return nil, announced{}, d.deny(ctx, p.remote, r, func() bool { return true })
}

// featureless is the failure where a link cannot carry mail: the domain does
// not answer, or what it says counts for nothing more than this link.
func featureless(domain string, a announced) *mail.Failure {
	if a.err != nil {
		return unreachable(domain, "peer domain does not say what it takes", a.err)
	}
	return unreachable(domain, "stream that the peer domain has opened takes no mail", nil)
}

// noStream is the temporary failure where no stream could be had.
func noStream(domain string, err error) *mail.Failure {
	text := "no stream to the peer domain"
	if stage := stageOf(err); stage != "" {
		text += " (" + stage + ")"
	}
	return unreachable(domain, text, err)
}

func unreachable(domain, text string, cause error) *mail.Failure {
	f := mail.Fail(mail.Unreachable, text, cause)
	f.Remote = domain
	return f
}

// stageOf tells where a negotiation failed; during a back-off, where the last
// one did.
func stageOf(err error) string {
	stage := ""
	for err != nil {
		n, ok := errors.AsType[*stream.NegotiationError](err)
		if !ok {
			break
		}
		stage, err = n.Stage, n.Err
		if stage != stream.StageBackOff {
			break
		}
	}
	return stage
}

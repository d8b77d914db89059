package transfer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// Link is a live stream between one of our domains and a peer domain, both
// proven; *stream.Link is one. Request writes one IQ of a type ("get", "set")
// with an encoded payload, which it keeps no longer than it runs, and returns
// the payload of the result. Its errors are those of package stream.
type Link interface {
	Binding() mail.Binding
	Request(ctx context.Context, typ string, payload []byte) (*wire.Element, error)
	MaxStanza() int // octets of a whole stanza that the peer reads
	Done() <-chan struct{}
}

// Links finds the stream for a pair of domains, the live one or a new one, and
// what the peer announced on it. It bounds its own waits.
type Links interface {
	Link(ctx context.Context, local, remote string) (Link, Capabilities, error)
	// Forget drops what a domain announced: it has just refused what it said
	// to take (xep-draft section 8).
	Forget(local, remote string)
}

// BulkLinks is a Links that can have a further stream for a pair of domains, so
// that small mail does not wait behind large mail (xep-draft section 9.5). The
// link may be the only one there is; an error means that the one that Link
// gave is to be used.
type BulkLinks interface {
	Bulk(ctx context.Context, local, remote string) (Link, error)
}

// SenderConfig configures a Sender. Zero values stand for the defaults.
type SenderConfig struct {
	Links          Links         // chunks go over its Bulk link if it is a BulkLinks
	MaxInline      int           // octets of content sent inside an offer, where the peer takes as much; 64 KiB, negative for none
	Chunk          int           // octets of content in a chunk, where the peer takes as much; 128 KiB
	Window         int           // chunks of a transfer in flight, where the peer takes as many; 4
	RequestTimeout time.Duration // for each answer; 2 min
	Keys           Keys          // nil: our authors have no grants
	Log            *slog.Logger
}

// Sender hands messages to peers. Safe for concurrent use.
type Sender struct {
	cfg     SenderConfig
	buffers sync.Pool // of *[]byte: stanzas and pieces of content
}

// NewSender makes a Sender.
func NewSender(cfg SenderConfig) *Sender {
	if cfg.MaxInline == 0 {
		cfg.MaxInline = 64 << 10
	}
	defaultTo(&cfg.Chunk, 128<<10)
	defaultTo(&cfg.Window, 4)
	defaultTo(&cfg.RequestTimeout, 2*time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Sender{cfg: cfg, buffers: sync.Pool{New: func() any { return new([]byte) }}}
}

// Deliver hands one attempt's message to its domain over XMPP: one outcome
// per recipient, in order. See mail.Attempt for the contract.
func (s *Sender) Deliver(ctx context.Context, a mail.Attempt) []mail.Outcome {
	n := len(a.Envelope.Recipients)
	if f := bound(a.Local, a.Domain, a.Envelope.Sender, a.Envelope.Recipients); f != nil {
		return mail.AllFailed(n, f)
	}
	if tooLate(a.Envelope) {
		return mail.AllFailed(n, mail.Fail(mail.Expired, "", nil))
	}
	link, caps, err := s.cfg.Links.Link(ctx, a.Local, a.Domain)
	if err != nil {
		f := unreachable(a.Domain, err)
		if a.InDoubt {
			f = doubt(a.Domain, err)
		}
		return mail.AllFailed(n, f)
	}
	if service := link.Binding().Remote; service != "" && service != a.Domain {
		a.Transfer = mail.ServiceTransferID(a.Transfer, a.Domain)
	}
	if link.Binding().Proof == component {
		caps.Extensions = slices.DeleteFunc(slices.Clone(caps.Extensions), func(e string) bool { return e == ExtRequireTLS })
	}
	env, f := fit(s.withKeys(ctx, a.Envelope, caps), caps)
	if f == nil && a.Facts.Size > caps.MaxMessage {
		f = mail.Failf(mail.TooLarge, "message is larger than the %d octets that %s takes", caps.MaxMessage, a.Domain)
	}
	if f == nil && a.Facts.Received+countReceived(a.Trace) > mail.MaxHops {
		f = mail.Fail(mail.Loop, "", nil) // xep-draft section 7.1
	}
	if f != nil && !a.InDoubt {
		return mail.AllFailed(n, f)
	}
	t := &attempt{s: s, link: link, caps: caps, a: a, env: env}
	return t.deliver(ctx, f)
}

// component is the proof of links whose streams are a chat server's. What TLS
// those have nobody here knows, so REQUIRETLS neither goes nor comes over them
// (xep-draft section 7.4).
const component = "component"

// tooLate reports whether an envelope is to be delivered within a time that is
// over (RFC 2852 section 4).
func tooLate(env mail.Envelope) bool {
	by := env.DeliverBy
	return by != nil && by.Mode == 'R' && time.Until(by.Deadline) < time.Second
}

// Check asks a peer which recipients it would take: one entry per recipient,
// nil where it would. An error says that the peer could not be asked.
func (s *Sender) Check(ctx context.Context, local, domain string, sender mail.Address, utf8 bool, rcpts []mail.Recipient) ([]*mail.Failure, error) {
	if f := bound(local, domain, sender, rcpts); f != nil {
		return nil, f
	}
	link, caps, err := s.cfg.Links.Link(ctx, local, domain)
	if err != nil {
		return nil, unreachable(domain, err)
	}
	if _, f := fit(mail.Envelope{Sender: sender, Recipients: rcpts, SMTPUTF8: utf8}, caps); f != nil {
		return nil, f
	}
	t := &attempt{s: s, link: link, caps: caps, a: mail.Attempt{Local: local, Domain: domain}}
	failures := make([]*mail.Failure, len(rcpts))
	batches := group(rcpts, caps.MaxRecipients)
	for len(batches) > 0 {
		b := batches[0]
		batches = batches[1:]
		payload, err := encodeCheck(sender, utf8, b.rcpts)
		if err != nil {
			return nil, mail.Fail(mail.BadAddress, "an address cannot be written in XML", err)
		}
		if len(payload)+t.around() > link.MaxStanza() && len(b.rcpts) > 1 {
			batches = append(b.halves(), batches...)
			continue
		}
		ans, err := t.request(ctx, "get", payload, "")
		if err != nil {
			f := t.failure(err)
			if f.Status() == tooManyAtOnce && len(b.rcpts) > 1 {
				batches = append(b.halves(), batches...)
				continue
			}
			return nil, f
		}
		if ans.kind != verdicts || !ans.matches(b.rcpts) {
			return nil, mail.Fail(mail.Malformed, "peer's answer does not follow the protocol", nil)
		}
		for i, v := range ans.rcpts {
			for _, n := range b.numbers[i] {
				failures[n] = v.failure
			}
		}
	}
	return failures, nil
}

// bound holds our own envelope against the binding (xep-draft section 6), so
// that nothing is dialled for what the peer must refuse.
func bound(local, domain string, sender mail.Address, rcpts []mail.Recipient) *mail.Failure {
	if !sender.IsNull() && sender.Domain != local {
		return mail.Failf(mail.NotPermitted, "reverse-path is not of %s: not sent over XMPP", local)
	}
	for _, r := range rcpts {
		if r.Address.Domain != domain {
			return mail.Failf(mail.NotPermitted, "recipient is not of %s", domain)
		}
	}
	return nil
}

// unreachable is the failure where no stream is to be had: its own, if it is
// one, or a temporary one.
func unreachable(domain string, err error) *mail.Failure {
	if f, ok := errors.AsType[*mail.Failure](err); ok {
		return f
	}
	f := mail.Fail(mail.Unreachable, "no stream to the peer domain", err)
	f.Remote = domain
	return f
}

// doubt is the failure where the peer may have taken the message.
func doubt(domain string, err error) *mail.Failure {
	f := mail.Fail(mail.Doubtful, "", err)
	f.Remote = domain
	return f
}

// failure turns the error of a request that moves no responsibility into a
// recipient's failure.
func (t *attempt) failure(err error) *mail.Failure {
	if se, ok := errors.AsType[*stream.StanzaError](err); ok {
		f := fromStanzaError(t.a.Domain, se)
		if f.Kind == mail.Unavailable || f.Kind == mail.NotOffered {
			t.s.cfg.Links.Forget(t.a.Local, t.a.Domain)
		}
		return f
	}
	if f, ok := errors.AsType[*mail.Failure](err); ok {
		return f
	}
	why := "connection to the peer domain lost"
	if errors.Is(err, stream.ErrTimeout) || errors.Is(err, context.DeadlineExceeded) {
		why = "peer domain does not answer in time"
	}
	f := mail.Fail(mail.Unreachable, why, err)
	f.Remote = t.a.Domain
	return f
}

// mayHaveActed reports whether the peer may have carried a request out: any
// error but those that say that it did not.
func mayHaveActed(err error) bool {
	_, told := errors.AsType[*stream.StanzaError](err)
	return !told && !errors.Is(err, stream.ErrNotSent)
}

package transfer

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// Receiver is who takes responsibility for what peers send: the gateway.
// Safe for concurrent use; it bounds its own waits and honours ctx.
type Receiver interface {
	// Check judges sender and recipients before any content is taken: one
	// entry per recipient of env, nil where it would be accepted.
	Check(ctx context.Context, b mail.Binding, env mail.Envelope) []*mail.Failure

	// Accept takes responsibility for m, whose recipients are those that Check
	// let pass and that were not accepted before. m.Content is nil when the
	// content is that of the open transfer k. Otherwise it is lent until Accept
	// returns; to go on with it, ask for its Memory, as that of a mail.Buffer.
	// Per recipient of m's envelope it
	// returns the id under which it was accepted, or a failure. What it
	// accepted is durable, and remembered under k, when it returns. Idempotence
	// key: k with the recipient.
	Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, b mail.Binding, m *mail.Message) ([]mail.ID, []*mail.Failure)
}

// Services knows which services of another name speak for which domains
// (xep-draft section 6.3). It bounds its own waits; nil says that the service
// does, a permanent failure that it does not.
type Services interface {
	Speaks(ctx context.Context, local, service, domain string) *mail.Failure
}

// ServerConfig configures a Server. Zero values stand for the defaults.
type ServerConfig struct {
	Receiver         Receiver
	Transfers        store.Transfers
	Services         Services                    // nil: no service speaks for a domain of another name
	Serves           func(local string) []string // domains whose mail is taken under a name of ours; nil: that name's
	Permissions      Permissions                 // nil: grants are not known here
	Capabilities     Capabilities                // announced and enforced; the zero value stands for Announced()
	MaxOpenPerDomain int                         // open transfers of one bound domain; 64
	MaxOpen          int                         // of all; 1,024
	OpenFor          time.Duration               // without progress, before an open transfer makes room; 1 h
	ChunkWait        time.Duration               // of a chunk for those before it; 10 s
	RetryAfter       time.Duration               // told to a peer that has to wait; 1 min
	OffersPerMinute  int                         // of one bound domain; 600,000
	NullPerMinute    int                         // offers with a null reverse-path of one bound domain; 600
	ChecksPerMinute  int                         // recipients that one bound domain may ask about; 3,000
	GrantsPerMinute  int                         // requests, grants and revocations of one bound domain; 60
	GrantsPerAuthor  int                         // a minute, of those about one author; 5
	Log              *slog.Logger
}

// Server answers the requests of peers. Safe for concurrent use.
type Server struct {
	cfg    ServerConfig
	open   *table
	offers *rates
	nulls  *rates
	checks *rates
	tally  *tally

	permissions, authors *rates // by bound domain, by that and the author
}

// NewServer makes a Server.
func NewServer(cfg ServerConfig) *Server {
	if cfg.Capabilities.MaxMessage == 0 {
		cfg.Capabilities = Announced()
	}
	defaultTo(&cfg.MaxOpenPerDomain, 64)
	defaultTo(&cfg.MaxOpen, 1024)
	defaultTo(&cfg.OpenFor, time.Hour)
	defaultTo(&cfg.ChunkWait, 10*time.Second)
	defaultTo(&cfg.RetryAfter, time.Minute)
	defaultTo(&cfg.OffersPerMinute, 600_000)
	defaultTo(&cfg.NullPerMinute, 600)
	defaultTo(&cfg.ChecksPerMinute, 3000)
	defaultTo(&cfg.GrantsPerMinute, 60)
	defaultTo(&cfg.GrantsPerAuthor, 5)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	t := newTally()
	return &Server{
		cfg: cfg, tally: t, offers: newRates(cfg.OffersPerMinute), nulls: newRates(cfg.NullPerMinute), checks: newRates(cfg.ChecksPerMinute),
		permissions: newRates(cfg.GrantsPerMinute), authors: newRates(cfg.GrantsPerAuthor),
		open: newTable(cfg.MaxOpenPerDomain, cfg.MaxOpen, cfg.OpenFor, t),
	}
}

func defaultTo[T int | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}

// Capabilities returns what the server announces.
func (s *Server) Capabilities() Capabilities { return s.cfg.Capabilities }

// Handle answers one request of a peer; it is what stream.Config.Handle calls.
// Payloads of other namespaces are not ours.
func (s *Server) Handle(ctx context.Context, l *stream.Link, iq *stream.IQ) stream.Reply {
	return s.HandleBound(ctx, l.Binding(), iq)
}

// HandleBound is Handle for a peer that is reached otherwise than by a stream
// of ours; b says whom the request is from and what proves it.
func (s *Server) HandleBound(ctx context.Context, b mail.Binding, iq *stream.IQ) stream.Reply {
	p := iq.Payload
	if p == nil || p.Name.Space != Namespace {
		return stream.Reply{Error: &stream.ErrorReply{Type: "cancel", Condition: "service-unavailable"}}
	}
	r := request{s: s, b: b, now: time.Now(), room: iq.Room}
	ans, f := r.answer(ctx, iq.Type, p)
	if f != nil {
		s.tally.refusal(f)
		s.cfg.Log.Info("request refused", "transport", "xmpp", "peer", b.Remote, "request", p.Name.Local,
			"cond", f.Condition, "status", f.Status(), "err", f)
		return replyError(f)
	}
	if ans == nil {
		return stream.Reply{}
	}
	s.count(ans)
	payload, err := ans.encodeWithin(r.room)
	if err != nil {
		return replyError(mail.Fail(mail.Internal, "", err))
	}
	return stream.Reply{Payload: payload}
}

// count notes what a request came to.
func (s *Server) count(ans *answer) {
	switch ans.kind {
	case ready:
		s.tally.add(countReady)
		if ans.next > 0 {
			s.tally.add(countResumed)
		}
	case unknown:
		s.tally.add(countUnknown)
	case refused:
		s.tally.add(countRefused)
	}
}

// request is one request being answered.
type request struct {
	s    *Server
	b    mail.Binding
	now  time.Time
	room int // octets of the answer that the peer takes; 0 for no bound
}

// answer dispatches a request by its type and name; nil without a failure is
// the empty result.
func (r *request) answer(ctx context.Context, typ string, p *wire.Element) (*answer, *mail.Failure) {
	switch typ + " " + p.Name.Local {
	case "get check":
		return r.check(ctx, p)
	case "set offer":
		return r.offer(ctx, p)
	case "set chunk":
		return r.chunk(ctx, p)
	case "set commit":
		return r.commit(ctx, p)
	case "get status":
		return r.status(ctx, p)
	case "set abort":
		return r.abort(ctx, p)
	case "set permission":
		return nil, r.permission(ctx, p)
	}
	return nil, mail.Fail(mail.NotOffered, "no such request", nil)
}

func (r *request) key(tid string) store.TransferKey {
	return store.TransferKey{Domain: r.b.Remote, Local: r.b.Local, ID: tid}
}

// check judges recipients before there is content (xep-draft section 5.7).
func (r *request) check(ctx context.Context, p *wire.Element) (*answer, *mail.Failure) {
	env, rcpts, f := decodeCheck(p)
	if f == nil {
		f = r.permitted(ctx, &env, rcpts)
	}
	if f != nil {
		return nil, f
	}
	if f := r.answerable("", rcpts); f != nil {
		return nil, f
	}
	if wait := r.s.checks.take(r.b.Remote, len(rcpts), r.now); wait > 0 {
		r.s.tally.add(countCheckFlood)
		return nil, tooOften("too many questions, try again later", wait)
	}
	ans := &answer{kind: verdicts}
	ans.rcpts, _ = r.judge(ctx, env, rcpts, nil)
	return ans, nil
}

// permitted holds a request's envelope against binding, extensions and limits
// (xep-draft sections 6 and 7). What concerns one recipient is noted there.
func (r *request) permitted(ctx context.Context, env *mail.Envelope, rcpts []rcpt) *mail.Failure {
	if most := r.s.cfg.Capabilities.MaxRecipients; len(rcpts) > most {
		return mail.Failf(mail.ResourceShort, "more than %d recipients in one request", most).WithStatus(tooManyAtOnce)
	}
	ours := r.s.serves(r.b.Local)
	for i := range rcpts {
		rc := &rcpts[i]
		if rc.bad == nil && !slices.Contains(ours, rc.Address.Domain) {
			rc.bad = mail.Failf(mail.NotPermitted, "recipient is not of %s: no relaying", r.b.Local)
			r.s.tally.add(countRelaying)
		}
		if rc.bad == nil && !rc.Address.IsASCII() && !env.SMTPUTF8 {
			rc.bad = mail.Fail(mail.NotAcceptable, "non-ASCII recipient without smtputf8", nil)
		}
		if rc.Grant != "" && !r.s.cfg.Capabilities.Has(ExtGrants) {
			return mail.Fail(mail.Malformed, "rcpt: grants are not kept here", nil)
		}
	}
	if !env.Sender.IsASCII() && !env.SMTPUTF8 {
		return mail.Fail(mail.NotAcceptable, "non-ASCII sender without smtputf8", nil)
	}
	if env.RequireTLS && r.b.Proof == component {
		// What is announced over a component leaves it out (RFC 8689 section 2).
		return mail.Fail(mail.TLSRequired, "", nil)
	}
	if _, f := fit(*env, r.s.cfg.Capabilities); f != nil {
		return f
	}
	return r.bound(ctx, env.Sender.Domain, ours) // last: it may take asking others
}

// bound holds the reverse-path's domain against what the stream has proven: it
// is that domain, or one that the stream's is a service of (xep-draft sections
// 6.1 and 6.3). A null reverse-path has none.
func (r *request) bound(ctx context.Context, sender string, ours []string) *mail.Failure {
	switch {
	case sender == "" || sender == r.b.Remote:
		return nil
	case r.s.cfg.Services == nil || mail.IsLiteral(sender) || slices.Contains(ours, sender):
		return mail.Failf(mail.NotPermitted, "this stream does not speak for the sender's domain")
	}
	f := r.s.cfg.Services.Speaks(ctx, r.b.Local, r.b.Remote, sender)
	if f != nil {
		r.s.tally.add(countNotBound)
	}
	return f
}

// serves are the domains whose mail is taken under a name of ours.
func (s *Server) serves(local string) []string {
	if s.cfg.Serves == nil {
		return []string{local}
	}
	return s.cfg.Serves(local)
}

// judge gives a verdict for every recipient: its own mistake, the acceptance
// remembered, or what the Receiver says. pending are the numbers of those
// that may still be accepted.
func (r *request) judge(ctx context.Context, env mail.Envelope, rcpts []rcpt, known map[mail.Address]mail.ID) (out []verdict, pending []int) {
	out = make([]verdict, len(rcpts))
	for i, rc := range rcpts {
		out[i] = verdict{to: rc.to, failure: rc.bad, queueID: string(known[rc.Address])}
		if rc.bad == nil && out[i].queueID == "" {
			pending = append(pending, i)
			env.Recipients = append(env.Recipients, rc.Recipient)
		}
	}
	if len(pending) == 0 {
		return out, nil
	}
	failures := r.s.cfg.Receiver.Check(ctx, r.b, env)
	passed := pending[:0]
	for n, i := range pending {
		if n < len(failures) && failures[n] != nil {
			out[i].failure = failures[n]
			continue
		}
		passed = append(passed, i)
	}
	return out, passed
}

// storeFailure says what a failure of the store means for the peer.
func storeFailure(err error) *mail.Failure {
	switch {
	case errors.Is(err, store.ErrConflict):
		return mail.Fail(mail.Conflict, "", err)
	case errors.Is(err, store.ErrFull):
		return mail.Fail(mail.ResourceShort, "", err)
	}
	return mail.AsFailure(err)
}

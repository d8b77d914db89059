package transfer

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/xmpp/stream"
	"mailxmppd/xmpp/wire"
)

// attempt is one Deliver on one link.
type attempt struct {
	s    *Sender
	link Link
	caps Capabilities
	a    mail.Attempt
	env  mail.Envelope // as it goes out; its recipients are a's in a's order
	out  []mail.Outcome
	bulk bool // link is the one for bulk
}

// deliver carries the recipients in batches. misfit, if any, is what those
// get whose earlier attempt has not moved them.
func (t *attempt) deliver(ctx context.Context, misfit *mail.Failure) []mail.Outcome {
	t.out = make([]mail.Outcome, len(t.env.Recipients))
	todo := group(t.env.Recipients, t.caps.MaxRecipients)
	if t.a.InDoubt {
		todo = t.resolve(ctx, todo)
	}
	for len(todo) > 0 {
		b := todo[0]
		todo = todo[1:]
		if misfit != nil {
			t.fail(b, misfit)
			continue
		}
		if smaller := t.carry(ctx, b); smaller != nil {
			todo = append(smaller, todo...)
		}
	}
	return t.out
}

// resolve asks what became of an earlier attempt (xep-draft section 5.5) and
// returns what is still to be offered. Where nobody answers the doubt stays.
func (t *attempt) resolve(ctx context.Context, todo []*batch) []*batch {
	var open []*batch
	for len(todo) > 0 {
		b := todo[0]
		todo = todo[1:]
		payload, err := encodeStatus(t.a.Transfer, b.rcpts)
		if err == nil && len(payload)+t.around() > t.link.MaxStanza() && len(b.rcpts) > 1 {
			todo = append(b.halves(), todo...)
			continue
		}
		var ans *answer
		if err == nil {
			ans, err = t.request(ctx, "get", payload, t.a.Transfer)
		}
		if err != nil {
			if se, ok := errors.AsType[*stream.StanzaError](err); ok && fromStanzaError("", se).Status() == tooManyAtOnce && len(b.rcpts) > 1 {
				todo = append(b.halves(), todo...)
				continue
			}
			t.fail(b, doubt(t.a.Domain, err))
			continue
		}
		if b = b.without(t.acceptedBefore(b, ans)); len(b.rcpts) > 0 {
			open = append(open, b)
		}
	}
	return open
}

// acceptedBefore settles the recipients that the answer to status names.
func (t *attempt) acceptedBefore(b *batch, ans *answer) map[string]bool {
	done := map[string]bool{}
	if ans.kind != accepted {
		return done
	}
	ids := map[string]string{}
	for _, v := range ans.rcpts {
		if v.failure == nil {
			ids[v.to] = v.queueID
			done[v.to] = true
		}
	}
	for i, r := range b.rcpts {
		if done[r.to] {
			t.settle(b, i, t.proven(verdict{to: r.to, queueID: ids[r.to]}))
		}
	}
	return done
}

// startOffer writes the offer of a batch up to its content.
func (t *attempt) startOffer(buf []byte, b *batch) *wire.Encoder {
	e := wire.NewEncoder(buf)
	encodeOffer(e, &offer{tid: t.a.Transfer, size: t.a.Facts.Size, sum: t.a.Facts.SHA256,
		hops: t.a.Facts.Received + countReceived(t.a.Trace), env: t.env, rcpts: b.rcpts, trace: t.a.Trace}, time.Now())
	return e
}

// carry hands one batch over, or returns it in smaller batches when its offer
// would not fit into one stanza, or the peer says that it is too many at once.
func (t *attempt) carry(ctx context.Context, b *batch) []*batch {
	buf := t.s.buffers.Get().(*[]byte)
	defer t.s.buffers.Put(buf)
	e := t.startOffer((*buf)[:0], b)
	size := t.a.Facts.Size
	inline := size <= int64(min(t.s.cfg.MaxInline, t.caps.MaxInline)) &&
		t.stanza(e, contentTags+base64.StdEncoding.EncodedLen(int(size))) <= t.link.MaxStanza()
	if inline {
		if err := t.addWhole(e); err != nil {
			t.fail(b, mail.AsFailure(err))
			return nil
		}
	} else {
		t.useBulk(ctx)
	}
	e.End()
	payload, err := e.Bytes()
	switch {
	case err != nil:
		t.fail(b, mail.Fail(mail.NotAcceptable, "envelope cannot be written in XML", err).WithStatus("5.6.0"))
		return nil
	case inline:
		t.offerWhole(ctx, b, payload)
	case len(payload)+t.around() <= t.link.MaxStanza():
		t.offerChunks(ctx, b)
	case len(b.rcpts) > 1:
		return b.halves()
	default:
		t.fail(b, mail.Fail(mail.TooLarge, "envelope does not fit into a stanza to the peer", nil))
	}
	*buf = payload[:0]
	if t.tooMany(b) {
		return b.halves()
	}
	return nil
}

// tooManyAtOnce is the status for more recipients than the peer takes, or can
// answer for, in one request (RFC 3463 section 3.6, X.5.3; xep-draft section 5).
const tooManyAtOnce = "4.5.3"

// tooMany reports whether the peer took none of a batch because of its length.
func (t *attempt) tooMany(b *batch) bool {
	for _, numbers := range b.numbers {
		if f := t.out[numbers[0]].Failure; f == nil || f.Status() != tooManyAtOnce {
			return false
		}
	}
	return len(b.rcpts) > 1
}

// contentTags are the octets that content adds besides its base64, and the
// offer's end.
const contentTags = len("><content></content></offer>")

func (t *attempt) stanza(e *wire.Encoder, more int) int { return e.Len() + more + t.around() }

// around bounds the octets of an IQ stanza besides its payload, every
// character of the domains escaped.
func (t *attempt) around() int {
	b := t.link.Binding() // whose names may be those of services
	return 256 + len(mail.UnicodeDomain(b.Local)) + len(mail.UnicodeDomain(b.Remote))
}

// addWhole reads the content into the offer.
func (t *attempt) addWhole(e *wire.Encoder) error {
	buf := t.s.buffers.Get().(*[]byte)
	defer t.s.buffers.Put(buf)
	p, err := openAt(t.a.Content, 0)
	if err != nil {
		return err
	}
	defer p.close()
	content, err := p.next(buf, int(t.a.Facts.Size))
	if err == nil {
		addContent(e, content)
	}
	return err
}

// grow makes *buf hold n octets.
func grow(buf *[]byte, n int) []byte {
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	*buf = (*buf)[:n]
	return *buf
}

func (t *attempt) offerWhole(ctx context.Context, b *batch, payload []byte) {
	faults.Point("xmpp.before-offer")
	ans, err := t.request(ctx, "set", payload, t.a.Transfer)
	t.conclude(b, ans, err)
}

// conclude enters the outcome of a request that may have moved
// responsibility: an offer with content or a commit.
func (t *attempt) conclude(b *batch, ans *answer, err error) {
	faults.Point("xmpp.after-answer")
	switch {
	case err != nil && mayHaveActed(err):
		// xep-draft section 5.5: the peer may have taken it.
		t.fail(b, doubt(t.a.Domain, err))
	case err != nil:
		t.fail(b, t.failure(err))
	case ans.kind == accepted && !ans.matches(b.rcpts):
		t.misbehaved("accepted names other recipients")
		t.fail(b, doubt(t.a.Domain, errors.New("accepted names other recipients")))
	case ans.kind == accepted:
		for i, v := range ans.rcpts {
			t.settle(b, i, t.proven(v))
		}
	case ans.kind == refused && ans.matches(b.rcpts):
		for i, v := range ans.rcpts {
			if v.failure == nil {
				v.failure = mail.Fail(mail.Refused, "", nil)
			}
			t.settle(b, i, v)
		}
	default:
		t.fail(b, t.malformed("unexpected "+string(ans.kind)))
	}
}

// proven makes a verdict of accepted doubtful that has neither a failure nor
// the queue-id which shows that responsibility has moved (xep-draft section
// 5.4).
func (t *attempt) proven(v verdict) verdict {
	if v.failure == nil && v.queueID == "" {
		why := "accepted without a queue-id"
		t.misbehaved(why)
		v.failure = doubt(t.a.Domain, errors.New(why))
	}
	return v
}

func (t *attempt) malformed(why string) *mail.Failure {
	t.misbehaved(why)
	f := mail.Fail(mail.Malformed, "peer's answer does not follow the protocol", errors.New(why))
	f.Remote = t.a.Domain
	return f
}

func (t *attempt) misbehaved(why string) {
	t.s.cfg.Log.Warn("peer does not follow the protocol", "peer", t.a.Domain, "id", t.a.ID, "err", why)
}

// settle enters one recipient's verdict.
func (t *attempt) settle(b *batch, i int, v verdict) {
	o := t.outcome()
	o.Failure = v.failure
	if v.failure == nil {
		o.RemoteID, o.Text = v.queueID, "accepted as "+v.queueID
	} else {
		o.Text = v.failure.Text
	}
	for _, n := range b.numbers[i] {
		t.out[n] = o
	}
}

// fail gives every recipient of a batch the same failure.
func (t *attempt) fail(b *batch, f *mail.Failure) {
	for i := range b.rcpts {
		t.settle(b, i, verdict{failure: f})
	}
}

func (t *attempt) outcome() mail.Outcome {
	bd := t.link.Binding()
	return mail.Outcome{Remote: cmp.Or(bd.Remote, t.a.Domain), Proof: bd.Proof, TLS: bd.TLS}
}

// errAnswer is an answer that was given and is not understood.
type errAnswer struct{ error }

// request asks the peer and reads its answer. An unreadable answer counts as
// one that may have been an acceptance.
func (t *attempt) request(ctx context.Context, typ string, payload []byte, tid string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, t.s.cfg.RequestTimeout)
	defer cancel()
	el, err := t.link.Request(ctx, typ, payload)
	if err != nil {
		return nil, err
	}
	ans, err := decodeAnswer(t.a.Domain, tid, el)
	if err != nil {
		t.misbehaved(err.Error())
		return nil, errAnswer{err}
	}
	return ans, nil
}

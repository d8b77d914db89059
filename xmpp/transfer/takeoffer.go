package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
	"mailxmppd/xmpp/wire"
)

// offer takes an offer, with its content (xep-draft section 5.2) or without
// (section 5.3).
func (r *request) offer(ctx context.Context, p *wire.Element) (*answer, *mail.Failure) {
	o, f := decodeOffer(p, r.now)
	if f == nil {
		f = r.withinLimits(o)
	}
	if f == nil {
		f = r.permitted(ctx, &o.env, o.rcpts)
	}
	if f == nil {
		f = r.answerable(o.tid, o.rcpts)
	}
	if f == nil {
		if wait := r.s.offers.take(r.b.Remote, 1, r.now); wait > 0 {
			r.s.tally.add(countOfferFlood)
			f = tooOften("too much mail at once, try again later", wait)
		}
	}
	if f == nil && o.env.Sender.IsNull() {
		if wait := r.s.nulls.take(r.b.Remote, 1, r.now); wait > 0 {
			r.s.tally.add(countNullFlood)
			f = tooOften("too much mail with a null reverse-path", wait)
		}
	}
	if f != nil {
		return nil, f
	}
	s, f := r.s.open.take(ctx, r.key(o.tid))
	if f != nil {
		return nil, f
	}
	defer r.s.open.done(s)

	known, err := r.s.cfg.Transfers.Lookup(ctx, s.key)
	if err != nil {
		return nil, storeFailure(err)
	}
	// xep-draft section 5.6: only acceptances are remembered, and they bind
	// the id to its content.
	if known.Known && known.Hash != o.hash() {
		return nil, mail.Fail(mail.Conflict, "", nil)
	}
	rcpts, pending := r.judge(ctx, o.env, o.rcpts, known.Accepted)
	switch {
	case len(pending) == 0:
		return settled(o.tid, rcpts), nil
	case o.inline:
		return r.acceptInline(ctx, s, o, rcpts, pending)
	}
	return r.getReady(ctx, s, o, known, rcpts, pending)
}

func (r *request) withinLimits(o *offer) *mail.Failure {
	c := r.s.cfg.Capabilities
	switch {
	case o.size > c.MaxMessage:
		return mail.Failf(mail.TooLarge, "message is larger than %d octets", c.MaxMessage)
	case o.inline && len(o.content) > c.MaxInline:
		return mail.Failf(mail.Malformed, "content inside an offer is longer than %d octets", c.MaxInline)
	case o.hops > mail.MaxHops || countReceived(o.trace) > mail.MaxHops:
		return mail.Fail(mail.Loop, "", nil)
	}
	return nil
}

func (o *offer) hash() store.ContentHash { return store.ContentHash{Size: o.size, SHA256: o.sum} }

// settled is the answer when every verdict is final: accepted if any
// recipient is.
func settled(tid string, rcpts []verdict) *answer {
	for _, v := range rcpts {
		if v.queueID != "" {
			return &answer{kind: accepted, tid: tid, rcpts: rcpts}
		}
	}
	return &answer{kind: refused, tid: tid, rcpts: rcpts}
}

func (r *request) acceptInline(ctx context.Context, s *slot, o *offer, rcpts []verdict, pending []int) (*answer, *mail.Failure) {
	scan := mail.NewScanner()
	scan.Write(o.content)
	if f := verify(scan, o); f != nil {
		r.s.tally.add(countWrongContent)
		return nil, f
	}
	c := &lentContent{Bytes: o.content}
	r.accept(ctx, s.key, o, scan, c, rcpts, pending) // carries its content: no fence to lose
	refused := slices.ContainsFunc(pending, func(i int) bool { return rcpts[i].queueID == "" })
	if refused || c.kept.Load() {
		o.lent.Text = nil // somebody is at it, or, after a failure, may be: not the stream's memory any more
	}
	return settled(o.tid, rcpts), nil
}

// lentContent is content in the memory of a request, which the stream uses
// again after it unless somebody asks to keep it.
type lentContent struct {
	mail.Bytes
	kept atomic.Bool
}

// Memory returns the octets to somebody who goes on with them after Accept.
func (c *lentContent) Memory() (mail.Bytes, bool) {
	c.kept.Store(true)
	if b := c.Bytes; cap(b) <= len(b)+len(b)/2 {
		return b, true
	}
	return bytes.Clone(c.Bytes), true // what is kept takes no more than it is
}

// accept hands the message to the Receiver and enters its verdicts. false:
// the open transfer with its content is another node's now.
func (r *request) accept(ctx context.Context, k store.TransferKey, o *offer, scan *mail.Scanner, c mail.Content, rcpts []verdict, pending []int) bool {
	env := o.env
	for _, i := range pending {
		env.Recipients = append(env.Recipients, o.rcpts[i].Recipient)
	}
	m := &mail.Message{
		ID: mail.NewID(), Envelope: env, Content: c, Facts: scan.Facts(), Trace: o.trace,
		Origin: mail.Origin{Transport: "xmpp", Remote: r.b.Addr, Peer: r.b.Remote, Proof: r.b.Proof, TLS: r.b.TLS, Received: r.now},
	}
	ids, failures := r.s.cfg.Receiver.Accept(ctx, k, o.hash(), r.b, m)
	faults.Point("xmpp.after-accept")
	taken := false
	for n, i := range pending {
		switch {
		case n < len(failures) && failures[n] != nil && errors.Is(failures[n], store.ErrLeaseLost):
			return false
		case n < len(failures) && failures[n] != nil:
			rcpts[i].failure = failures[n]
		case n < len(ids) && ids[n] != "":
			rcpts[i].queueID = string(ids[n])
			taken = true
		default:
			rcpts[i].failure = mail.Fail(mail.Internal, "", nil)
		}
	}
	if taken {
		r.s.tally.add(countAccepted)
	}
	return true
}

// getReady opens a transfer in chunks, or takes up the one that is open.
//
// What was scanned here goes only with the turn under which it was appended:
// under a new one the store may hold other octets of the same number, from
// another node (xep-draft section 9.4). So either both are kept, and the fence
// shows at the next chunk or at commit whether somebody else came between, or
// the content is read back under the new turn.
func (r *request) getReady(ctx context.Context, s *slot, o *offer, known store.Transfer, rcpts []verdict, pending []int) (*answer, *mail.Failure) {
	was := s.open
	if was != nil && (was.offer.hash() != o.hash() || !known.Open || known.Next != was.scan.Size()) {
		was = nil
	}
	if f := r.s.open.start(s, &open{offer: o, rcpts: slices.Clone(rcpts), pending: pending}); f != nil {
		r.s.tally.add(countCrowded)
		f.RetryAfter = r.s.cfg.RetryAfter
		return nil, f
	}
	if was != nil {
		s.open.scan, s.open.turn = was.scan, was.turn
		s.wake()
		return r.readyAt(o.tid, known.Next, rcpts), nil
	}
	at, err := r.s.cfg.Transfers.TransferBegin(ctx, s.key, o.hash())
	var scan *mail.Scanner
	if err == nil {
		scan, err = r.rescan(ctx, s.key, at.Next)
	}
	if err != nil {
		r.s.open.end(s)
		return nil, storeFailure(err)
	}
	s.open.scan, s.open.turn = scan, at.Turn
	s.wake()
	faults.Point("xmpp.opened")
	return r.readyAt(o.tid, at.Next, rcpts), nil
}

func (r *request) readyAt(tid string, at int64, rcpts []verdict) *answer {
	c := r.s.cfg.Capabilities
	return &answer{kind: ready, tid: tid, rcpts: rcpts, next: at, chunk: c.MaxChunk, window: c.Window}
}

// rescan reads back what the store holds of a transfer whose turn was just
// drawn. Were it somebody else's again by now, the turn would fence this one.
func (r *request) rescan(ctx context.Context, k store.TransferKey, size int64) (*mail.Scanner, error) {
	scan := mail.NewScanner()
	if size == 0 {
		return scan, nil
	}
	content, err := r.s.cfg.Transfers.OpenTransfer(ctx, k)
	if err != nil {
		return nil, err
	}
	defer content.Close()
	if _, err := io.CopyN(scan, content, size); err != nil {
		return nil, err
	}
	return scan, nil
}

package transfer

import (
	"context"
	"errors"
	"time"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/store"
	"mailxmppd/xmpp/wire"
)

// chunk takes a piece of an open transfer's content (xep-draft section 5.3).
func (r *request) chunk(ctx context.Context, p *wire.Element) (*answer, *mail.Failure) {
	tid, offset, piece, f := decodeChunk(p)
	if most := r.s.cfg.Capabilities.MaxChunk; f == nil && len(piece) > most {
		f = mail.Failf(mail.Malformed, "chunk: longer than %d octets", most)
	}
	if f != nil {
		return nil, f
	}
	s, f := r.s.open.take(ctx, r.key(tid))
	if f != nil {
		return nil, f
	}
	defer r.s.open.done(s)
	if f := r.awaitTurn(ctx, s, offset, int64(len(piece))); f != nil {
		return nil, f
	}
	ans, f := r.appendChunk(ctx, s, offset, piece)
	if f != nil || ans.kind != next {
		// The store may still be at a piece that it has not said to have
		// taken: the stream must not use its memory again.
		p.Text = nil
	}
	return ans, f
}

// awaitTurn holds a chunk back until those before it are there: the window's
// chunks are handled side by side. It returns in the slot's turn, also after
// the time is up or when there is no use in waiting.
func (r *request) awaitTurn(ctx context.Context, s *slot, offset, n int64) *mail.Failure {
	c := r.s.cfg.Capabilities
	end := time.NewTimer(r.s.cfg.ChunkWait)
	defer end.Stop()
	for s.open != nil {
		ahead := offset - s.open.scan.Size()
		if ahead <= 0 || ahead > int64(c.Window)*int64(c.MaxChunk) || offset+n > s.open.offer.size {
			return nil
		}
		moved := s.moved
		s.pass()
		late := false
		select {
		case <-moved:
		case <-end.C:
			late = true
		case <-ctx.Done():
		}
		// Not bounded by ctx: whoever has the turn gives it up soon, and
		// the caller must return in it.
		<-s.turn
		if ctx.Err() != nil {
			return mail.AsFailure(ctx.Err())
		}
		if late {
			return nil
		}
	}
	return nil
}

func (r *request) appendChunk(ctx context.Context, s *slot, offset int64, piece []byte) (*answer, *mail.Failure) {
	if s.open == nil {
		return &answer{kind: unknown, tid: s.key.ID}, nil
	}
	at := s.open.scan.Size()
	if offset+int64(len(piece)) > s.open.offer.size {
		return nil, mail.Fail(mail.Malformed, "chunk goes beyond the offered size", nil)
	}
	if offset == at {
		stands, err := r.s.cfg.Transfers.Append(ctx, s.held(), offset, piece)
		if errors.Is(err, store.ErrLeaseLost) || err == nil && stands != offset+int64(len(piece)) {
			return r.takenOver(s), nil
		}
		if err != nil {
			return nil, r.lost(s, err)
		}
		s.open.scan.Write(piece)
		r.s.tally.addN(countOctets, len(piece))
		at = stands
		r.s.open.progressed(s)
		s.wake()
		faults.Point("xmpp.chunk-taken")
	} else {
		r.s.tally.add(countStray)
	}
	return &answer{kind: next, tid: s.key.ID, next: at}, nil
}

// takenOver ends an open transfer that another node has taken up (xep-draft
// section 9.4): what was seen here is no longer what the store holds.
func (r *request) takenOver(s *slot) *answer {
	r.s.tally.add(countTakenOver)
	r.s.open.end(s)
	return &answer{kind: unknown, tid: s.key.ID}
}

// lost ends an open transfer after a failure of the store, which may have kept
// the octets or not; the next offer asks it.
func (r *request) lost(s *slot, err error) *mail.Failure {
	r.s.open.end(s)
	return storeFailure(err)
}

// commit asks for the responsibility to move (xep-draft section 5.4).
func (r *request) commit(ctx context.Context, p *wire.Element) (*answer, *mail.Failure) {
	s, f := r.takeByTID(ctx, p)
	if f != nil {
		return nil, f
	}
	defer r.s.open.done(s)
	o := s.open
	if o == nil {
		return &answer{kind: unknown, tid: s.key.ID}, nil
	}
	if at := o.scan.Size(); at < o.offer.size {
		return &answer{kind: next, tid: s.key.ID, next: at}, nil
	}
	if f := r.answerable(s.key.ID, o.offer.rcpts); f != nil {
		return nil, f // it stays open for a stream that takes the answer
	}
	held := s.held()
	defer r.s.open.end(s)
	if f := verify(o.scan, o.offer); f != nil {
		r.s.tally.add(countWrongContent)
		r.forget(ctx, held)
		return nil, f
	}
	if !r.accept(ctx, held, o.offer, o.scan, nil, o.rcpts, o.pending) {
		return r.takenOver(s), nil
	}
	ans := settled(s.key.ID, o.rcpts)
	if ans.kind != accepted {
		r.forget(ctx, held)
	}
	return ans, nil
}

// takeByTID takes the slot of a request that has nothing but its tid.
func (r *request) takeByTID(ctx context.Context, p *wire.Element) (*slot, *mail.Failure) {
	tid, f := decodeTID(p)
	if f != nil {
		return nil, f
	}
	return r.s.open.take(ctx, r.key(tid))
}

// forget drops what the store holds of a transfer. What stays behind when that
// fails outlives its retention only.
func (r *request) forget(ctx context.Context, k store.TransferKey) {
	if err := r.s.cfg.Transfers.TransferAbort(ctx, k); err != nil {
		r.s.cfg.Log.Warn("open transfer not removed", "peer", k.Domain, "err", err)
	}
}

// abort gives an open transfer up (xep-draft section 5.5).
func (r *request) abort(ctx context.Context, p *wire.Element) (*answer, *mail.Failure) {
	s, f := r.takeByTID(ctx, p)
	if f != nil {
		return nil, f
	}
	defer r.s.open.done(s)
	r.s.open.end(s)
	r.forget(ctx, s.key)
	return nil, nil
}

// status tells what became of a transfer (xep-draft section 5.5).
func (r *request) status(ctx context.Context, p *wire.Element) (*answer, *mail.Failure) {
	tid, rcpts, f := decodeStatus(p)
	if f != nil {
		return nil, f
	}
	if f := r.answerable(tid, rcpts); f != nil {
		return nil, f
	}
	// In the slot's turn, so that an acceptance under way is waited for.
	s, f := r.s.open.take(ctx, r.key(tid))
	if f != nil {
		return nil, f
	}
	defer r.s.open.done(s)
	known, err := r.s.cfg.Transfers.Lookup(ctx, s.key)
	if err != nil {
		return nil, storeFailure(err)
	}
	ans := &answer{kind: accepted, tid: tid}
	for _, rc := range rcpts {
		if id := known.Accepted[rc.Address]; rc.bad == nil && id != "" {
			ans.rcpts = append(ans.rcpts, verdict{to: rc.to, queueID: string(id)})
		}
	}
	switch {
	case len(ans.rcpts) > 0:
		return ans, nil
	case known.Open:
		return r.readyAt(tid, known.Next, nil), nil
	}
	return &answer{kind: unknown, tid: tid}, nil
}

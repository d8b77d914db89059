package transfer

import (
	"context"
	"errors"
	"fmt"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
	"mailxmppd/xmpp/stream"
)

// maxRounds bounds how often one attempt goes back without having got further:
// to an earlier offset, or to a new offer. maxOffers bounds its offers in all.
const (
	maxRounds = 4
	maxOffers = 64
)

// errForgotten says that the peer has no offer for the transfer any more.
var errForgotten = errors.New("peer does not know the transfer any more")

// useBulk goes on over the link for bulk: with all of a transfer, since the
// peer's node that has the offer is the one that knows of it.
func (t *attempt) useBulk(ctx context.Context) {
	links, ok := t.s.cfg.Links.(BulkLinks)
	if !ok || t.bulk {
		return
	}
	t.bulk = true
	if l, err := links.Bulk(ctx, t.a.Local, t.a.Domain); err == nil {
		t.link = l
	}
}

// offerChunks offers a message whose content follows in chunks (xep-draft
// section 5.3). Where the stream is cut, or the peer was started again, it is
// offered again and goes on from what the peer holds (section 5.5).
func (t *attempt) offerChunks(ctx context.Context, b *batch) {
	held, rounds := int64(0), 0
	var last error
	for range maxOffers {
		ans, err := t.offerOnce(ctx, b)
		switch {
		case err != nil && t.reconnected(ctx, err):
			last = err
		case err != nil:
			t.fail(b, t.failure(err)) // nothing has moved yet
			return
		case ans.kind != ready:
			t.conclude(b, ans, nil)
			return
		case !ans.matches(b.rcpts) || ans.next > t.a.Facts.Size:
			t.fail(b, t.malformed("ready does not fit its offer"))
			return
		default:
			if ans.next > held {
				held, rounds = ans.next, 0
			}
			var again bool
			if again, last = t.transfer(ctx, b, ans); !again {
				return
			}
		}
		if rounds++; rounds >= maxRounds {
			break
		}
	}
	if errors.Is(last, errForgotten) {
		t.fail(b, t.malformed(last.Error()))
		return
	}
	t.fail(b, t.failure(last))
}

// offerOnce writes the offer anew each time: what is left of a deadline runs
// down (RFC 2852 section 4).
func (t *attempt) offerOnce(ctx context.Context, b *batch) (*answer, error) {
	if tooLate(t.env) {
		return nil, mail.Fail(mail.Expired, "", nil)
	}
	buf := t.s.buffers.Get().(*[]byte)
	defer t.s.buffers.Put(buf)
	e := t.startOffer((*buf)[:0], b)
	e.End()
	payload, err := e.Bytes()
	if err != nil {
		return nil, mail.Fail(mail.NotAcceptable, "envelope cannot be written in XML", err).WithStatus("5.6.0")
	}
	*buf = payload[:0]
	faults.Point("xmpp.before-offer")
	return t.request(ctx, "set", payload, t.a.Transfer)
}

// reconnected reports whether err was a cut of the stream and there is one
// again. Then the same request may be made there, if it moves no
// responsibility.
func (t *attempt) reconnected(ctx context.Context, err error) bool {
	cut := errors.Is(err, stream.ErrClosed) || errors.Is(err, stream.ErrNotSent)
	if !cut || ctx.Err() != nil {
		return false
	}
	link, _, err := t.s.cfg.Links.Link(ctx, t.a.Local, t.a.Domain)
	if err != nil {
		return false
	}
	t.link, t.bulk = link, false
	t.useBulk(ctx)
	return true
}

// transfer sends the content from where the peer wants it and commits.
// again tells that the message is to be offered again, and why; otherwise the
// batch is settled.
func (t *attempt) transfer(ctx context.Context, b *batch, r *answer) (again bool, why error) {
	at, size := r.next, t.a.Facts.Size
	for round := 0; round < maxRounds; {
		before := at
		var err error
		at, err = t.sendChunks(ctx, at, r)
		if err == nil && at >= size {
			var ans *answer
			ans, err = t.commit(ctx)
			if err == nil && ans.kind == unknown {
				err = errForgotten
			}
			// A commit that certainly never left is as good as none.
			if err != nil && !errors.Is(err, errForgotten) && !errors.Is(err, stream.ErrNotSent) || err == nil && ans.kind != next {
				t.conclude(b, ans, err)
				return false, nil
			}
			if err == nil {
				at = ans.next
			}
		}
		switch {
		case errors.Is(err, errForgotten), err != nil && t.reconnected(ctx, err):
			return true, err
		case err != nil:
			f := t.failure(err)
			if f.Class == mail.Permanent {
				t.abort(ctx)
			}
			t.fail(b, f)
			return false, nil
		case at <= before || at >= size:
			round++
		}
		if at > size {
			break
		}
	}
	t.fail(b, t.malformed("peer does not get the content together"))
	return false, nil
}

// commit asks the peer to take responsibility (xep-draft section 5.4).
func (t *attempt) commit(ctx context.Context) (*answer, error) {
	payload, err := encodeTID("commit", t.a.Transfer)
	if err != nil {
		return nil, err
	}
	faults.Point("xmpp.before-commit")
	return t.request(ctx, "set", payload, t.a.Transfer)
}

// abort lets the peer forget the content. Whether it hears it does not matter.
func (t *attempt) abort(ctx context.Context) {
	payload, err := encodeTID("abort", t.a.Transfer)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, t.s.cfg.RequestTimeout)
	defer cancel()
	if _, err := t.link.Request(ctx, "set", payload); err != nil {
		t.s.cfg.Log.Debug("abort not answered", "peer", t.a.Domain, "err", err)
	}
}

// chunkTags bounds the octets of a chunk besides its base64.
const chunkTags = 192

// chunkSize is what one chunk may hold: what we like, what the peer wants and
// what fits into its stanzas.
func (t *attempt) chunkSize(r *answer) int {
	fits := (t.link.MaxStanza() - t.around() - chunkTags) / 4 * 3
	return min(t.s.cfg.Chunk, r.chunk, t.caps.MaxChunk, fits)
}

// sendChunks sends the content from an offset on, a window of chunks in
// flight, and returns how far the peer then says to be. Chunks leave in about
// the order of their offsets; the peer puts them in order.
func (t *attempt) sendChunks(ctx context.Context, from int64, r *answer) (int64, error) {
	size := t.chunkSize(r)
	if size < 1 {
		return from, fmt.Errorf("peer's stanzas are too small for chunks")
	}
	content, err := openAt(t.a.Content, from)
	if err != nil {
		return from, mail.AsFailure(err)
	}
	defer content.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &window{free: make(chan struct{}, min(t.s.cfg.Window, r.window, t.caps.Window)), stop: cancel, at: t.a.Facts.Size}
	for at := from; at < t.a.Facts.Size && w.enter(ctx); {
		n := int(min(int64(size), t.a.Facts.Size-at))
		payload, err := t.nextChunk(content, at, n)
		if err != nil {
			w.leave(0, 0, mail.AsFailure(err))
			break
		}
		end := at + int64(n)
		w.flying.Go(func() {
			stands, err := t.sendChunk(ctx, payload)
			w.leave(end, stands, err)
		})
		at = end
	}
	w.flying.Wait()
	if w.err == nil && !w.behind {
		w.err = ctx.Err() // whoever called us gave up
	}
	return w.at, w.err
}

// nextChunk makes the payload of the chunk at an offset, in a buffer of the
// pool.
func (t *attempt) nextChunk(content *pieces, at int64, n int) (*[]byte, error) {
	buf := t.s.buffers.Get().(*[]byte)
	defer t.s.buffers.Put(buf)
	piece, err := content.next(buf, n)
	if err != nil {
		return nil, err
	}
	out := t.s.buffers.Get().(*[]byte)
	payload, err := encodeChunk((*out)[:0], t.a.Transfer, at, piece)
	if err == nil {
		*out = payload
	}
	return out, err
}

func (t *attempt) sendChunk(ctx context.Context, payload *[]byte) (stands int64, err error) {
	ans, err := t.request(ctx, "set", *payload, t.a.Transfer)
	*payload = (*payload)[:0]
	t.s.buffers.Put(payload)
	switch {
	case err != nil:
		return 0, err
	case ans.kind == unknown:
		return 0, errForgotten
	case ans.kind != next:
		return 0, t.malformed("unexpected " + string(ans.kind) + " to a chunk")
	}
	faults.Point("xmpp.chunk-sent")
	return ans.next, nil
}

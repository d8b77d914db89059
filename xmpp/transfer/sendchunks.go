package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"mailxmppd/mail"
	"mailxmppd/mail/faults"
)

// maxRounds bounds how often one attempt goes back: to an earlier offset
// without having got further, or to a new offer.
const maxRounds = 4

// errForgotten says that the peer has no offer for the transfer any more.
var errForgotten = errors.New("peer does not know the transfer any more")

// offerChunks offers a message whose content follows in chunks (xep-draft
// section 5.3). A peer that was started again meanwhile gets the offer again.
func (t *attempt) offerChunks(ctx context.Context, b *batch, payload []byte) {
	for range maxRounds {
		faults.Point("xmpp.before-offer")
		ans, err := t.request(ctx, "set", payload, t.a.Transfer)
		switch {
		case err != nil:
			t.fail(b, t.failure(err)) // nothing has moved yet
			return
		case ans.kind != ready:
			t.conclude(b, ans, nil)
			return
		case !ans.matches(b.rcpts) || ans.next > t.a.Facts.Size:
			t.fail(b, t.malformed("ready does not fit its offer"))
			return
		}
		if !t.transfer(ctx, b, ans) {
			return
		}
	}
	t.fail(b, t.malformed(errForgotten.Error()))
}

// transfer sends the content from where the peer wants it and commits.
// again tells that the message is to be offered again; otherwise the batch is
// settled.
func (t *attempt) transfer(ctx context.Context, b *batch, r *answer) (again bool) {
	at, size := r.next, t.a.Facts.Size
	for round := 0; round < maxRounds; {
		before := at
		var err error
		at, err = t.sendChunks(ctx, at, r)
		if err == nil && at >= size {
			var ans *answer
			if ans, err = t.commit(ctx); err != nil || ans.kind != next && ans.kind != unknown {
				t.conclude(b, ans, err)
				return false
			}
			if ans.kind == unknown {
				return true
			}
			at = ans.next
		}
		switch {
		case errors.Is(err, errForgotten):
			return true
		case err != nil:
			f := t.failure(err)
			if f.Class == mail.Permanent {
				t.abort(ctx)
			}
			t.fail(b, f)
			return false
		case at <= before || at >= size:
			round++
		}
		if at > size {
			break
		}
	}
	t.fail(b, t.malformed("peer does not get the content together"))
	return false
}

// commit asks the peer to take responsibility (xep-draft section 5.4).
func (t *attempt) commit(ctx context.Context) (*answer, error) {
	payload, err := encodeTID("commit", t.a.Transfer)
	if err != nil {
		return nil, err
	}
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
	content, err := t.a.Content.Open()
	if err != nil {
		return from, mail.AsFailure(err)
	}
	defer content.Close()
	if err := skip(content, from); err != nil {
		return from, mail.AsFailure(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &window{free: make(chan struct{}, min(t.s.cfg.Window, r.window, t.caps.Window)), stop: cancel, at: t.a.Facts.Size}
	for at := from; at < t.a.Facts.Size && w.enter(ctx); {
		n := int(min(int64(size), t.a.Facts.Size-at))
		payload, err := t.readChunk(content, at, n)
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

// skip passes over the first n octets.
func skip(r io.Reader, n int64) error {
	if s, ok := r.(io.Seeker); ok {
		_, err := s.Seek(n, io.SeekStart)
		return err
	}
	_, err := io.CopyN(io.Discard, r, n)
	return err
}

// readChunk makes the payload of the chunk at an offset, in a buffer of the
// pool.
func (t *attempt) readChunk(content io.Reader, at int64, n int) (*[]byte, error) {
	buf := t.s.buffers.Get().(*[]byte)
	defer t.s.buffers.Put(buf)
	piece := grow(buf, n)
	if _, err := io.ReadFull(content, piece); err != nil {
		return nil, fmt.Errorf("content is shorter than its size: %w", err)
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
	return ans.next, nil
}

// window counts the chunks in flight and keeps what came of them.
type window struct {
	free   chan struct{}
	flying sync.WaitGroup
	stop   context.CancelFunc // releases the chunks in flight

	mu     sync.Mutex
	at     int64 // the least offset that the peer has told where it was behind; else the size
	behind bool
	err    error // the first
}

// enter waits for room; false when there is no use in sending on.
func (w *window) enter(ctx context.Context) bool {
	select {
	case w.free <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err == nil && !w.behind
}

// leave enters what came of the chunk that ended at an offset.
func (w *window) leave(end, stands int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && w.err == nil:
		w.err = err
		w.stop()
	case err == nil && stands < end:
		w.behind = true
		w.at = min(w.at, stands)
	}
	<-w.free
}

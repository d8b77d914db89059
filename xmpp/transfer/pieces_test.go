package transfer

import (
	"context"
	"errors"
	"testing"
)

// TestPieceNotTaken holds that the memory of a chunk goes back to its stream
// only when the store has taken it: a store whose answer was a failure may
// still be reading.
func TestPieceNotTaken(t *testing.T) {
	x := newSetup()
	content := text(3000)
	x.ask(t, montague, "set", offerXML(content, false, nil, ""))
	send := func(offset, end int) []byte {
		el := parse(t, chunkXML(tid1, offset, content[offset:end]))
		x.server.handle(context.Background(), montague, "set", el)
		return el.Text
	}
	if send(0, 1000) == nil {
		t.Error("a piece that was taken is not given back")
	}
	x.store.mu.Lock()
	x.store.fail = errors.New("disk on fire")
	x.store.mu.Unlock()
	if send(1000, 2000) != nil {
		t.Error("a piece that the store may still be reading is given back")
	}
	x.store.mu.Lock()
	x.store.fail = nil
	x.store.mu.Unlock()
	if send(1000, 2000) != nil {
		t.Error("a piece of a transfer that is not open is given back")
	}
}

package storetest

import (
	"bytes"
	"fmt"
	"io"
	"strings"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func contentTests() []test {
	return []test{
		{"content comes back octet for octet", testContentSizes},
		{"content goes with the last delivery", testContentGoes},
		{"a reader never ends early", testReaderCut},
		{"content of another length than it says is refused", testContentLies},
		{"there is no content of unknown messages", testNoContent},
	}
}

func testContentSizes(b *fixture) {
	for _, n := range []int{0, 1, 10_000, store.PieceSize - 1, store.PieceSize, store.PieceSize + 1,
		2 * store.PieceSize, 3*store.PieceSize + 12345} {
		m := b.messageOf(octets(n), "romeo@montague.example")
		b.put(m)
		b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
		r := b.show(m.ID)
		equal(b, "size", r.Size, int64(n))
		equal(b, "hash", r.SHA256, fmt.Sprintf("%x", m.Facts.SHA256))
		l := b.claimOne()
		equal(b, "facts", l.Facts, m.Facts)
		b.settle(b.begin(l), delivered())
	}
}

func testContentGoes(b *fixture) {
	for _, n := range []int{100, 3 * store.PieceSize} {
		m := b.messageOf(octets(n), "a@montague.example", "b@capulet.example", "c@verona.example")
		b.put(m)
		leases := b.claim(10)
		b.settle(b.begin(leases[0]), delivered())
		b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
		b.settle(b.begin(leases[1]), bounced())
		b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
		b.settle(b.begin(leases[2]), delivered())
		_, err := b.s.OpenContent(b.ctx, m.ID)
		b.is(err, store.ErrNotFound)
		equal(b, "deliveries that are remembered", len(b.show(m.ID).Deliveries), 3)
	}
}

func testReaderCut(b *fixture) {
	for _, n := range []int{100, 4 * store.PieceSize} {
		m := b.messageOf(octets(n), "romeo@montague.example")
		b.put(m)
		r, err := b.s.OpenContent(b.ctx, m.ID)
		b.ok(err)
		start := make([]byte, 10)
		_, err = io.ReadFull(r, start)
		b.ok(err)
		b.settle(b.begin(b.claimOne()), delivered())
		rest, err := io.ReadAll(r)
		if got := append(start, rest...); err == nil && !bytes.Equal(got, m.Content.(mail.Bytes)) {
			b.Errorf("reading ended well after %d of %d octets", len(got), n)
		}
		b.ok(r.Close())
	}
}

// liar is content that says another size than it has.
type liar struct {
	mail.Bytes
	says int64
}

func (l liar) Size() int64 { return l.says }

func testContentLies(b *fixture) {
	for _, c := range []liar{
		{mail.Bytes("short"), 6}, {mail.Bytes("long"), 3}, {mail.Bytes("some"), 0},
		{octets(2 * store.PieceSize), 2*store.PieceSize + 1}, {octets(2 * store.PieceSize), 2*store.PieceSize - 1},
	} {
		m := b.message("romeo@montague.example")
		m.Content = c
		if _, err := b.s.PutMessage(b.ctx, m); err == nil || !strings.Contains(err.Error(), "content") {
			b.Errorf("%d octets that say they are %d: %v", len(c.Bytes), c.says, err)
		}
		_, err := b.s.Show(b.ctx, m.ID)
		b.is(err, store.ErrNotFound)
	}
}

func testNoContent(b *fixture) {
	_, err := b.s.OpenContent(b.ctx, mail.NewID())
	b.is(err, store.ErrNotFound)
	_, err = b.s.OpenTransfer(b.ctx, key("t"))
	b.is(err, store.ErrNotFound)
}

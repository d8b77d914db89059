package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"

	"golang.org/x/sync/errgroup"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func turnTests() []test {
	return []test{
		{"an open transfer belongs to who began it last", testTurns},
		{"an old token does not come back after an abort", testTurnAfterAbort},
		{"nodes that take a transfer from each other never mix its octets", testTurnsTogether},
	}
}

// begin begins or takes up a transfer and returns the key to go on with.
func (b *fixture) beginTransfer(k store.TransferKey, p []byte) (store.TransferKey, int64) {
	b.Helper()
	t, err := b.s.TransferBegin(b.ctx, k, hashOf(p))
	b.ok(err)
	if t.Turn == 0 {
		b.Fatal("no fencing token")
	}
	k.Turn = t.Turn
	return k, t.Next
}

func testTurns(b *fixture) {
	p := octets(100)
	first, _ := b.beginTransfer(key("t"), p)
	b.send(first, p[:40], 40)
	second, next := b.beginTransfer(key("t"), p)
	equal(b, "taken up at", next, 40)

	_, err := b.s.Append(b.ctx, first, 40, p[40:50])
	b.is(err, store.ErrLeaseLost)
	b.send(second, p, 60)
	m := b.messageOf(p, "romeo@montague.example")
	m.Content = nil
	_, _, err = b.s.Accept(b.ctx, first, hashOf(p), m)
	b.is(err, store.ErrLeaseLost)
	b.ok(b.s.TransferAbort(b.ctx, first)) // leaves it alone
	equal(b, "where it stands", b.lookup(key("t")).Next, 100)
	equal(b, "deliveries", len(b.list(store.Filter{Closed: true})), 0)

	_, _, err = b.s.Accept(b.ctx, second, hashOf(p), m)
	b.ok(err)
	b.sameContent(b.content(m.ID), p)
	again := b.messageOf(p, "romeo@montague.example")
	again.Content = nil
	ids, _, err := b.s.Accept(b.ctx, first, hashOf(p), again) // needs no content
	b.ok(err)
	equal(b, "asked again: accepted under", ids[0], m.ID)
}

func testTurnAfterAbort(b *fixture) {
	p := octets(100)
	old, _ := b.beginTransfer(key("t"), p)
	b.send(old, p[:40], 40)
	b.ok(b.s.TransferAbort(b.ctx, key("t")))
	anew, next := b.beginTransfer(key("t"), p)
	equal(b, "begun anew at", next, 0)
	b.send(anew, p[:40], 40)
	_, err := b.s.Append(b.ctx, old, 40, p[:10])
	b.is(err, store.ErrLeaseLost)
	b.ok(b.s.TransferAbort(b.ctx, anew))
	equal(b, "known", b.lookup(key("t")).Known, false)
}

// testTurnsTogether lets several nodes fight for one transfer, each with
// octets of its own. Whoever gets it accepted must find what it held when it
// took the transfer over, followed by its own octets, and nothing else.
func testTurnsTogether(b *fixture) {
	const nodes, size = 4, 20_000
	for round := range 5 {
		k := key(fmt.Sprint("t", round))
		h := hashOf(octets(size))
		won := make([][]byte, nodes)
		ids := make([]mail.ID, nodes)
		var g errgroup.Group
		for i := range nodes {
			m := b.messageOf(octets(size), "romeo@montague.example")
			m.Content = nil
			g.Go(func() (err error) {
				won[i], ids[i], err = fight(b.ctx, b.s, k, h, m, byte(i+1))
				return err
			})
		}
		b.ok(g.Wait())
		winners := 0
		for i, content := range won {
			if content != nil {
				winners++
				b.sameContent(b.content(ids[i]), content)
			}
		}
		equal(b, "winners", winners, 1)
		l := b.claimOne()
		b.settle(b.begin(l), delivered())
	}
}

// fight takes the transfer again and again, appends its mark, now and then
// starts from nothing, and ends when the message is accepted. content is nil
// when another did it.
func fight(ctx context.Context, s store.Store, k store.TransferKey, h store.ContentHash, m store.NewMessage, mark byte) (content []byte, id mail.ID, err error) {
	for {
		held, t, err := takeUp(ctx, s, k, h)
		if errors.Is(err, store.ErrNotFound) {
			continue // ended since it was begun
		}
		if err != nil || len(t.Accepted) > 0 {
			return nil, "", err
		}
		k.Turn = t.Turn
		for err == nil && int64(len(held)) < h.Size && rand.N(20) > 0 {
			p := bytes.Repeat([]byte{mark}, min(1+rand.N(3000), int(h.Size)-len(held)))
			if _, err = s.Append(ctx, k, int64(len(held)), p); err == nil {
				held = append(held, p...)
			}
		}
		if err == nil && rand.N(8) == 0 {
			err = s.TransferAbort(ctx, k)
		}
		if err == nil && int64(len(held)) == h.Size {
			var ids []mail.ID
			if ids, _, err = s.Accept(ctx, k, h, m); err == nil {
				if ids[0] != m.ID {
					return nil, "", nil
				}
				return held, m.ID, nil
			}
		}
		if err != nil && !errors.Is(err, store.ErrLeaseLost) && !errors.Is(err, store.ErrNotFound) {
			return nil, "", err
		}
	}
}

// takeUp begins or takes up the transfer and reads what it holds.
func takeUp(ctx context.Context, s store.Store, k store.TransferKey, h store.ContentHash) ([]byte, store.Transfer, error) {
	k = k.Name()
	t, err := s.TransferBegin(ctx, k, h)
	if err != nil || t.Next == 0 {
		return nil, t, err
	}
	r, err := s.OpenTransfer(ctx, k)
	if err != nil {
		return nil, t, err
	}
	defer r.Close()
	held := make([]byte, t.Next)
	if _, err := io.ReadFull(r, held); errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return nil, t, store.ErrNotFound // begun anew by another meanwhile
	} else if err != nil {
		return nil, t, err
	}
	return held, t, nil
}

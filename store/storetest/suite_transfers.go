package storetest

import (
	"crypto/sha256"
	"maps"
	"slices"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func transferTests() []test {
	return []test{
		{"an acceptance is remembered", testAccept},
		{"recipients accepted before get no second delivery", testRegrouped},
		{"one transfer id has one content", testConflict},
		{"transfer ids mean nothing outside their domains", testKeys},
		{"a recipient named twice is one", testNamedTwice},
		{"accepted messages are born leased like others", testAcceptLeased},
		{"an open transfer takes chunks where it stands", testChunks},
		{"an open transfer becomes a message", testCommit},
		{"chunks of any length make the same content", testChunkLengths},
		{"reading an open transfer ends where it stood", testReadWhileItGrows},
		{"an open transfer cannot grow past its size", testTooMuch},
		{"an incomplete transfer is not accepted", testIncomplete},
		{"an aborted transfer is forgotten", testAbort},
		{"what was accepted outlives an abort", testAbortAccepted},
	}
}

func key(id string) store.TransferKey {
	return store.TransferKey{Domain: "capulet.example", Local: "montague.example", ID: id}
}

func hashOf(p []byte) store.ContentHash {
	return store.ContentHash{Size: int64(len(p)), SHA256: sha256.Sum256(p)}
}

// accept accepts m, which carries its content, under k.
func (b *fixture) accept(k store.TransferKey, m store.NewMessage) []mail.ID {
	b.Helper()
	ids, _, err := b.s.Accept(b.ctx, k, hashOf(m.Content.(mail.Bytes)), m)
	b.ok(err)
	return ids
}

func (b *fixture) lookup(k store.TransferKey) store.Transfer {
	b.Helper()
	t, err := b.s.Lookup(b.ctx, k)
	b.ok(err)
	return t
}

func (b *fixture) acceptedIs(k store.TransferKey, want map[string]mail.ID) {
	b.Helper()
	m := map[mail.Address]mail.ID{}
	for rcpt, id := range want {
		m[address(b, rcpt)] = id
	}
	if got := b.lookup(k).Accepted; !maps.Equal(got, m) {
		b.Fatalf("accepted %v, want %v", got, m)
	}
}

func testAccept(b *fixture) {
	if t := b.lookup(key("t")); t.Known || t.Open || len(t.Accepted) != 0 {
		b.Fatalf("known before it came: %+v", t)
	}
	m := b.message("romeo@montague.example", `"a b"@montague.example`)
	if ids := b.accept(key("t"), m); !slices.Equal(ids, []mail.ID{m.ID, m.ID}) {
		b.Fatalf("accepted under %v, want %s", ids, m.ID)
	}
	b.acceptedIs(key("t"), map[string]mail.ID{"romeo@montague.example": m.ID, `"a b"@montague.example`: m.ID})
	t := b.lookup(key("t"))
	equal(b, "hash", t.Hash, hashOf(m.Content.(mail.Bytes)))
	equal(b, "open", t.Open, false)
	b.sameContent(b.content(m.ID), m.Content.(mail.Bytes))
	again := b.message("romeo@montague.example", `"a b"@montague.example`)
	if ids := b.accept(key("t"), again); !slices.Equal(ids, []mail.ID{m.ID, m.ID}) {
		b.Fatalf("asked again: accepted under %v, want %s", ids, m.ID)
	}
	_, err := b.s.Show(b.ctx, again.ID)
	b.is(err, store.ErrNotFound)
	l := b.claimOne()
	equal(b, "deliveries", len(l.Deliveries), 2)
	b.settle(b.begin(l), delivered())
	b.accept(key("t"), b.message("romeo@montague.example")) // after it is delivered, too
	equal(b, "due", len(b.claim(10)), 0)
}

func testRegrouped(b *fixture) {
	one := b.message("a@montague.example", "b@montague.example")
	b.accept(key("t"), one)
	two := b.message("b@montague.example", "c@montague.example", "a@montague.example")
	if ids := b.accept(key("t"), two); !slices.Equal(ids, []mail.ID{one.ID, two.ID, one.ID}) {
		b.Fatalf("accepted under %v", ids)
	}
	b.acceptedIs(key("t"), map[string]mail.ID{"a@montague.example": one.ID, "b@montague.example": one.ID, "c@montague.example": two.ID})
	got := map[string]int{}
	for _, l := range b.claim(10) {
		for _, d := range l.Deliveries {
			got[l.Envelope.Recipients[d.N].Address.String()]++
		}
	}
	if want := map[string]int{"a@montague.example": 1, "b@montague.example": 1, "c@montague.example": 1}; !maps.Equal(got, want) {
		b.Errorf("deliveries %v, want %v", got, want)
	}
	b.sameContent(b.content(two.ID), two.Content.(mail.Bytes))
}

func testConflict(b *fixture) {
	m := b.message("a@montague.example")
	b.accept(key("t"), m)
	other := b.messageOf([]byte("\r\nother\r\n"), "b@montague.example")
	_, _, err := b.s.Accept(b.ctx, key("t"), hashOf(other.Content.(mail.Bytes)), other)
	b.is(err, store.ErrConflict)
	_, err = b.s.TransferBegin(b.ctx, key("t"), hashOf(other.Content.(mail.Bytes)))
	b.is(err, store.ErrConflict)
	b.acceptedIs(key("t"), map[string]mail.ID{"a@montague.example": m.ID})
	equal(b, "deliveries", len(b.list(store.Filter{})), 1)

	_, err = b.s.TransferBegin(b.ctx, key("u"), hashOf(octets(10)))
	b.ok(err)
	_, err = b.s.TransferBegin(b.ctx, key("u"), hashOf(octets(11)))
	b.is(err, store.ErrConflict)
	_, _, err = b.s.Accept(b.ctx, key("u"), hashOf(other.Content.(mail.Bytes)), other)
	b.is(err, store.ErrConflict)
}

func testKeys(b *fixture) {
	m := b.message("a@montague.example")
	b.accept(key("t"), m)
	for _, k := range []store.TransferKey{
		{Domain: "mallory.example", Local: "montague.example", ID: "t"},
		{Domain: "capulet.example", Local: "verona.example", ID: "t"},
		{Domain: "capulet.example", Local: "montague.example", ID: "T"},
	} {
		equal(b, "known under another key", b.lookup(k).Known, false)
		other := b.messageOf([]byte("\r\nother\r\n"), "a@montague.example")
		if ids := b.accept(k, other); ids[0] != other.ID {
			b.Errorf("%+v: accepted under %v, want %s", k, ids, other.ID)
		}
	}
	equal(b, "deliveries", len(b.list(store.Filter{})), 4)
}

func testNamedTwice(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example", "a@montague.example")
	if ids := b.accept(key("t"), m); !slices.Equal(ids, []mail.ID{m.ID, m.ID, m.ID}) {
		b.Errorf("accepted under %v", ids)
	}
	equal(b, "deliveries", len(b.claimOne().Deliveries), 2)
}

func testAcceptLeased(b *fixture) {
	m := b.message("a@montague.example", "b@montague.example")
	b.accept(key("t"), b.message("a@montague.example"))
	b.claim(1)
	m.Lease = store.Own{Domains: []string{"montague.example"}, For: long}
	_, leases, err := b.s.Accept(b.ctx, key("t"), hashOf(m.Content.(mail.Bytes)), m)
	b.ok(err)
	if len(leases) != 1 || len(leases[0].Deliveries) != 1 || leases[0].Deliveries[0].N != 1 || leases[0].Deliveries[0].Attempt != 1 {
		b.Fatalf("leases %+v, want one of the new recipient", leases)
	}
	equal(b, "due", len(b.claim(10)), 0)
	b.settle(leases[0], delivered())
}

// send appends p in chunks of n from where the transfer stands.
func (b *fixture) send(k store.TransferKey, p []byte, n int) {
	b.Helper()
	at := b.lookup(k).Next
	for at < int64(len(p)) {
		chunk := p[at:min(at+int64(n), int64(len(p)))]
		next, err := b.s.Append(b.ctx, k, at, chunk)
		b.ok(err)
		equal(b, "next offset", next, at+int64(len(chunk)))
		at = next
	}
}

func testChunks(b *fixture) {
	p := octets(100_000)
	t, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	if !t.Known || !t.Open || t.Next != 0 || t.Hash != hashOf(p) {
		b.Fatalf("begun as %+v", t)
	}
	b.send(key("t"), p[:40_000], 7000)
	for _, offset := range []int64{0, 39_999, 40_001, 99_999, 1 << 40, -1} {
		next, err := b.s.Append(b.ctx, key("t"), offset, p[:10])
		b.ok(err)
		equal(b, "where it stands", next, 40_000)
	}
	t, err = b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	equal(b, "begun again at", t.Next, 40_000)
	r, err := b.s.OpenTransfer(b.ctx, key("t"))
	b.ok(err)
	b.sameContent(b.readAll(r), p[:40_000])
	_, err = b.s.Append(b.ctx, key("unknown"), 0, p[:10])
	b.is(err, store.ErrNotFound)
}

func testCommit(b *fixture) {
	for i, n := range []int{0, 1000, 3*store.PieceSize + 5} {
		k := key(string(rune('a' + i)))
		p := octets(n)
		_, err := b.s.TransferBegin(b.ctx, k, hashOf(p))
		b.ok(err)
		b.send(k, p, 100_000)
		m := b.messageOf(p, "romeo@montague.example")
		m.Content = nil
		ids, _, err := b.s.Accept(b.ctx, k, hashOf(p), m)
		b.ok(err)
		equal(b, "accepted under", ids[0], m.ID)
		t := b.lookup(k)
		if !t.Known || t.Open || t.Hash != hashOf(p) {
			b.Errorf("known after its end as %+v", t)
		}
		_, err = b.s.OpenTransfer(b.ctx, k)
		b.is(err, store.ErrNotFound)
		b.sameContent(b.content(m.ID), p)
		again := b.messageOf(p, "romeo@montague.example")
		again.Content = nil
		ids, _, err = b.s.Accept(b.ctx, k, hashOf(p), again)
		b.ok(err)
		equal(b, "asked again: accepted under", ids[0], m.ID)
		again.Envelope.Recipients[0].Address.Local = "benvolio"
		_, _, err = b.s.Accept(b.ctx, k, hashOf(p), again)
		b.is(err, store.ErrNotFound)
		l := b.claimOne()
		equal(b, "size", l.Facts.Size, int64(n))
		b.settle(b.begin(l), delivered())
		_, err = b.s.OpenContent(b.ctx, m.ID)
		b.is(err, store.ErrNotFound)
	}
}

func testChunkLengths(b *fixture) {
	for i, n := range []int{1, 4095, 4096, 6000, store.PieceSize - 1, store.PieceSize + 1, 2*store.PieceSize + 7} {
		k := key(string(rune('a' + i)))
		p := octets(n*40 + 3)
		if n > 10_000 {
			p = octets(n*2 + 3)
		}
		_, err := b.s.TransferBegin(b.ctx, k, hashOf(p))
		b.ok(err)
		b.send(k, p, n)
		r, err := b.s.OpenTransfer(b.ctx, k)
		b.ok(err)
		b.sameContent(b.readAll(r), p)
		m := b.messageOf(p, "romeo@montague.example")
		m.Content = nil
		_, _, err = b.s.Accept(b.ctx, k, hashOf(p), m)
		b.ok(err)
		b.sameContent(b.content(m.ID), p)
	}
}

func testReadWhileItGrows(b *fixture) {
	p := octets(store.PieceSize + 100)
	_, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.send(key("t"), p[:store.PieceSize], store.PieceSize)
	b.send(key("t"), p[:store.PieceSize+10], 10)
	r, err := b.s.OpenTransfer(b.ctx, key("t"))
	b.ok(err)
	b.send(key("t"), p, 90)
	b.sameContent(b.readAll(r), p[:store.PieceSize+10])
}

func testTooMuch(b *fixture) {
	p := octets(100)
	_, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.send(key("t"), p[:90], 90)
	if _, err := b.s.Append(b.ctx, key("t"), 90, p[:11]); err == nil {
		b.Error("a chunk past the end was taken")
	}
	equal(b, "where it stands", b.lookup(key("t")).Next, 90)
	b.send(key("t"), p, 100)
}

func testIncomplete(b *fixture) {
	p := octets(100)
	_, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.send(key("t"), p[:99], 50)
	m := b.messageOf(p, "romeo@montague.example")
	m.Content = nil
	if _, _, err := b.s.Accept(b.ctx, key("t"), hashOf(p), m); err == nil {
		b.Error("99 of 100 octets were accepted")
	}
	t := b.lookup(key("t"))
	if !t.Open || t.Next != 99 || len(t.Accepted) != 0 {
		b.Errorf("afterwards known as %+v", t)
	}
	equal(b, "deliveries", len(b.list(store.Filter{Closed: true})), 0)
	// The same message, sent whole meanwhile, ends it.
	m.Content = mail.Bytes(p)
	b.accept(key("t"), m)
	equal(b, "open", b.lookup(key("t")).Open, false)
	b.sameContent(b.content(m.ID), p)
}

func testAbort(b *fixture) {
	p := octets(3 * store.PieceSize)
	b.ok(b.s.TransferAbort(b.ctx, key("t"))) // nothing to forget
	_, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	b.send(key("t"), p[:2*store.PieceSize], 100_000)
	b.ok(b.s.TransferAbort(b.ctx, key("t")))
	equal(b, "known", b.lookup(key("t")).Known, false)
	_, err = b.s.OpenTransfer(b.ctx, key("t"))
	b.is(err, store.ErrNotFound)
	t, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(octets(10)))
	b.ok(err)
	equal(b, "begun anew at", t.Next, 0)
}

func testAbortAccepted(b *fixture) {
	m := b.message("a@montague.example")
	p := m.Content.(mail.Bytes)
	b.accept(key("t"), m)
	t, err := b.s.TransferBegin(b.ctx, key("t"), hashOf(p))
	b.ok(err)
	if !t.Open || len(t.Accepted) != 1 {
		b.Errorf("begun as %+v", t)
	}
	b.send(key("t"), p[:5], 5)
	b.ok(b.s.TransferAbort(b.ctx, key("t")))
	b.acceptedIs(key("t"), map[string]mail.ID{"a@montague.example": m.ID})
	equal(b, "open", b.lookup(key("t")).Open, false)
	b.sameContent(b.content(m.ID), p)
}

package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Fill puts something of every kind into an empty store: deliveries in every
// state and by every way there, transfers, acceptances, and what is known of
// peers and people. One attempt is left running.
func Fill(t *testing.T, s store.Store) {
	t.Helper()
	b := &fixture{T: t, s: s, ctx: t.Context()}
	b.fillStates()
	b.fillContents()
	b.fillTransfers()
	b.fillKnown()
}

// tried stores a message that is leased, its first attempt begun.
func (b *fixture) tried(rcpts ...string) (store.NewMessage, []store.Lease) {
	b.Helper()
	m := b.message(rcpts...)
	m.Lease = store.Own{For: long, Ways: map[string]store.Way{}}
	for _, r := range m.Envelope.Recipients {
		m.Lease.Domains = append(m.Lease.Domains, r.Address.Domain)
		m.Lease.Ways[r.Address.Domain] = store.WayXMPP
	}
	return m, b.put(m)
}

// waiting stores a message that is due in an hour.
func (b *fixture) waiting(rcpts ...string) store.NewMessage {
	b.Helper()
	m := b.message(rcpts...)
	m.First = make([]store.First, len(rcpts))
	for i := range m.First {
		m.First[i].Delay = time.Hour
	}
	b.put(m)
	return m
}

func (b *fixture) fillStates() {
	b.Helper()
	// Deferred twice, the second time in doubt, after a delay DSN.
	m, l := b.tried("romeo@montague.example", "benvolio@montague.example")
	b.settle(l[0], deferred(time.Hour, "4.4.1 no answer"))
	_, err := b.s.Retry(b.ctx, store.One(m.ID, -1, "nurse"))
	b.ok(err)
	again := deferred(2*time.Hour, "4.4.2 bad \"connection\"\x00\xff")
	again.InDoubt, again.Delayed = true, true
	b.settle(b.begin(b.claimOne()), again)

	// One message that came to different ends, and one that came to its end.
	_, ends := b.tried("a@delivered.example", "b@bounced.example", "c@expired.example", "d@deferred.example")
	b.settle(ends[0], delivered())
	b.settle(ends[1], bounced(), b.message("juliet@capulet.example"))
	b.settle(ends[2], store.Result{State: store.ExpiredSt, Outcome: deferred(0, "4.4.7 too late").Outcome})
	b.settle(ends[3], deferred(time.Hour, "4.2.2 full"))
	_, l = b.tried("done@delivered.example")
	b.settle(l[0], delivered())

	// Held, dropped, redirected; each of two recipients, and one of them.
	b.verb(b.s.Hold, store.One(b.waiting("a@held.example", "b@held.example").ID, 0, "nurse"))
	b.verb(b.s.Drop, store.One(b.waiting("a@dropped.example").ID, -1, "nurse"))
	b.verb(b.s.Drop, store.One(b.waiting("a@dropped.example", "b@dropped.example").ID, 1, "nurse"))
	next := b.waiting("a@redirected.example")
	b.verb(func(ctx context.Context, sel store.Selection) (int, error) {
		return b.s.Redirect(ctx, sel, "smtp://relay.example")
	}, store.One(next.ID, -1, "nurse"))
	unheld := b.waiting("a@unheld.example")
	b.verb(b.s.Hold, store.One(unheld.ID, -1, "nurse"))
	b.verb(b.s.Unhold, store.One(unheld.ID, -1, "nurse"))

	// Tried before it was stored.
	m = b.message("a@first.example", "b@first.example", "c@first.example")
	m.First = []store.First{
		{Done: true, Way: store.WayXMPP, Outcome: delivered().Outcome},
		{Delay: time.Hour, Way: store.WayXMPP, InDoubt: true, Outcome: deferred(0, "4.4.2 cut").Outcome},
		{Delay: time.Hour, Way: store.WaySMTP, Outcome: deferred(0, "4.3.1 later").Outcome},
	}
	b.put(m)
	b.put(b.message("due@due.example"))
	b.tried("running@running.example")
}

func (b *fixture) fillContents() {
	b.Helper()
	for _, size := range []int{0, 1, store.PieceSize, store.PieceSize + 1, 5*store.PieceSize/2 + 7} {
		m := b.messageOf(octets(size), "romeo@montague.example")
		m.First = []store.First{{Delay: 3 * time.Hour}}
		b.put(m)
	}
	m := b.messageOf(octets(2*store.PieceSize), "late@dropped.example")
	m.Trace = nil
	b.put(m)
	b.verb(b.s.Drop, store.One(m.ID, -1, "nurse"))
}

// The transfers that Fill leaves.
const (
	movedInline = "transfer in one"
	movedChunks = "transfer in chunks"
	movedOpen   = "open transfer"
)

func (b *fixture) fillTransfers() {
	b.Helper()
	b.accept(key(movedInline), b.message("a@taken.example", "b@taken.example"))
	content := octets(50_000)
	k := b.appended(movedChunks, content, len(content))
	m := b.messageOf(content, "c@taken.example")
	m.Content = nil
	_, _, err := b.s.Accept(b.ctx, k, hashOf(content), m)
	b.ok(err)
	b.appended(movedOpen, octets(60_000), 20_000)
}

// appended opens a transfer and brings the first upTo octets of its content.
func (b *fixture) appended(id string, content []byte, upTo int) store.TransferKey {
	b.Helper()
	k := key(id)
	tr, err := b.s.TransferBegin(b.ctx, k, hashOf(content))
	b.ok(err)
	k.Turn = tr.Turn
	for at := 0; at < upTo; at += 6000 {
		_, err := b.s.Append(b.ctx, k, int64(at), content[at:min(at+6000, upTo)])
		b.ok(err)
	}
	return k
}

func (b *fixture) fillKnown() {
	b.Helper()
	b.ok(b.s.PutPeer(b.ctx, store.Peer{Domain: "montague.example", Facts: []byte(`{"max":1}`)}))
	b.ok(b.s.PutPeer(b.ctx, store.Peer{Domain: "verona.example"}))
	b.ok(b.s.PutUser(b.ctx, store.User{Name: "juliet", Verifier: "v", Addresses: []string{"juliet@capulet.example", `"a,{}b"@capulet.example`, "@capulet.example"}}))
	b.ok(b.s.PutUser(b.ctx, store.User{Name: "nurse"}))
	b.ok(b.s.PutPolicy(b.ctx, "montague.example", []byte("mode: enforce"), time.Now().Add(24*time.Hour)))
	_, err := b.s.Key(b.ctx, "srs", []byte{0, 1, 0xff})
	b.ok(err)
	expiring := given("juliet@capulet.example", "tybalt@verona.example")
	expiring.Key, expiring.Expires = []byte{0, 7}, time.Now().Add(time.Hour).Truncate(time.Millisecond)
	b.putGrants(given("juliet@capulet.example", "romeo@montague.example"), expiring)
	_, err = b.s.Use(b.ctx, "report", "one", 1, time.Hour)
	b.ok(err)
	b.ok(b.s.PutContactKey(b.ctx, store.ContactKey{Owner: "juliet@capulet.example", Address: "romeo@montague.example",
		Fingerprint: "f00d", Kind: "openpgp", Origin: "imported", Name: "Romeo", Certificate: []byte{0, 9}}))
}

func (b *fixture) verb(do func(context.Context, store.Selection) (int, error), sel store.Selection) {
	b.Helper()
	n, err := do(b.ctx, sel)
	b.ok(err)
	if n == 0 {
		b.Fatalf("verb on %s changed nothing", sel.ID)
	}
}

// Read is all that a store tells of what Fill put in, as text to compare:
// stores with the same content give the same, whenever they are asked within
// some minutes.
func Read(t *testing.T, s store.Store) string {
	t.Helper()
	b := &fixture{T: t, s: s, ctx: t.Context()}
	var out bytes.Buffer
	show := func(what string, v any, err error) {
		b.Helper()
		b.ok(err)
		text, err := json.MarshalIndent(v, "", " ")
		b.ok(err)
		out.WriteString(what + ": " + string(text) + "\n")
	}
	last := mail.ID("")
	for _, e := range b.list(store.Filter{Closed: true}) {
		if e.ID == last {
			continue
		}
		last = e.ID
		show("message", timeless(b.show(e.ID)), nil)
		show("content", b.contentSum(e.ID), nil)
	}
	for _, id := range []string{movedInline, movedChunks, movedOpen} {
		tr := b.lookup(key(id))
		show(id, tr.Hash, nil)
		show("accepted", tr.Accepted, nil)
		show("held", tr.Next, nil)
	}
	r, err := b.s.OpenTransfer(b.ctx, key(movedOpen))
	b.ok(err)
	show("open transfer", sha256.Sum256(b.readAll(r)), nil)
	for _, domain := range []string{"montague.example", "verona.example"} {
		p, err := s.Peer(b.ctx, domain)
		p.Age, p.Seen, p.Facts = 0, p.Seen.UTC(), append([]byte{}, p.Facts...)
		show("peer", p, err)
	}
	users, err := s.Users(b.ctx)
	show("users", users, err)
	policy, err := s.GetPolicy(b.ctx, "montague.example")
	show("policy", policy, err)
	secret, err := s.Key(b.ctx, "srs", []byte("fresh"))
	show("key", secret, err)
	grants, err := s.FindGrants(b.ctx, store.GrantGiven, []string{"juliet@capulet.example"}, "montague.example", nil)
	show("grants", utc(grants), err)
	grants, err = s.FindGrants(b.ctx, store.GrantGiven, []string{"juliet@capulet.example"}, "verona.example", nil)
	show("grants", utc(grants), err)
	keys, err := s.ContactKeys(b.ctx, "juliet@capulet.example", "romeo@montague.example")
	for i := range keys {
		keys[i].Added, keys[i].Signed, keys[i].Expires = keys[i].Added.UTC(), keys[i].Signed.UTC(), keys[i].Expires.UTC()
	}
	show("contact keys", keys, err)
	used, err := s.Use(b.ctx, "report", "another", 1, time.Hour) // no room beside the one
	show("use", used, err)
	return out.String()
}

func utc(grants []store.Grant) []store.Grant {
	for i, g := range grants {
		grants[i].Created, grants[i].Expires = g.Created.UTC(), g.Expires.UTC()
	}
	return grants
}

// timeless takes out of a record what changes while one looks at it.
func timeless(r store.Record) store.Record {
	r.Stored, r.Attempts, r.Events = r.Stored.UTC(), append([]store.Try{}, r.Attempts...), append([]store.Event{}, r.Events...)
	for i, e := range r.Deliveries {
		hours := (time.Duration(e.DueSecs)*time.Second + time.Hour/2) / time.Hour
		r.Deliveries[i].AgeSecs, r.Deliveries[i].DueSecs, r.Deliveries[i].Settled = 0, int64(hours), e.Settled.UTC()
	}
	for i, a := range r.Attempts {
		r.Attempts[i].Began, r.Attempts[i].Ended = a.Began.UTC(), a.Ended.UTC()
	}
	for i, e := range r.Events {
		r.Events[i].At = e.At.UTC()
	}
	return r
}

// contentSum is the hash of a message's content; "" where it is gone.
func (b *fixture) contentSum(id mail.ID) string {
	b.Helper()
	r, err := b.s.OpenContent(b.ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return ""
	}
	b.ok(err)
	sum := sha256.Sum256(b.readAll(r))
	return hex.EncodeToString(sum[:])
}

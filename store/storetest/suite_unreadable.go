package storetest

import (
	"errors"
	"strings"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func unreadableTests() []test {
	return []test{
		{"what cannot be read is held and keeps nothing else back", testUnreadable},
		{"what cannot be read and was being tried is in doubt", testUnreadableDoubt},
		{"a delivery without a recipient in its envelope is held", testUnreadableRecipient},
		{"many that cannot be read hold nothing up for long", testUnreadableMany},
	}
}

// held says of a message's delivery that the store has put it aside.
func (b *fixture) held(id mail.ID, n int) {
	b.Helper()
	r := b.show(id)
	if r.Unreadable == "" {
		b.Fatal("the record does not say that the message cannot be read")
	}
	for _, d := range r.Deliveries {
		if d.N == n && (d.State != store.Held || !strings.Contains(d.Last, store.ErrUnreadable.Error())) {
			b.Fatalf("delivery %d is %s, last words %q", n, d.State, d.Last)
		}
	}
	for _, e := range r.Events {
		if e.N == n && e.Verb == "hold" && e.By == store.ByStore && strings.Contains(e.Detail, store.ErrUnreadable.Error()) {
			return
		}
	}
	b.Fatalf("no event of it: %+v", r.Events)
}

func testUnreadable(b *fixture) {
	for _, damage := range []struct{ column, value string }{
		{"envelope", `{"sender":"juliet@capulet.example","recipients":[{"addr`},
		{"envelope", `null`},
		{"envelope", `{"sender":7,"recipients":[{"address":"a@montague.example"}]}`},
		{"origin", ``},
	} {
		before, bad, after := b.message("a@montague.example"), b.message("a@montague.example", "b@capulet.example"), b.message("a@montague.example")
		for _, m := range []store.NewMessage{before, bad, after} {
			b.put(m)
		}
		b.opener.Damage(b.T, b.s, bad.ID, damage.column, damage.value)
		got := b.claim(10)
		if len(got) != 2 || got[0].ID != before.ID || got[1].ID != after.ID {
			b.Fatalf("%+v: claimed %d leases, want the two that can be read", damage, len(got))
		}
		equal(b, "due again", len(b.claim(10)), 0)
		b.held(bad.ID, 0)
		b.held(bad.ID, 1)
		listed := b.list(store.Filter{})
		equal(b, "listed", len(listed), 4)
		for _, f := range []store.Filter{{Sender: "juliet@capulet.example"}, {Sender: "@capulet.example"}, {Sender: "<>"}} {
			for _, e := range b.list(f) {
				if e.ID != bad.ID && f.Sender == "<>" {
					b.Fatalf("%s is listed under %s", e.ID, f.Sender)
				}
			}
		}
		_, err := b.s.Totals(b.ctx, store.Filter{Sender: "@capulet.example"}, 10)
		b.ok(err)
		_, err = b.s.Seize(b.ctx, bad.ID, -1, "me", long)
		b.is(err, store.ErrUnreadable)
		equal(b, "state after the refused seizure", b.state(bad.ID, 0), store.Held)
		b.did(2)(b.s.Unhold(b.ctx, all(bad)))
		equal(b, "claimed when let go", len(b.claim(10)), 0)
		b.held(bad.ID, 0)
		b.did(2)(b.s.Drop(b.ctx, all(bad)))
		for _, l := range got {
			b.settle(b.begin(l), delivered())
		}
	}
}

func testUnreadableDoubt(b *fixture) {
	m := b.message("a@montague.example")
	b.put(m)
	leases, err := b.s.Claim(b.ctx, 1, time.Millisecond, nil, 0)
	b.ok(err)
	b.beginBy(leases[0], store.WayXMPP)
	b.opener.Damage(b.T, b.s, m.ID, "envelope", "?")
	b.eventually("the lease runs out", func() bool {
		equal(b, "claimed", len(b.claim(10)), 0)
		return b.state(m.ID, 0) == store.Held
	})
	e := b.list(store.Filter{})[0]
	equal(b, "sender", e.Sender, store.UnknownSender)
	equal(b, "in doubt", e.InDoubt, true)
	equal(b, "by", e.DoubtWay, store.WayXMPP)
}

func testUnreadableRecipient(b *fixture) {
	m := b.message("a@montague.example", "b@capulet.example")
	b.put(m)
	b.opener.Damage(b.T, b.s, m.ID, "envelope", `{"sender":"","recipients":[{"address":"a@montague.example"}]}`)
	l := b.claimOne()
	equal(b, "domain", l.Domain, "montague.example")
	equal(b, "state of the other", b.state(m.ID, 1), store.Held)
	r := b.show(m.ID)
	if len(r.Events) != 1 || r.Events[0].N != 1 || !strings.Contains(r.Events[0].Detail, "1 recipients") {
		b.Fatalf("events %+v", r.Events)
	}
	b.settle(b.begin(l), delivered())
}

func testUnreadableMany(b *fixture) {
	for range 12 {
		m := b.message("a@montague.example")
		b.put(m)
		b.opener.Damage(b.T, b.s, m.ID, "origin", "[")
	}
	good := b.message("a@montague.example")
	b.put(good)
	for range 4 {
		leases := b.claim(4)
		if len(leases) == 1 && leases[0].ID == good.ID {
			return
		}
		equal(b, "claimed", len(leases), 0)
	}
	b.Fatal(errors.New("the message behind them is never claimed"))
}

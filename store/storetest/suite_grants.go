package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"mailxmppd/store"
)

func grantTests() []test {
	return []test{
		{"grants are kept", testGrants},
		{"grants are found by either side", testFindGrants},
		{"grants end when they expire", testGrantsExpire},
		{"new grants stay within their bounds", testGrantBounds},
		{"a fresh grant is stored once", testFreshGrants},
		{"what a peer has heard of is noted for that version", testToldGrants},
	}
}

func given(recipient, author string) store.Grant {
	_, peer, _ := cutAddress(author)
	return store.Grant{GrantName: store.GrantName{Kind: store.GrantGiven, Recipient: recipient, Author: author},
		Peer: peer, State: store.Granted, Origin: store.ByOperator}
}

func cutAddress(s string) (local, domain string, ok bool) {
	i := bytes.LastIndexByte([]byte(s), '@')
	return s[:max(i, 0)], s[i+1:], i >= 0
}

func (b *fixture) putGrants(grants ...store.Grant) {
	b.Helper()
	for _, g := range grants {
		b.ok(b.s.PutGrant(b.ctx, g, store.GrantBounds{}))
	}
}

// named compares grants by recipient and author.
func (b *fixture) named(what string, grants []store.Grant, want ...string) {
	b.Helper()
	var got []string
	for _, g := range grants {
		got = append(got, g.Recipient+" "+g.Author)
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		b.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func (b *fixture) grants(f store.GrantFilter) []store.Grant {
	b.Helper()
	if f.Limit == 0 {
		f.Limit = 100
	}
	grants, err := b.s.Grants(b.ctx, f)
	b.ok(err)
	return grants
}

func testGrants(b *fixture) {
	want := given("romeo@montague.example", "juliet@capulet.example")
	b.is(b.s.DeleteGrant(b.ctx, want.GrantName), store.ErrNotFound)
	b.named("an empty store", b.grants(store.GrantFilter{Kind: store.GrantGiven}))
	want.Key, want.Text = []byte("0123456789abcdef"), "wherefore \u00e9"
	want.Expires = time.Now().Add(24 * time.Hour).Truncate(time.Millisecond).UTC()
	other := given("nurse@montague.example", "@capulet.example")
	asked := want
	asked.Kind = store.GrantAsked
	b.putGrants(want, other, asked)

	want.State, want.Origin, want.Key = store.Revoked, store.ByRecipient, []byte("another key that is longer")
	b.putGrants(want)
	b.killed() // all of that was durable
	got := b.grants(store.GrantFilter{Kind: store.GrantGiven, Recipient: want.Recipient})
	if len(got) != 1 || time.Since(got[0].Created).Abs() > time.Hour {
		b.Fatalf("got %+v", got)
	}
	equal(b, "version", got[0].Version, 2)
	equal(b, "expiry", got[0].Expires, want.Expires)
	got[0].Version, got[0].Created = 0, time.Time{}
	if fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", want) {
		b.Errorf("got %+v, want %+v", got[0], want)
	}
	b.named("given ones", b.grants(store.GrantFilter{Kind: store.GrantGiven}),
		"romeo@montague.example juliet@capulet.example", "nurse@montague.example @capulet.example")
	first := b.grants(store.GrantFilter{Kind: store.GrantGiven, Limit: 1})
	b.named("the first page", first, "nurse@montague.example @capulet.example")
	if !first[0].Expires.IsZero() {
		b.Errorf("what never expires expires at %s", first[0].Expires)
	}
	b.named("the page after it", b.grants(store.GrantFilter{Kind: store.GrantGiven, After: first[0].GrantName}),
		"romeo@montague.example juliet@capulet.example")
	b.named("the page after the last of a recipient", b.grants(store.GrantFilter{Kind: store.GrantGiven, Recipient: other.Recipient, After: other.GrantName}))

	b.ok(b.s.DeleteGrant(b.ctx, want.GrantName))
	b.named("given ones", b.grants(store.GrantFilter{Kind: store.GrantGiven}), "nurse@montague.example @capulet.example")
	b.named("asked ones", b.grants(store.GrantFilter{Kind: store.GrantAsked}), "romeo@montague.example juliet@capulet.example")
}

func testFindGrants(b *fixture) {
	b.putGrants(
		given("romeo@montague.example", "juliet@capulet.example"), given("romeo@montague.example", "nurse@capulet.example"),
		given("romeo@montague.example", "escalus@verona.example"), given("@montague.example", "@capulet.example"),
		given("benvolio@montague.example", "juliet@capulet.example"))
	find := func(recipients []string, peer string, authors []string, want ...string) {
		b.Helper()
		got, err := b.s.FindGrants(b.ctx, store.GrantGiven, recipients, peer, authors)
		b.ok(err)
		b.named(fmt.Sprint(recipients, peer, authors), got, want...)
	}
	romeo := []string{"romeo@montague.example", "@montague.example"}
	find(romeo, "capulet.example", []string{"juliet@capulet.example", "@capulet.example"},
		"romeo@montague.example juliet@capulet.example", "@montague.example @capulet.example")
	find(romeo, "capulet.example", nil, "romeo@montague.example juliet@capulet.example",
		"romeo@montague.example nurse@capulet.example", "@montague.example @capulet.example")
	find(romeo, "verona.example", []string{"juliet@capulet.example"}) // not of that peer
	find(romeo, "capulet.example", []string{})
	find([]string{"Romeo@montague.example", `ro"meo@montague.example`}, "capulet.example", nil) // compared as they are
	got, err := b.s.FindGrants(b.ctx, store.GrantHeld, romeo, "capulet.example", nil)
	b.ok(err)
	b.named("of another kind", got)

	asked, revoked, over := given("a@m.example", "a@asked.example"), given("a@m.example", "a@revoked.example"), given("a@m.example", "a@over.example")
	asked.Kind, revoked.State, over.Expires = store.GrantAsked, store.Revoked, time.Now().Add(-time.Hour)
	b.putGrants(asked, revoked, over)
	for _, c := range []struct {
		domains []string
		want    bool
	}{
		{[]string{"capulet.example"}, true}, {[]string{"sub.verona.example", "verona.example"}, true}, {nil, false},
		{[]string{"asked.example", "revoked.example", "over.example", "montague.example"}, false},
	} {
		ok, err := b.s.AnyGrant(b.ctx, store.GrantGiven, store.Granted, c.domains)
		b.ok(err)
		if ok != c.want {
			b.Errorf("anybody of %v: %v", c.domains, ok)
		}
	}
	for domain, want := range map[string]bool{"revoked.example": true, "over.example": false, "asked.example": false} {
		ok, err := b.s.AnyGrant(b.ctx, store.GrantGiven, "", []string{domain})
		b.ok(err)
		if ok != want {
			b.Errorf("anything about %s: %v", domain, ok)
		}
	}
}

func testGrantsExpire(b *fixture) {
	// Hours away from now: the store's clock need not be ours to the second.
	over, soon := given("romeo@montague.example", "a@capulet.example"), given("romeo@montague.example", "b@capulet.example")
	over.Expires, soon.Expires = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	b.putGrants(over, soon, given("romeo@montague.example", "c@capulet.example"))
	left := []string{"romeo@montague.example b@capulet.example", "romeo@montague.example c@capulet.example"}
	b.named("listed", b.grants(store.GrantFilter{Kind: store.GrantGiven}), left...)
	b.named("listed of one", b.grants(store.GrantFilter{Kind: store.GrantGiven, Recipient: over.Recipient}), left...)
	b.named("untold", b.grants(store.GrantFilter{Kind: store.GrantGiven, Untold: true}), left...)
	got, err := b.s.FindGrants(b.ctx, store.GrantGiven, []string{over.Recipient}, over.Peer, nil)
	b.ok(err)
	b.named("found", got, left...)
	b.maintain(store.Retention{Acceptances: long, Transfers: long, Traces: long})
	b.is(b.s.DeleteGrant(b.ctx, over.GrantName), store.ErrNotFound)
	b.ok(b.s.DeleteGrant(b.ctx, soon.GrantName))
}

func testGrantBounds(b *fixture) {
	put := func(recipient, author string, origin store.GrantOrigin, bounds store.GrantBounds) error {
		g := given(recipient, author)
		g.Origin = origin
		return b.s.PutGrant(b.ctx, g, bounds)
	}
	two := store.GrantBounds{PerRecipient: 2}
	b.ok(put("a@m.example", "1@c.example", store.Automatic, two))
	b.ok(put("a@m.example", "2@c.example", store.Automatic, two))
	b.is(put("a@m.example", "3@c.example", store.Automatic, two), store.ErrTooMany)
	b.ok(put("a@m.example", "2@c.example", store.Automatic, two)) // is there already
	b.ok(put("a@m.example", "3@c.example", store.ByOperator, two))
	b.ok(put("b@m.example", "3@c.example", store.Automatic, two))
	b.is(put("c@m.example", "3@c.example", store.Automatic, store.GrantBounds{PerAuthor: 2}), store.ErrTooMany)
	b.ok(put("c@m.example", "3@c.example", store.Automatic, store.GrantBounds{PerAuthor: 3}))
	b.is(put("c@m.example", "4@c.example", store.Automatic, store.GrantBounds{PerPeer: 5}), store.ErrTooMany)
	b.ok(put("c@m.example", "4@d.example", store.Automatic, store.GrantBounds{PerPeer: 5}))

	expired := given("z@m.example", "1@e.example")
	expired.Expires = time.Now().Add(-time.Hour)
	b.putGrants(expired)
	b.ok(put("z@m.example", "2@e.example", store.ByOperator, store.GrantBounds{PerRecipient: 1, PerPeer: 1})) // expired ones do not count

	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { put("many@m.example", fmt.Sprint(i, "@f.example"), store.Automatic, two) })
	}
	all.Wait()
	b.is(put("many@m.example", "9@f.example", store.Automatic, two), store.ErrTooMany)
}

func testToldGrants(b *fixture) {
	g := given("romeo@montague.example", "juliet@capulet.example")
	b.putGrants(g)
	read := b.grants(store.GrantFilter{Kind: store.GrantGiven, Untold: true})
	b.named("untold", read, "romeo@montague.example juliet@capulet.example")
	b.putGrants(g) // stored anew while the peer was told
	b.ok(b.s.ToldGrant(b.ctx, g.GrantName, read[0].Version))
	read = b.grants(store.GrantFilter{Kind: store.GrantGiven, Untold: true, Recipient: g.Recipient})
	b.named("still untold", read, "romeo@montague.example juliet@capulet.example")
	b.ok(b.s.ToldGrant(b.ctx, g.GrantName, read[0].Version))
	b.named("told", b.grants(store.GrantFilter{Kind: store.GrantGiven, Untold: true}))
	b.named("told of one", b.grants(store.GrantFilter{Kind: store.GrantGiven, Untold: true, Recipient: g.Recipient}))
	b.named("there", b.grants(store.GrantFilter{Kind: store.GrantGiven, Recipient: g.Recipient}), "romeo@montague.example juliet@capulet.example")
	b.ok(b.s.ToldGrant(b.ctx, store.GrantName{Kind: store.GrantGiven, Recipient: "x", Author: "y"}, 1)) // gone meanwhile
}

func testFreshGrants(b *fixture) {
	fresh := store.GrantBounds{Fresh: true}
	g := given("juliet@capulet.example", "romeo@montague.example")
	g.Expires = time.Now().Add(-time.Hour)
	b.putGrants(g)
	g.Expires = time.Time{}
	g.Text = "first"
	b.ok(b.s.PutGrant(b.ctx, g, fresh)) // in the place of one that has expired
	g.Text = "second"
	b.is(b.s.PutGrant(b.ctx, g, fresh), store.ErrExists)
	if all := b.grants(store.GrantFilter{Kind: store.GrantGiven}); len(all) != 1 || all[0].Text != "first" {
		b.Errorf("%+v", all)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	stored := 0
	for i := range 10 {
		all.Go(func() {
			g := given("juliet@capulet.example", "paris@verona.example")
			g.Text = fmt.Sprint(i)
			err := b.s.PutGrant(b.ctx, g, fresh)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				stored++
			case !errors.Is(err, store.ErrExists):
				b.Error(err)
			}
		})
	}
	all.Wait()
	equal(b, "stored at the same time", stored, 1)
	b.is(b.s.PutGrant(b.ctx, given("nurse@capulet.example", "paris@verona.example"), store.GrantBounds{Fresh: true, PerAuthor: 1}), store.ErrTooMany)
}

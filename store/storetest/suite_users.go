package storetest

import (
	"errors"
	"reflect"
	"time"

	"mailxmppd/store"
)

// orFound is nil for an answer that the store has given although it was not to
// answer at all.
func orFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func testUsers(b *fixture) {
	known := func(want ...store.User) {
		b.Helper()
		users, err := b.s.Users(b.ctx)
		b.ok(err)
		if len(users) != len(want) || len(want) > 0 && !reflect.DeepEqual(users, want) {
			b.Errorf("users %+v, want %+v", users, want)
		}
	}
	known()
	_, err := b.s.User(b.ctx, "juliet")
	b.is(err, store.ErrNotFound)
	b.is(b.s.DeleteUser(b.ctx, "juliet"), store.ErrNotFound)

	juliet := store.User{Name: "juliet", Verifier: "$a$b", Addresses: []string{"juliet@capulet.example", "@verona.example", `"the \\nurse"@capulet.example`}}
	romeo := store.User{Name: "Romeo", Addresses: []string{}}
	foreign := store.User{Name: "\u00e9tienne@montague.example", Verifier: "x", Addresses: []string{"\u00e9@montague.example"}}
	for _, u := range []store.User{foreign, juliet, romeo} {
		b.ok(b.s.PutUser(b.ctx, u))
	}
	b.ok(b.s.PutUser(b.ctx, store.User{Name: "benvolio"})) // no addresses is an empty list
	known(romeo, store.User{Name: "benvolio", Addresses: []string{}}, juliet, foreign)
	_, err = b.s.User(b.ctx, "Juliet") // compared as they are
	b.is(err, store.ErrNotFound)

	juliet.Verifier, juliet.Addresses = "$c$d", []string{"juliet@capulet.example"}
	b.ok(b.s.PutUser(b.ctx, juliet))
	b.ok(b.s.DeleteUser(b.ctx, "benvolio"))
	b.ok(b.s.DeleteUser(b.ctx, foreign.Name))
	b.killed() // all of that was durable
	known(romeo, juliet)
	got, err := b.s.User(b.ctx, "juliet")
	b.ok(err)
	if !reflect.DeepEqual(got, juliet) {
		b.Errorf("got %+v, want %+v", got, juliet)
	}
}

func testPolicies(b *fixture) {
	is := func(domain, want string) {
		b.Helper()
		policy, err := b.s.GetPolicy(b.ctx, domain)
		b.ok(err)
		if string(policy) != want || (policy == nil) != (want == "") {
			b.Errorf("policy of %s: got %q, want %q", domain, policy, want)
		}
	}
	is("montague.example", "")
	// Hours away from now: the store's clock need not be ours to the second.
	b.ok(b.s.PutPolicy(b.ctx, "montague.example", []byte(`{"mode":"testing"}`), time.Now().Add(time.Hour)))
	b.ok(b.s.PutPolicy(b.ctx, "montague.example", []byte(`{"mode":"enforce"}`), time.Now().Add(2*time.Hour)))
	b.ok(b.s.PutPolicy(b.ctx, "verona.example", []byte(`{"mode":"enforce"}`), time.Now().Add(-time.Hour)))
	is("montague.example", `{"mode":"enforce"}`)
	is("verona.example", "")
	b.maintain(store.Retention{Acceptances: long, Transfers: long, Traces: long})
	is("montague.example", `{"mode":"enforce"}`)
	b.ok(b.s.PutPolicy(b.ctx, "montague.example", []byte("{}"), time.Now().Add(-time.Hour)))
	b.maintain(store.Retention{Acceptances: long, Transfers: long, Traces: long})
	is("montague.example", "")
}

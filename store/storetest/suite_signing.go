package storetest

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// signsWith compares the keys, as "domain/selector", in their order.
func (b *fixture) signsWith(want ...string) {
	b.Helper()
	keys, err := b.s.SigningKeys(b.ctx)
	b.ok(err)
	var got []string
	for _, k := range keys {
		got = append(got, k.Domain+"/"+k.Selector)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		b.Errorf("keys %v, want %v", got, want)
	}
}

func signingKey(domain, selector string) store.SigningKey {
	return store.SigningKey{Domain: domain, Selector: selector, Private: []byte("the key \x00 of " + domain + selector)}
}

func testSigningKeys(b *fixture) {
	b.signsWith()
	b.is(b.s.DeleteSigningKey(b.ctx, "home.example", "a"), store.ErrNotFound)
	old := []store.SigningKey{signingKey("home.example", "b"), signingKey("home.example", "a")}
	old[0].Forced = true
	b.ok(b.s.AddSigningKeys(b.ctx, old, true))
	b.ok(b.s.AddSigningKeys(b.ctx, []store.SigningKey{signingKey("away.example", "z")}, true))
	first, err := b.s.SigningKeys(b.ctx)
	b.ok(err)
	if age := time.Since(first[1].Created); age < -time.Hour || age > time.Hour {
		b.Errorf("made at %s", first[1].Created)
	}
	b.eventually("a later moment of the store's clock", func() bool {
		probe := signingKey("probe.example", "p")
		b.ok(b.s.AddSigningKeys(b.ctx, []store.SigningKey{probe}, false))
		keys, err := b.s.SigningKeys(b.ctx)
		b.ok(err)
		b.ok(b.s.DeleteSigningKey(b.ctx, probe.Domain, probe.Selector))
		return keys[len(keys)-1].Created.After(first[1].Created)
	})
	b.ok(b.s.AddSigningKeys(b.ctx, []store.SigningKey{signingKey("home.example", "0")}, false)) // the newest, though not by its name

	taken := []store.SigningKey{signingKey("home.example", "c"), signingKey("home.example", "a")}
	b.is(b.s.AddSigningKeys(b.ctx, taken, false), store.ErrExists)
	b.is(b.s.AddSigningKeys(b.ctx, taken[:1], true), store.ErrExists)
	b.signsWith("away.example/z", "home.example/a", "home.example/b", "home.example/0") // all or none

	b.ok(b.s.DeleteSigningKey(b.ctx, "away.example", "z"))
	b.killed() // all of that was durable
	b.signsWith("home.example/a", "home.example/b", "home.example/0")
	keys, err := b.s.SigningKeys(b.ctx)
	b.ok(err)
	if !bytes.Equal(keys[1].Private, old[0].Private) || !keys[1].Forced || keys[0].Forced {
		b.Errorf("got %+v", keys)
	}
}

func testFirstSigningKeys(b *fixture) {
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		all.Go(func() {
			s := string(rune('a' + i))
			errs[i] = b.s.AddSigningKeys(b.ctx, []store.SigningKey{signingKey("home.example", s+"1"), signingKey("home.example", s+"2")}, true)
		})
	}
	all.Wait()
	made := 0
	for _, err := range errs {
		if err == nil {
			made++
		} else if !errors.Is(err, store.ErrExists) {
			b.Error(err)
		}
	}
	keys, err := b.s.SigningKeys(b.ctx)
	b.ok(err)
	if made != 1 || len(keys) != 2 || keys[0].Selector[0] != keys[1].Selector[0] {
		b.Errorf("%d nodes made keys: %+v", made, keys)
	}
}

func testReturnPaths(b *fixture) {
	long, short := mail.Address{Local: strings.Repeat("x", 64), Domain: "far.example"}, mail.Address{Local: `a "b`, Domain: "far.example"}
	is := func(name string, want mail.Address) {
		b.Helper()
		got, err := b.s.ReturnPath(b.ctx, name)
		if want == (mail.Address{}) {
			b.is(err, store.ErrNotFound)
		} else if err != nil || got != want {
			b.Errorf("%s stands for %q, %v, want %q", name, got, err, want)
		}
	}
	is("one", mail.Address{})
	b.ok(b.s.PutReturnPath(b.ctx, "one", long, time.Hour))
	b.ok(b.s.PutReturnPath(b.ctx, "one", long, -time.Hour)) // never shorter than promised
	b.ok(b.s.PutReturnPath(b.ctx, "two", short, time.Hour))
	b.ok(b.s.PutReturnPath(b.ctx, "old", short, -time.Hour))
	is("old", mail.Address{})
	b.maintain(store.Retention{})
	b.killed()
	is("one", long)
	is("two", short)
	is("old", mail.Address{})
	b.ok(b.s.PutReturnPath(b.ctx, "old", short, time.Hour))
	is("old", short)
}

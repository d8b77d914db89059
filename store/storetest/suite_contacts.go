package storetest

import (
	"fmt"
	"reflect"
	"sync"
	"time"

	"mailxmppd/store"
)

func contactTests() []test {
	return []test{
		{"contact keys are kept", testContactKeys},
		{"a learnt key never takes the place of an imported one", testLearntKeys},
		{"contact keys are bounded", testContactBounds},
		{"a signature is noted once a day", testContactSigned},
	}
}

const juliet, romeo, nurse = "juliet@capulet.example", "romeo@montague.example", "nurse@capulet.example"

// known compares what a mailbox knows of an address; times are the store's.
func (b *fixture) known(owner, address string, want ...store.ContactKey) []store.ContactKey {
	b.Helper()
	got, err := b.s.ContactKeys(b.ctx, owner, address)
	b.ok(err)
	b.sameKeys(got, want)
	return got
}

func (b *fixture) sameKeys(got, want []store.ContactKey) {
	b.Helper()
	plain := make([]store.ContactKey, len(got))
	for i, k := range got {
		if k.Added.IsZero() || k.Added.Location() != time.UTC {
			b.Errorf("key %s was added %v", k.Fingerprint, k.Added)
		}
		k.Added = time.Time{}
		plain[i] = k
	}
	if len(plain) != len(want) || len(want) > 0 && !reflect.DeepEqual(plain, want) {
		b.Errorf("keys\n%+v, want\n%+v", plain, want)
	}
}

func testContactKeys(b *fixture) {
	b.known(juliet, romeo)
	expires := time.UnixMilli(1_900_000_000_000).UTC()
	first := store.ContactKey{Owner: juliet, Address: romeo, Fingerprint: "AA", Kind: store.OpenPGP, Origin: store.Imported, Name: "Rom\u00e9o", Certificate: []byte{0, 1, 2}}
	second := store.ContactKey{Owner: juliet, Address: romeo, Fingerprint: "BB", Kind: store.SMIME, Origin: store.FromMail, Certificate: []byte("x"), Expires: expires}
	other := store.ContactKey{Owner: nurse, Address: romeo, Fingerprint: "AA", Kind: store.OpenPGP, Origin: store.FromDirectory, Certificate: []byte("y")}
	b.ok(b.s.PutContactKey(b.ctx, first))
	b.ok(b.s.PutContactKey(b.ctx, second))
	b.ok(b.s.PutContactKey(b.ctx, other))
	b.killed() // all of that was durable
	before := b.known(juliet, romeo, first, second)
	b.known(nurse, romeo, other)
	b.known("Juliet@capulet.example", romeo) // compared as they are

	first.Name, first.Certificate = "R.", []byte("new")
	b.ok(b.s.PutContactKey(b.ctx, first))
	if after := b.known(juliet, romeo, first, second); !after[0].Added.Equal(before[0].Added) {
		b.Errorf("added %v, now %v", before[0].Added, after[0].Added)
	}

	list := func(owner string, after store.ContactKey, n int, want ...store.ContactKey) {
		b.Helper()
		got, err := b.s.ListContactKeys(b.ctx, owner, after, n)
		b.ok(err)
		for i := range want {
			want[i].Certificate = nil
		}
		b.sameKeys(got, want)
	}
	list("", store.ContactKey{}, 10, first, second, other)
	list("", store.ContactKey{}, 1, first)
	list("", first, 10, second, other)
	list(nurse, store.ContactKey{}, 10, other)
	list("nobody@capulet.example", store.ContactKey{}, 10)

	has := func(domain string, want bool) {
		b.Helper()
		got, err := b.s.HasContactKeys(b.ctx, domain)
		b.ok(err)
		equal(b, "keys of "+domain, got, want)
	}
	has("capulet.example", true)
	has("montague.example", false)
	gone := func(owner, fingerprint string, want int) {
		b.Helper()
		n, err := b.s.DeleteContactKeys(b.ctx, owner, romeo, fingerprint)
		b.ok(err)
		equal(b, "deleted", n, want)
	}
	gone(juliet, "CC", 0)
	gone(juliet, "AA", 1)
	b.known(juliet, romeo, second)
	b.known(nurse, romeo, other)
	gone(juliet, "", 1)
	gone(nurse, "", 1)
	has("capulet.example", false)
}

func testLearntKeys(b *fixture) {
	imported := store.ContactKey{Owner: juliet, Address: romeo, Fingerprint: "AA", Kind: store.OpenPGP, Origin: store.Imported, Certificate: []byte("imported")}
	learnt := imported
	learnt.Origin, learnt.Certificate = store.FromMail, []byte("learnt")
	b.ok(b.s.PutContactKey(b.ctx, learnt))
	b.known(juliet, romeo, learnt)
	b.ok(b.s.PutContactKey(b.ctx, imported))
	b.known(juliet, romeo, imported)
	b.ok(b.s.PutContactKey(b.ctx, learnt))
	b.known(juliet, romeo, imported)
}

func testContactBounds(b *fixture) {
	key := func(n int) store.ContactKey {
		return store.ContactKey{Owner: juliet, Address: romeo, Fingerprint: fmt.Sprintf("%02d", n), Kind: store.OpenPGP, Origin: store.FromMail, Certificate: []byte("x")}
	}
	var wg sync.WaitGroup
	errs := make([]error, 2*store.MaxKeysPerContact)
	for i := range errs {
		wg.Go(func() { errs[i] = b.s.PutContactKey(b.ctx, key(i)) })
	}
	wg.Wait()
	stored := 0
	for _, err := range errs {
		if err == nil {
			stored++
			continue
		}
		b.is(err, store.ErrTooManyKeys)
	}
	equal(b, "keys stored", stored, store.MaxKeysPerContact)
	got, err := b.s.ContactKeys(b.ctx, juliet, romeo)
	b.ok(err)
	equal(b, "keys", len(got), store.MaxKeysPerContact)
	b.ok(b.s.PutContactKey(b.ctx, got[3])) // one that is there needs no room
}

func testContactSigned(b *fixture) {
	k := store.ContactKey{Owner: juliet, Address: romeo, Fingerprint: "AA", Kind: store.OpenPGP, Origin: store.Imported, Certificate: []byte("x")}
	b.ok(b.s.ContactSigned(b.ctx, juliet, romeo, "AA")) // of a key that is gone
	b.ok(b.s.PutContactKey(b.ctx, k))
	signed := func() time.Time {
		b.Helper()
		got, err := b.s.ContactKeys(b.ctx, juliet, romeo)
		b.ok(err)
		return got[0].Signed
	}
	if !signed().IsZero() {
		b.Errorf("signed %v before it was", signed())
	}
	b.ok(b.s.ContactSigned(b.ctx, juliet, romeo, "AA"))
	first := signed()
	if first.IsZero() {
		b.Fatal("the signature was not noted")
	}
	b.ok(b.s.ContactSigned(b.ctx, juliet, romeo, "AA"))
	if !signed().Equal(first) {
		b.Error("noted twice in a day")
	}
	b.ok(b.s.PutContactKey(b.ctx, k))
	if !signed().Equal(first) {
		b.Error("storing the key again forgets the signature")
	}
}

package admin

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/store"
)

// addressBook is the contact keys of a fakeStore.
type addressBook struct {
	mu   sync.Mutex
	keys []store.ContactKey
}

func (b *addressBook) PutContactKey(_ context.Context, k store.ContactKey) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if k.Address == "full@montague.example" {
		return store.ErrTooManyKeys
	}
	b.keys = append(b.keys, k)
	return nil
}

func (b *addressBook) ListContactKeys(_ context.Context, owner string, after store.ContactKey, n int) ([]store.ContactKey, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []store.ContactKey
	for _, k := range b.keys {
		if (owner == "" || k.Owner == owner) && k.Fingerprint > after.Fingerprint && len(out) < n {
			out = append(out, k)
		}
	}
	return out, nil
}

func (b *addressBook) DeleteContactKeys(_ context.Context, owner, address, fingerprint string) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := len(b.keys)
	b.keys = slices.DeleteFunc(b.keys, func(k store.ContactKey) bool {
		return k.Owner == owner && k.Address == address && (fingerprint == "" || k.Fingerprint == fingerprint)
	})
	return before - len(b.keys), nil
}

// The client does what the store does.
func TestContacts(t *testing.T) {
	st := &fakeStore{}
	path, _ := start(t, st)
	client := NewClient(path)
	ctx := t.Context()
	want := []store.ContactKey{}
	for _, f := range []string{"AA", "BB", "CC"} {
		k := store.ContactKey{Owner: "juliet+x@capulet.example", Address: `"o & o"@montague.example`, Fingerprint: f, Kind: store.SMIME, Origin: store.Imported,
			Name: "Rom\u00e9o", Certificate: []byte{0, 255}, Expires: time.UnixMilli(1_900_000_000_000).UTC()}
		if err := client.PutContactKey(ctx, k); err != nil {
			t.Fatal(err)
		}
		want = append(want, k)
	}
	got, err := client.ListContactKeys(ctx, want[0].Owner, want[0], 5)
	if err != nil || !reflect.DeepEqual(got, want[1:]) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := client.ListContactKeys(ctx, "nurse@capulet.example", store.ContactKey{}, 5); err != nil || len(got) != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := client.ListContactKeys(ctx, "", store.ContactKey{}, maxList+1); err == nil || !strings.Contains(err.Error(), "limit: not a number") {
		t.Errorf("too long a list: %v", err)
	}
	if err := client.PutContactKey(ctx, store.ContactKey{Owner: "x"}); err == nil || !strings.Contains(err.Error(), "the body is no contact key") {
		t.Errorf("no key: %v", err)
	}
	full := want[0]
	full.Address = "full@montague.example"
	if err := client.PutContactKey(ctx, full); err == nil || !strings.Contains(err.Error(), store.ErrTooManyKeys.Error()) {
		t.Errorf("too many: %v", err)
	}
	for _, c := range []struct {
		fingerprint string
		want        int
	}{{"BB", 1}, {"BB", 0}, {"", 2}} {
		if n, err := client.DeleteContactKeys(ctx, want[0].Owner, want[0].Address, c.fingerprint); n != c.want || err != nil {
			t.Errorf("deleting %q: %d, %v", c.fingerprint, n, err)
		}
	}
}

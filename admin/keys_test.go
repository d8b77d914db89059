package admin

import (
	"context"
	"errors"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"mailxmppd/store"
)

// ring holds the signing keys of a fakeStore.
type ring struct {
	mu   sync.Mutex
	keys []store.SigningKey
}

func (r *ring) SigningKeys(context.Context) ([]store.SigningKey, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.keys, nil
}

func (r *ring) AddSigningKeys(_ context.Context, keys []store.SigningKey, first bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if first && len(r.keys) > 0 {
		return store.ErrExists
	}
	r.keys = append(r.keys, keys...)
	return nil
}

func (r *ring) DeleteSigningKey(_ context.Context, domain, selector string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, k := range r.keys {
		if k.Domain == domain && k.Selector == selector {
			r.keys = append(r.keys[:i:i], r.keys[i+1:]...)
			return nil
		}
	}
	return store.ErrNotFound
}

// The client does with keys what the store does, and the gateway hears of it.
func TestKeys(t *testing.T) {
	var heard atomic.Int32
	path, _ := startAllowed(t, &fakeStore{}, Operator{Rekeyed: func() { heard.Add(1) }})
	c, ctx := NewClient(path), t.Context()
	if keys, err := c.SigningKeys(ctx); err != nil || len(keys) != 0 {
		t.Fatalf("got %+v, %v", keys, err)
	}
	want := []store.SigningKey{
		{Domain: "home.example", Selector: "a", Private: []byte("\x00\xffkey"), Forced: true},
		{Domain: "home.example", Selector: "b", Private: []byte("key")},
	}
	if err := c.AddSigningKeys(ctx, want, true); err != nil {
		t.Fatal(err)
	}
	if err := c.AddSigningKeys(ctx, want, true); err == nil || err.Error() != "gateway: is there already" {
		t.Errorf("got %v", err)
	}
	if keys, err := c.SigningKeys(ctx); err != nil || !reflect.DeepEqual(keys, want) {
		t.Errorf("got %+v, %v", keys, err)
	}
	if err := c.DeleteSigningKey(ctx, "home.example", "a"); err != nil {
		t.Error(err)
	}
	if err := c.DeleteSigningKey(ctx, "home.example", "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	if heard.Load() != 2 {
		t.Errorf("heard %d times", heard.Load())
	}
	for _, bad := range [][]store.SigningKey{
		nil, {{Selector: "a", Private: []byte("x")}}, {{Domain: "a.example", Private: []byte("x")}}, {{Domain: "a.example", Selector: "a"}},
		{want[0], {Domain: "b.example", Selector: "a", Private: []byte("x")}},
	} {
		if err := c.AddSigningKeys(ctx, bad, false); err == nil {
			t.Errorf("taken: %+v", bad)
		}
	}
}

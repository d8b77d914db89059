package admin

import (
	"context"
	"errors"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"

	"mailxmppd/store"
)

// people are the users of a fakeStore, one at most.
type people struct {
	mu   sync.Mutex
	user *store.User
}

func (p *people) User(_ context.Context, name string) (store.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user == nil || p.user.Name != name {
		return store.User{}, store.ErrNotFound
	}
	return *p.user, nil
}

func (p *people) Users(context.Context) ([]store.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.user == nil {
		return nil, nil
	}
	return []store.User{*p.user}, nil
}

func (p *people) PutUser(_ context.Context, u store.User) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if strings.HasPrefix(u.Name, "full") {
		return store.ErrFull
	}
	p.user = &u
	return nil
}

func (p *people) DeleteUser(ctx context.Context, name string) error {
	if _, err := p.User(ctx, name); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.user = nil
	return nil
}

// The client does what the store does, whatever a name is made of.
func TestUsers(t *testing.T) {
	path, changes := start(t, &fakeStore{})
	c, ctx := NewClient(path), t.Context()
	for _, name := range []string{"juliet", "juliet@capulet.example", "a/b?c=d&e %2f#", "\u00e9va"} {
		if users, err := c.Users(ctx); err != nil || len(users) != 0 {
			t.Fatalf("got %+v, %v", users, err)
		}
		want := store.User{Name: name, Verifier: "$a$b", Addresses: []string{"@capulet.example", `"<x>"@capulet.example`}}
		if err := c.PutUser(ctx, want); err != nil {
			t.Fatal(err)
		}
		if got, err := c.User(ctx, name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v", got, err)
		}
		if users, err := c.Users(ctx); err != nil || !reflect.DeepEqual(users, []store.User{want}) {
			t.Errorf("got %+v, %v", users, err)
		}
		if err := c.DeleteUser(ctx, name); err != nil {
			t.Error(err)
		}
		if err := c.DeleteUser(ctx, name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if _, err := c.User(ctx, name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	}
	if err := c.PutUser(ctx, store.User{Name: "full"}); err == nil || err.Error() != "gateway: store is full" {
		t.Errorf("got %v", err)
	}
	if err := c.PutUser(ctx, store.User{Name: strings.Repeat("x", maxBody)}); err == nil || err.Error() != "gateway: the body is no user" {
		t.Errorf("a body without end: %v", err)
	}
	if changes.Load() != 0 {
		t.Error("users are no change of the queue")
	}
}

// A body must be a user and nothing else.
func TestBadUsers(t *testing.T) {
	path, _ := start(t, &fakeStore{})
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	for body, status := range map[string]int{
		`{"name":"juliet"}`: 200, `{"name":""}`: 400, `{}`: 400, `[]`: 400, `juliet`: 400, `{"name":"juliet","password":"x"}`: 400,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://gateway/user", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: got %d, want %d", body, resp.StatusCode, status)
		}
	}
}

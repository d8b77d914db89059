package admin

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"mailxmppd/store"
)

// book is the grants of a fakeStore.
type book struct {
	grantsMu sync.Mutex
	kept     []store.Grant
	bounds   store.GrantBounds
	listed   store.GrantFilter
}

func (b *book) PutGrant(_ context.Context, g store.Grant, bounds store.GrantBounds) error {
	b.grantsMu.Lock()
	defer b.grantsMu.Unlock()
	if strings.HasPrefix(g.Recipient, "full") {
		return store.ErrTooMany
	}
	b.kept, b.bounds = append(b.kept, g), bounds
	return nil
}

func (b *book) DeleteGrant(_ context.Context, n store.GrantName) error {
	b.grantsMu.Lock()
	defer b.grantsMu.Unlock()
	i := slices.IndexFunc(b.kept, func(g store.Grant) bool { return g.GrantName == n })
	if i < 0 {
		return store.ErrNotFound
	}
	b.kept = slices.Delete(b.kept, i, i+1)
	return nil
}

func (b *book) Grants(_ context.Context, f store.GrantFilter) ([]store.Grant, error) {
	b.grantsMu.Lock()
	defer b.grantsMu.Unlock()
	b.listed = f
	return slices.Clone(b.kept), nil
}

func (b *book) FindGrants(_ context.Context, kind store.GrantKind, recipients []string, peer string, authors []string) ([]store.Grant, error) {
	b.grantsMu.Lock()
	defer b.grantsMu.Unlock()
	var out []store.Grant
	for _, g := range b.kept {
		if g.Kind == kind && slices.Contains(recipients, g.Recipient) && g.Peer == peer && (authors == nil || slices.Contains(authors, g.Author)) {
			out = append(out, g)
		}
	}
	return out, nil
}

// The client does what the store does, whatever an address is made of.
func TestGrants(t *testing.T) {
	st := &fakeStore{}
	var changes atomic.Int64
	path, _ := startAllowed(t, st, Operator{Granted: func() { changes.Add(1) }})
	c, ctx := NewClient(path), t.Context()
	if all, err := c.Grants(ctx, store.GrantFilter{Kind: store.GrantAsked, Limit: 1}); err != nil || len(all) != 0 {
		t.Fatalf("got %+v, %v", all, err)
	}
	want := store.Grant{
		GrantName: store.GrantName{Kind: store.GrantGiven, Recipient: `"a&b=c %2f#"@x.example`, Author: "\u00e9va@y.example"},
		Peer:      "y.example", State: store.Granted, Origin: store.ByOperator, Key: []byte("\x00\xff0123456789abcdef"), Text: "<&>",
		Created: time.Unix(1e9, 0).UTC(), Expires: time.Unix(2e9, 0).UTC(), Version: 7,
	}
	if err := c.PutGrant(ctx, want, store.GrantBounds{PerAuthor: 3}); err != nil || st.bounds.PerAuthor != 3 {
		t.Fatal(err, st.bounds)
	}
	f := store.GrantFilter{Kind: store.GrantGiven, Recipient: want.Recipient, After: store.GrantName{Recipient: "a&b", Author: "c d"}, Limit: 17}
	if all, err := c.Grants(ctx, f); err != nil || !reflect.DeepEqual(all, []store.Grant{want}) || st.listed != f {
		t.Errorf("got %+v, %v; asked for %+v", all, err, st.listed)
	}
	for _, authors := range [][]string{{"x@y.example", want.Author}, nil} {
		if all, err := c.FindGrants(ctx, store.GrantGiven, []string{"@x.example", want.Recipient}, "y.example", authors); err != nil || !reflect.DeepEqual(all, []store.Grant{want}) {
			t.Errorf("found %+v, %v", all, err)
		}
	}
	if err := c.DeleteGrant(ctx, want.GrantName); err != nil {
		t.Error(err)
	}
	if n := changes.Load(); n != 2 {
		t.Errorf("%d changes told", n)
	}
	if err := c.DeleteGrant(ctx, want.GrantName); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("got %v", err)
	}
	want.Recipient = "full@x.example"
	if err := c.PutGrant(ctx, want, store.GrantBounds{}); err == nil || err.Error() != "gateway: "+store.ErrTooMany.Error() {
		t.Errorf("got %v", err)
	}
}

// Requests must make sense.
func TestBadGrants(t *testing.T) {
	path, _ := start(t, &fakeStore{})
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	for request, status := range map[string]int{
		"GET /grants?kind=given": 200, "GET /grants": 400, "GET /grants?kind=taken": 400, "GET /grants?kind=given&limit=0": 400,
		"GET /grants?kind=given&limit=10001": 400, "GET /grants/find?kind=x": 400, "DELETE /grant?kind=given&recipient=a": 400,
		"PUT /grant {}": 400, "PUT /grant x": 400, `PUT /grant {"grant":{"kind":"x","recipient":"a","author":"b","peer":"c","state":"granted"}}`: 400,
		`PUT /grant {"grant":{"kind":"given","recipient":"a","author":"b","peer":"c","state":"granted"},"more":1}`: 400,
	} {
		method, rest, _ := strings.Cut(request, " ")
		target, body, _ := strings.Cut(rest, " ")
		req, err := http.NewRequestWithContext(t.Context(), method, "http://gateway"+target, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: got %d, want %d", request, resp.StatusCode, status)
		}
	}
}

package admin

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"mailxmppd/store"
)

// TestSelections: a verb and what it is for arrive as they were given.
func TestSelections(t *testing.T) {
	st := &fakeStore{}
	path, changes := start(t, st)
	c := NewClient(path)
	full := store.Filter{
		Domain: "montague.example", Sender: "@capulet.example", States: []store.State{store.Held, store.Deferred}, Closed: true,
		Older: 90 * time.Minute, Younger: 48 * time.Hour, Text: "450 <&> later", Limit: 7, After: present, AfterN: 3,
	}
	for _, tc := range []struct {
		verb  string
		do    func(context.Context, store.Selection) (int, error)
		wakes int32
	}{
		{"retry", c.Retry, 1},
		{"hold", c.Hold, 0},
		{"unhold", c.Unhold, 1},
		{"drop", c.Drop, 0},
		{"restore", c.Restore, 1},
		{"redirect smtp://[2001:db8::1]:25", func(ctx context.Context, sel store.Selection) (int, error) {
			return c.Redirect(ctx, sel, "smtp://[2001:db8::1]:25")
		}, 1},
	} {
		for _, sel := range []store.Selection{store.One(present, -1, "ann"), store.One(present, 1, ""), {Filter: full, By: "bob & co"}, {}} {
			before := changes.Load()
			n, err := tc.do(t.Context(), sel)
			got := *st.acted.Load()
			if err != nil || n == 0 || got.verb != tc.verb || !reflect.DeepEqual(got.sel, sel) {
				t.Errorf("%s %+v: %d, %v, arrived as %+v", tc.verb, sel, n, err, got)
			}
			if changes.Load()-before != tc.wakes {
				t.Errorf("%s: the gateway was told %d times", tc.verb, changes.Load()-before)
			}
		}
	}
	totals, err := c.Totals(t.Context(), full, 5)
	if err != nil || totals.All.Deliveries != 5 || !reflect.DeepEqual(*st.filter.Load(), full) {
		t.Errorf("totals %+v of %+v, %v", totals, *st.filter.Load(), err)
	}
}

// TestNoChoice: what would change the whole queue must say so.
func TestNoChoice(t *testing.T) {
	st := &fakeStore{}
	path, _ := start(t, st)
	c := NewClient(path)
	for _, target := range []string{"/queue/drop", "/queue/drop?everything=1", "/queue/explode?everything=true", "/queue/hold?older=-1h",
		"/queue/hold?older=soon", "/queue/hold?domain=montague.example&after=x"} {
		path, query, _ := strings.Cut(target, "?")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gateway"+path+"?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", target, resp.Status)
		}
	}
	if st.acted.Load() != nil {
		t.Errorf("done all the same: %+v", *st.acted.Load())
	}
}

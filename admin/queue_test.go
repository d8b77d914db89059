package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
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

// TestOperator: what the gateway does for operators arrives as it was asked
// for; without a gateway it is refused.
func TestOperator(t *testing.T) {
	st := &fakeStore{}
	path, _ := start(t, st)
	c := NewClient(path)
	if _, err := c.Fail(t.Context(), present, 1, "ann", "x"); err == nil || !strings.Contains(err.Error(), "one message at a time, of a gateway that runs") {
		t.Errorf("fail: %v", err)
	}
	if err := c.Backup(t.Context(), "/somewhere"); err == nil || !strings.Contains(err.Error(), "tools for its backup") {
		t.Errorf("backup: %v", err)
	}
	var asked []string
	path, changes := startAllowed(t, st, Operator{
		Fail: func(_ context.Context, id mail.ID, n int, by, text string) (int, error) {
			asked = append(asked, fmt.Sprintf("fail %s.%d for %s: %s", id, n, by, text))
			if id == absent {
				return 0, fmt.Errorf("%w: long gone\x1b", store.ErrNotFound)
			}
			return 2, nil
		},
		Backup: func(ctx context.Context, file string) error {
			left, ok := ctx.Deadline()
			asked = append(asked, fmt.Sprintf("backup %s %v", file, ok && time.Until(left) > requestTimeout))
			if file == "/full" {
				return store.ErrFull
			}
			return nil
		},
	})
	c = NewClient(path)
	if n, err := c.Fail(t.Context(), present, -1, "ann & co", "no such\nplace"); n != 2 || err != nil {
		t.Errorf("fail: %d, %v", n, err)
	}
	if _, err := c.Fail(t.Context(), absent, 3, "", ""); !errors.Is(err, store.ErrNotFound) || err.Error() != "not found: long gone" {
		t.Errorf("fail: %v", err)
	}
	if err := c.Backup(t.Context(), "/b & c"); err != nil {
		t.Errorf("backup: %v", err)
	}
	if err := c.Backup(t.Context(), "/full"); err == nil || !strings.Contains(err.Error(), "store is full") {
		t.Errorf("backup: %v", err)
	}
	if err := c.Backup(t.Context(), "relative"); err == nil || !strings.Contains(err.Error(), "no absolute path") {
		t.Errorf("backup: %v", err)
	}
	want := []string{"fail " + string(present) + ".-1 for ann & co: no such place", "fail " + string(absent) + ".3 for : ", "backup /b & c true", "backup /full true"}
	if !reflect.DeepEqual(asked, want) || changes.Load() != 0 {
		t.Errorf("asked for %q", asked)
	}
}

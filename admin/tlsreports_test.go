package admin

import (
	"context"
	"reflect"
	"testing"

	"mailxmppd/store"
)

// TLSDays knows one day of one domain.
func (f *fakeStore) TLSDays(_ context.Context, day, domain string) ([]store.TLSDay, error) {
	if day != "2026-03-04" || domain != "" && domain != "a.example" {
		return nil, nil
	}
	return []store.TLSDay{{Day: day, Domain: "a.example", State: store.TLSSent, ID: "x@y", Tries: 2, Said: "mailto:z",
		Counts: []store.TLSCount{{Policy: "p", Result: "r", Sessions: 7}}}}, nil
}

// The client shows what the store does.
func TestTLSDays(t *testing.T) {
	f := &fakeStore{}
	path, _ := start(t, f)
	c := NewClient(path)
	for _, domain := range []string{"", "a.example", "b.example"} {
		want, _ := f.TLSDays(t.Context(), "2026-03-04", domain)
		got, err := c.TLSDays(t.Context(), "2026-03-04", domain)
		if err != nil || len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", domain, got, err)
		}
	}
	for _, bad := range [][2]string{{"yesterday", ""}, {"2026-03-04", "a b"}} {
		if _, err := c.TLSDays(t.Context(), bad[0], bad[1]); err == nil {
			t.Errorf("%q is answered", bad)
		}
	}
}

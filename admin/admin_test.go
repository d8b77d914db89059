package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const present, absent mail.ID = "01JDX2V9N0000000000000000A", "01JDX2V9N0000000000000000B"

// fakeStore holds one message with two waiting deliveries and notes what it
// was asked for.
type fakeStore struct {
	people
	book
	addressBook
	ring
	broken error
	stuck  int           // how far a verb comes before it is broken
	block  chan struct{} // List waits for it, when set
	filter atomic.Pointer[store.Filter]
	acted  atomic.Pointer[acted]
}

// acted is a verb and what it was for.
type acted struct {
	verb string
	sel  store.Selection
}

func (f *fakeStore) entries() []store.Entry {
	out := []store.Entry{}
	for n, rcpt := range []string{"romeo@montague.example", "benvolio@montague.example"} {
		out = append(out, store.Entry{ID: present, N: n, State: store.Deferred, Sender: "juliet@capulet.example", Rcpt: rcpt,
			Domain: "montague.example", Size: 42, Attempts: 2, AgeSecs: 61, DueSecs: 30, Last: "451 4.4.1 <&> later"})
	}
	return out
}

func (f *fakeStore) List(ctx context.Context, filter store.Filter) ([]store.Entry, error) {
	if f.block != nil {
		select {
		case <-f.block:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.filter.Store(&filter)
	if filter.Domain == "verona.example" {
		return nil, f.broken
	}
	return f.entries(), f.broken
}

func (f *fakeStore) Show(_ context.Context, id mail.ID) (store.Record, error) {
	if id != present {
		return store.Record{}, store.ErrNotFound
	}
	sender, err := mail.ParseAddress("juliet@capulet.example")
	return store.Record{ID: id, Envelope: mail.Envelope{Sender: sender}, Size: 42, Trace: "Received: x\r\n", Deliveries: f.entries()}, err
}

func (f *fakeStore) Totals(_ context.Context, filter store.Filter, top int) (store.Totals, error) {
	f.filter.Store(&filter)
	return store.Totals{All: store.Total{Deliveries: top}}, f.broken
}

func (f *fakeStore) Retry(_ context.Context, sel store.Selection) (int, error) {
	return f.pick("retry", sel)
}
func (f *fakeStore) Hold(_ context.Context, sel store.Selection) (int, error) {
	return f.pick("hold", sel)
}
func (f *fakeStore) Unhold(_ context.Context, sel store.Selection) (int, error) {
	return f.pick("unhold", sel)
}
func (f *fakeStore) Drop(_ context.Context, sel store.Selection) (int, error) {
	return f.pick("drop", sel)
}
func (f *fakeStore) Restore(_ context.Context, sel store.Selection) (int, error) {
	return f.pick("restore", sel)
}
func (f *fakeStore) Redirect(_ context.Context, sel store.Selection, next string) (int, error) {
	return f.pick("redirect "+next, sel)
}

// pick notes what was asked for.
func (f *fakeStore) pick(verb string, sel store.Selection) (int, error) {
	f.acted.Store(&acted{verb, sel})
	switch {
	case f.broken != nil:
		return f.stuck, f.broken
	case sel.ID == "":
		return 3, nil
	case sel.ID != present || sel.N > 1:
		return 0, store.ErrNotFound
	case sel.N >= 0:
		return 1, nil
	}
	return 2, nil
}

// start serves a store on a socket of its own and counts calls of onChange.
func start(t *testing.T, st Store) (path string, changes *atomic.Int32) {
	t.Helper()
	return startAllowed(t, st, Operator{})
}

func startAllowed(t *testing.T, st Store, o Operator) (path string, changes *atomic.Int32) {
	t.Helper()
	path = filepath.Join(shortDir(t), "admin.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	changes = &atomic.Int32{}
	s := New(st, slog.New(slog.DiscardHandler), func() { changes.Add(1) })
	s.Allow(o)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(s.Shutdown(ctx), <-served); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	return path, changes
}

// shortDir makes a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func TestVerbs(t *testing.T) {
	st := &fakeStore{}
	path, changes := start(t, st)
	c, ctx := NewClient(path), t.Context()

	entries, err := c.List(ctx, store.Filter{Domain: "montague.example", Closed: true, Limit: 7})
	want := st.entries()
	for i := range want {
		want[i].Age = 61 * time.Second
	}
	if err != nil || !slices.Equal(entries, want) {
		t.Errorf("got %+v, %v", entries, err)
	}
	if got := *st.filter.Load(); !reflect.DeepEqual(got, store.Filter{Domain: "montague.example", Closed: true, Limit: 7}) {
		t.Errorf("filter %+v", got)
	}
	if entries, err := c.List(ctx, store.Filter{Domain: "verona.example"}); err != nil || len(entries) != 0 {
		t.Errorf("got %+v, %v", entries, err)
	}
	r, err := c.Show(ctx, present)
	if err != nil || r.ID != present || r.Envelope.Sender.String() != "juliet@capulet.example" || len(r.Deliveries) != 2 || r.Trace != "Received: x\r\n" {
		t.Errorf("got %+v, %v", r, err)
	}
	if _, err := c.Show(ctx, absent); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	for _, v := range []struct {
		name    string
		do      func() (int, error)
		count   int
		changes int32 // calls of onChange so far
		err     error
	}{
		{"retry one", func() (int, error) { return c.Retry(ctx, store.One(present, 1, "me")) }, 1, 1, nil},
		{"retry all of it", func() (int, error) { return c.Retry(ctx, store.One(present, -1, "me")) }, 2, 2, nil},
		{"retry none", func() (int, error) { return c.Retry(ctx, store.One(absent, -1, "me")) }, 0, 2, store.ErrNotFound},
		{"drop one", func() (int, error) { return c.Drop(ctx, store.One(present, 0, "me")) }, 1, 2, nil},
		{"drop none", func() (int, error) { return c.Drop(ctx, store.One(present, 2, "me")) }, 0, 2, store.ErrNotFound},
	} {
		n, err := v.do()
		if n != v.count || !errors.Is(err, v.err) || changes.Load() != v.changes {
			t.Errorf("%s: got %d, %v, %d changes", v.name, n, err, changes.Load())
		}
	}
	h, err := c.Health(ctx)
	if err != nil || h.Status != "ok" || h.PID != os.Getpid() {
		t.Errorf("got %+v, %v", h, err)
	}
}

func TestBrokenStore(t *testing.T) {
	path, changes := start(t, &fakeStore{broken: store.ErrFull})
	c, ctx := NewClient(path), t.Context()
	if h, err := c.Health(ctx); err != nil || h.Status != "store" {
		t.Errorf("got %+v, %v", h, err)
	}
	if _, err := c.List(ctx, store.Filter{}); err == nil || err.Error() != "gateway: store is full" {
		t.Errorf("got %v", err)
	}
	if n, err := c.Retry(ctx, store.One(present, -1, "me")); err == nil || n != 0 || changes.Load() != 0 {
		t.Errorf("got %d, %v, %d changes", n, err, changes.Load())
	}
}

// TestPartOfAVerb: a verb that fails on its way tells how far it came, and what it
// made due is tried.
func TestPartOfAVerb(t *testing.T) {
	path, changes := start(t, &fakeStore{broken: store.ErrFull, stuck: 1200})
	n, err := NewClient(path).Unhold(t.Context(), store.Selection{By: "me"})
	if n != 1200 || err == nil || err.Error() != "gateway: store is full" || changes.Load() != 1 {
		t.Errorf("got %d, %v, %d changes", n, err, changes.Load())
	}
}

// Requests that make no sense, each with its answer.
func TestBadRequests(t *testing.T) {
	path, _ := start(t, &fakeStore{})
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
	for _, r := range []struct {
		method, target string
		status         int
		says           string
	}{
		{"GET", "/queue?limit=0", 400, "limit is not a number from 1 to 10000"},
		{"GET", "/queue?limit=10001", 400, "limit is not a number"},
		{"GET", "/queue?limit=x", 400, "limit is not a number"},
		{"GET", "/queue?domain=a..b", 400, "empty label"},
		{"GET", "/queue/123", 400, "want 26 characters"},
		{"GET", "/queue/" + string(absent), 404, "not found"},
		{"POST", "/queue/x/retry", 400, "want 26 characters"},
		{"POST", "/queue/" + string(present) + "/retry?n=-1", 400, "n is not the number"},
		{"POST", "/queue/" + string(present) + "/drop?n=one", 400, "n is not the number"},
		{"POST", "/queue/retry?domain=a..b", 400, "empty label"},
		{"PUT", "/user", 400, "the body is no user"},
		{"GET", "/user?name=x", 404, "not found"},
		{"DELETE", "/user", 404, "not found"},
		{"POST", "/user", 405, ""},
		{"GET", "/queue/" + string(present) + "/drop", 405, ""},
		{"DELETE", "/queue/" + string(present), 405, ""},
		{"GET", "/", 404, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), r.method, "http://gateway"+r.target, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var f Fault
		if r.says != "" {
			err = errors.Join(err, json.Unmarshal(body, &f))
		}
		if err != nil || resp.StatusCode != r.status || !strings.Contains(f.Error, r.says) {
			t.Errorf("%s %s: got %d %s, %v", r.method, r.target, resp.StatusCode, body, err)
		}
	}
}

// More requests at a time than there is room for are refused, not queued.
func TestTooManyRequests(t *testing.T) {
	st := &fakeStore{block: make(chan struct{})}
	path, _ := start(t, st)
	answers := make(chan error, maxClients+8)
	for range cap(answers) {
		go func() {
			_, err := NewClient(path).List(t.Context(), store.Filter{})
			answers <- err
		}()
	}
	for range 8 {
		if err := <-answers; err == nil || !strings.Contains(err.Error(), "too many requests") {
			t.Errorf("got %v", err)
		}
	}
	close(st.block)
	for range maxClients {
		if err := <-answers; err != nil {
			t.Errorf("got %v", err)
		}
	}
}

func TestNotRunning(t *testing.T) {
	dir := shortDir(t)
	dead := filepath.Join(dir, "dead.sock")
	leaveBehind(t, dead)
	for _, path := range []string{filepath.Join(dir, "absent.sock"), dead} {
		if _, err := NewClient(path).Health(t.Context()); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

func TestListen(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "run", "admin.sock")
	first, err := Listen(path) // makes the directory
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Errorf("got %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	leaveBehind(t, path)
	second, err := Listen(path)
	if err != nil {
		t.Fatalf("a dead process's socket was not replaced: %v", err)
	}
	first.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Error("a second Close removed the successor's socket")
	}
	second.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another file is in its place") {
		t.Errorf("got %v", err)
	}
	if _, err := Listen(filepath.Join(dir, "a", "b", "admin.sock")); err == nil {
		t.Error("made more than one directory")
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// leaveBehind makes a socket that nobody listens on.
func leaveBehind(t *testing.T, path string) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
}

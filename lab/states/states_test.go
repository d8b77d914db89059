// Package states compares the picture of a delivery's states in
// docs/architecture.md with what the store does.
package states

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// drawn returns the arrows of the picture.
func drawn(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, picture, found := strings.Cut(string(text), "stateDiagram-v2\n")
	picture, _, ended := strings.Cut(picture, "```")
	if !found || !ended {
		t.Fatal("architecture.md has no picture of the states")
	}
	out := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ +(\w+) --> (\w+)`).FindAllStringSubmatch(picture, -1) {
		out[m[1]+" --> "+m[2]] = true
	}
	return out
}

// bench is a store with one delivery at a time under test.
type bench struct {
	*testing.T
	s    *sqlite.Store
	seen map[string]bool
}

// put stores a message for one recipient.
func (b *bench) put(first store.First, lease time.Duration) (mail.ID, []store.Lease) {
	b.Helper()
	content := mail.Bytes("Subject: s\r\n\r\nbody\r\n")
	m := store.NewMessage{Lifetime: time.Hour, First: []store.First{first}, Transfer: "t"}
	m.ID, m.Content, m.Facts = mail.NewID(), content, mail.Facts{Size: content.Size()}
	m.Envelope.Recipients = []mail.Recipient{{Address: mail.Address{Local: "x", Domain: "far.example"}}}
	if lease > 0 {
		m.Lease = store.Own{Domains: []string{"far.example"}, For: lease}
	}
	leases, err := b.s.PutMessage(b.Context(), m)
	if err != nil {
		b.Fatal(err)
	}
	return m.ID, leases
}

// state is where the message's delivery stands, "" for one that is not there.
func (b *bench) state(id mail.ID) store.State {
	b.Helper()
	r, err := b.s.Show(b.Context(), id)
	if err != nil || len(r.Deliveries) != 1 {
		b.Fatal(r, err)
	}
	return r.Deliveries[0].State
}

var (
	later   = mail.Outcome{Failure: mail.Fail(mail.Unreachable, "", nil)}
	refused = mail.Outcome{Failure: mail.Fail(mail.NoSuchMailbox, "", nil)}
)

// subject is a delivery in a state, with the lease that it has or last had.
type subject struct {
	id    mail.ID
	lease store.Lease
}

// inState brings a new delivery into a state: one that was tried before, or, where
// that can be, one that was not.
func (b *bench) inState(s store.State, tried bool) subject {
	b.Helper()
	id, leases := b.put(store.First{}, time.Hour)
	sub := subject{id, leases[0]}
	if !tried && (s == store.Held || s == store.Dropped) {
		sub.id, _ = b.put(store.First{}, 0)
	}
	switch s {
	case store.Leased:
	case store.Due:
		sub.id, _ = b.put(store.First{}, 0)
	case store.Held:
		b.did(b.s.Hold(b.Context(), store.One(sub.id, -1, "test")))
	case store.Dropped:
		b.did(b.s.Drop(b.Context(), store.One(sub.id, -1, "test")))
	default:
		r := store.Result{State: s, Outcome: later}
		if err := b.s.Settle(b.Context(), store.Settlement{Lease: sub.lease, Results: []store.Result{r}}); err != nil {
			b.Fatal(err)
		}
	}
	if got := b.state(sub.id); got != s {
		b.Fatalf("a delivery is %s, want it %s", got, s)
	}
	return sub
}

func (b *bench) did(n int, err error) {
	b.Helper()
	if n != 1 || err != nil {
		b.Fatalf("%d deliveries, %v", n, err)
	}
}

// settle tries a state as the result of a lease.
func (b *bench) settle(to store.State) func(subject) error {
	return func(s subject) error {
		return b.s.Settle(b.Context(), store.Settlement{Lease: s.lease, Results: []store.Result{{State: to, Outcome: later}}})
	}
}

// changed notes an arrow.
func (b *bench) changed(from string, to store.State) {
	if from != string(to) {
		b.seen[from+" --> "+string(to)] = true
	}
}

// TestPicture: the arrows that are drawn are those that some operation of the
// store makes, whatever state it meets, and no others.
func TestPicture(t *testing.T) {
	st, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "mail.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	b := &bench{T: t, s: st, seen: map[string]bool{}}
	ctx := t.Context()

	for _, first := range []store.First{{}, {Delay: time.Hour}, {Delay: time.Hour, Outcome: later}, {Done: true}, {Done: true, Outcome: refused}} {
		id, _ := b.put(first, 0)
		b.changed("received", b.state(id))
	}
	id, _ := b.put(store.First{}, time.Hour)
	b.changed("received", b.state(id))

	verb := func(do func(store.Selection) (int, error)) func(subject) error {
		return func(s subject) error { _, err := do(store.One(s.id, -1, "test")); return err }
	}
	operations := map[string]func(subject) error{
		"claim":    func(subject) error { _, err := st.Claim(ctx, 1000, time.Hour, nil, 0); return err },
		"seize":    func(s subject) error { _, err := st.Seize(ctx, s.id, -1, "test", time.Hour); return err },
		"release":  func(subject) error { _, err := st.Release(ctx, ""); return err },
		"retry":    verb(func(s store.Selection) (int, error) { return st.Retry(ctx, s) }),
		"hold":     verb(func(s store.Selection) (int, error) { return st.Hold(ctx, s) }),
		"unhold":   verb(func(s store.Selection) (int, error) { return st.Unhold(ctx, s) }),
		"drop":     verb(func(s store.Selection) (int, error) { return st.Drop(ctx, s) }),
		"restore":  verb(func(s store.Selection) (int, error) { return st.Restore(ctx, s) }),
		"redirect": verb(func(s store.Selection) (int, error) { return st.Redirect(ctx, s, "smtp://other.example") }),
		"lease end": func(s subject) error {
			_, err := st.Renew(ctx, []store.Lease{s.lease}, 0)
			return err
		},
		"lease end before an attempt": func(s subject) error {
			if b.state(s.id) != store.Leased {
				return nil
			}
			id, _ := b.put(store.First{}, 0)
			if _, err := st.Claim(ctx, 1000, time.Millisecond, nil, 0); err != nil {
				return err
			}
			for b.state(id) == store.Leased {
				time.Sleep(time.Millisecond)
			}
			b.changed(string(store.Leased), b.state(id))
			return nil
		},
	}
	for _, to := range store.States() {
		operations["settle as "+string(to)] = b.settle(to)
	}
	for _, name := range slices.Sorted(maps.Keys(operations)) {
		for _, from := range store.States() {
			for _, tried := range []bool{true, false} {
				sub := b.inState(from, tried)
				err := operations[name](sub)
				to := b.state(sub.id)
				b.changed(string(from), to)
				if err != nil && to != from {
					t.Errorf("%s failed and still made %s of %s: %v", name, to, from, err)
				}
			}
		}
	}
	picture := drawn(t)
	for arrow := range b.seen {
		if !picture[arrow] {
			t.Errorf("the store does %s, which is not drawn", arrow)
		}
	}
	for arrow := range picture {
		if !b.seen[arrow] {
			t.Errorf("%s is drawn, and the store does not do it", arrow)
		}
	}
}

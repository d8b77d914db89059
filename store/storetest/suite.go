// Package storetest shows that a backend keeps the contract of package store:
// Run is the one suite that all of them pass, each sentence of the contract a
// test of it named after what it says.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// Opener opens one store, new and empty at first, again and again.
type Opener interface {
	// Open opens the store. It is not open when Open is called.
	Open(t *testing.T) store.Store
	// Kill ends s as if its process had been killed: what was not durable may
	// be gone, nothing is tidied up, and Open may follow.
	Kill(t *testing.T, s store.Store)
	// Damage writes a value into a text column of a message's row.
	Damage(t *testing.T, s store.Store, id mail.ID, column, value string)
}

// Run runs the suite, each test on a store of its own from newOpener.
func Run(t *testing.T, newOpener func(t *testing.T) Opener) {
	groups := []struct {
		name  string
		tests []test
	}{
		{"life", lifeTests()},
		{"leases", leaseTests()},
		{"doubt", doubtTests()},
		{"content", contentTests()},
		{"transfers", append(transferTests(), turnTests()...)},
		{"operator", operatorTests()},
		{"verbs", verbTests()},
		{"lists", listTests()},
		{"unreadable", unreadableTests()},
		{"contacts", contactTests()},
		{"grants", grantTests()},
		{"reports", reportTests()},
		{"reopen", reopenTests()},
		{"together", togetherTests()},
		{"model", []test{{"random operations agree with a simple model", testModel}}},
	}
	for _, g := range groups {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			for _, tc := range g.tests {
				t.Run(strings.ReplaceAll(tc.name, " ", "_"), func(t *testing.T) {
					o := newOpener(t)
					b := &fixture{T: t, opener: o, ctx: t.Context()}
					b.open()
					t.Cleanup(b.close)
					tc.run(b)
				})
			}
		})
	}
}

// test is one sentence of the contract.
type test struct {
	name string
	run  func(*fixture)
}

// fixture is what a test works on.
type fixture struct {
	*testing.T
	opener Opener
	s      store.Store
	ctx    context.Context
	lastID mail.ID
}

func (b *fixture) open() { b.s = b.opener.Open(b.T) }

func (b *fixture) close() {
	if b.s != nil {
		b.ok(b.s.Close())
		b.s = nil
	}
}

// reopen closes the store in order and opens it again.
func (b *fixture) reopen() {
	b.Helper()
	b.close()
	b.open()
}

// killed opens the store again after its process has died.
func (b *fixture) killed() {
	b.Helper()
	b.opener.Kill(b.T, b.s)
	b.s = nil
	b.open()
}

func (b *fixture) ok(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// is checks that err is want.
func (b *fixture) is(err, want error) {
	b.Helper()
	if !errors.Is(err, want) {
		b.Fatalf("error: got %v, want %v", err, want)
	}
}

func equal[T comparable](b *fixture, what string, got, want T) {
	b.Helper()
	if got != want {
		b.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// eventually polls until ok holds.
func (b *fixture) eventually(what string, ok func() bool) {
	b.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("never happened: %s", what)
		}
	}
}

const (
	long     = time.Hour
	lifetime = 5 * 24 * time.Hour
)

// message makes a message to rcpts whose id is greater than those before it.
func (b *fixture) message(rcpts ...string) store.NewMessage {
	b.Helper()
	return b.messageOf([]byte("Message-ID: <1@capulet.example>\r\nSubject: t\r\n\r\nArt thou not Romeo?\r\n"), rcpts...)
}

func (b *fixture) messageOf(content []byte, rcpts ...string) store.NewMessage {
	b.Helper()
	id := mail.NewID()
	for id <= b.lastID { // made in the same millisecond
		id = mail.NewID()
	}
	b.lastID = id
	return newMessage(b, id, content, rcpts...)
}

func newMessage(t testing.TB, id mail.ID, content []byte, rcpts ...string) store.NewMessage {
	t.Helper()
	buf := mail.NewBuffer("")
	if _, err := buf.Write(content); err != nil {
		t.Fatal(err)
	}
	m := store.NewMessage{Lifetime: lifetime}
	m.ID = id
	m.Content = mail.Bytes(content)
	m.Facts = buf.Facts()
	m.Envelope.Sender = address(t, "juliet@capulet.example")
	for _, r := range rcpts {
		m.Envelope.Recipients = append(m.Envelope.Recipients, mail.Recipient{Address: address(t, r)})
	}
	m.Transfer = mail.TransferID(m.Envelope.Sender, m.Facts)
	m.Trace = []byte("Received: from here; now\r\n")
	m.Origin = mail.Origin{Transport: "smtp", Remote: "192.0.2.1:25", Received: time.UnixMilli(1_750_000_000_000).UTC()}
	buf.Close()
	return m
}

func address(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (b *fixture) put(m store.NewMessage) []store.Lease {
	b.Helper()
	leases, err := b.s.PutMessage(b.ctx, m)
	b.ok(err)
	return leases
}

func (b *fixture) claim(n int, busy ...string) []store.Lease {
	b.Helper()
	leases, err := b.s.Claim(b.ctx, n, long, busy, 0)
	b.ok(err)
	return leases
}

// claimOne claims what must be the only thing due.
func (b *fixture) claimOne() store.Lease {
	b.Helper()
	leases := b.claim(10)
	if len(leases) != 1 {
		b.Fatalf("claimed %d leases, want 1", len(leases))
	}
	return leases[0]
}

func (b *fixture) begin(l store.Lease) store.Lease {
	b.Helper()
	l, err := b.s.BeginAttempt(b.ctx, l, store.WayXMPP)
	b.ok(err)
	return l
}

// settle gives every delivery of a lease the same result.
func (b *fixture) settle(l store.Lease, r store.Result, dsns ...store.NewMessage) {
	b.Helper()
	b.ok(b.s.Settle(b.ctx, settlement(l, r, dsns...)))
}

func settlement(l store.Lease, r store.Result, dsns ...store.NewMessage) store.Settlement {
	return store.Settlement{Lease: l, Results: slices.Repeat([]store.Result{r}, len(l.Deliveries)), DSNs: dsns}
}

func delivered() store.Result {
	return store.Result{State: store.Delivered, Outcome: mail.Outcome{
		Remote: "mx.montague.example", RemoteID: "Q1", Text: "2.0.0 taken", Proof: "pkix", TLS: "TLS1.3 TLS_AES_128_GCM_SHA256"}}
}

func deferred(delay time.Duration, text string) store.Result {
	return store.Result{State: store.Deferred, Delay: delay, Outcome: mail.Outcome{
		Failure: mail.Fail(mail.Unreachable, text, nil), Remote: "mx.montague.example"}}
}

func bounced() store.Result {
	return store.Result{State: store.Bounced, Outcome: mail.Outcome{Failure: mail.Fail(mail.NoSuchMailbox, "", nil)}}
}

func (b *fixture) show(id mail.ID) store.Record {
	b.Helper()
	r, err := b.s.Show(b.ctx, id)
	b.ok(err)
	return r
}

func (b *fixture) list(f store.Filter) []store.Entry {
	b.Helper()
	out, err := b.s.List(b.ctx, f)
	b.ok(err)
	return out
}

// state is where a message's n-th delivery stands.
func (b *fixture) state(id mail.ID, n int) store.State {
	b.Helper()
	for _, e := range b.show(id).Deliveries {
		if e.N == n {
			return e.State
		}
	}
	b.Fatalf("message %s has no delivery %d", id, n)
	return ""
}

func (b *fixture) content(id mail.ID) []byte {
	b.Helper()
	r, err := b.s.OpenContent(b.ctx, id)
	b.ok(err)
	return b.readAll(r)
}

func (b *fixture) readAll(r io.ReadCloser) []byte {
	b.Helper()
	defer r.Close()
	got, err := io.ReadAll(r)
	b.ok(err)
	return got
}

func (b *fixture) sameContent(got, want []byte) {
	b.Helper()
	if !bytes.Equal(got, want) {
		b.Fatalf("content differs: %d octets, want %d", len(got), len(want))
	}
}

// octets makes n octets of every value that are not the same everywhere.
func octets(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7 + i>>10)
	}
	return p
}

package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"path/filepath"
	"testing"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/sqlite"
)

// acceptances looks at the content that a store is asked to accept.
type acceptances struct {
	store.Transfers
	sums [][32]byte
}

func (a *acceptances) Accept(ctx context.Context, k store.TransferKey, h store.ContentHash, m store.NewMessage) ([]mail.ID, []store.Lease, error) {
	r, err := a.OpenTransfer(ctx, k.Name())
	if err != nil {
		return nil, nil, err
	}
	content, err := io.ReadAll(r)
	r.Close()
	if err != nil {
		return nil, nil, err
	}
	ids, leases, err := a.Transfers.Accept(ctx, k, h, m)
	if err == nil {
		a.sums = append(a.sums, sha256.Sum256(content))
	}
	return ids, leases, err
}

// TestContentSwappedAtAnotherNode: a sender with streams to two nodes has one
// of them scan good octets and puts others into the store by way of the other.
// Whatever it does, nothing is accepted but what has the offered hash.
func TestContentSwappedAtAnotherNode(t *testing.T) {
	db, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "spool.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for name, st := range map[string]store.Transfers{"memory": newMemoryStore(), "sqlite": db} {
		t.Run(name, func(t *testing.T) { contentSwapped(t, &acceptances{Transfers: st}) })
	}
}

func contentSwapped(t *testing.T, st *acceptances) {
	good := text(20_000)
	evil := bytes.Repeat([]byte("\n.\nMAIL FROM:<x>\n"), 1000)[:10_000]
	offer := offerXML(good, false, nil, "")
	commit := named("commit", tid1)
	rest := chunkXML(tid1, 10_000, good[10_000:])
	type step struct{ node, payload, want string }
	swap := []step{
		{"first", offer, "ready 0 ok"},
		{"first", chunkXML(tid1, 0, good[:10_000]), "next 10000"},
		{"other", named("abort", tid1), "empty"},
		{"other", offer, "ready 0 ok"},
		{"other", chunkXML(tid1, 0, evil), "next 10000"},
		{"first", offer, "ready 10000 ok"},
	}
	for name, steps := range map[string][]step{
		"the rest at the first node": {{"first", rest, "unknown"}, {"first", commit, "unknown"},
			{"first", offer, "ready 10000 ok"}, {"first", rest, "next 20000"}, {"first", commit, "error bad-request 4.5.2"}},
		"the rest at the other": {{"other", rest, "next 20000"}, {"first", offer, "ready 20000 ok"},
			{"first", commit, "error bad-request 4.5.2"}},
		"commit at the other": {{"other", rest, "next 20000"}, {"first", commit, "next 10000"},
			{"other", commit, "error bad-request 4.5.2"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := ServerConfig{Receiver: &gateway{store: st}, Transfers: st}
			nodes := map[string]*Server{"first": NewServer(config), "other": NewServer(config)}
			defer func() {
				if err := st.TransferAbort(t.Context(), store.TransferKey{Domain: montague.Remote, Local: montague.Local, ID: tid1}); err != nil {
					t.Error(err)
				}
			}()
			x := &setup{}
			for i, s := range append(swap[:len(swap):len(swap)], steps...) {
				x.server = nodes[s.node]
				if got := x.ask(t, montague, "set", s.payload); got != s.want {
					t.Errorf("step %d at the %s: got %q, want %q", i, s.node, got, s.want)
				}
			}
			if len(st.sums) != 0 {
				t.Errorf("accepted with hash %x, offered was %x", st.sums[0], sha256.Sum256(good))
			}
		})
	}
	x := &setup{server: NewServer(ServerConfig{Receiver: &gateway{store: st}, Transfers: st})}
	for _, s := range []step{{"", offer, "ready 0 ok"}, {"", chunkXML(tid1, 0, good[:10_000]), "next 10000"},
		{"", offer, "ready 10000 ok"}, {"", rest, "next 20000"}, {"", commit, "accepted id"}} {
		if got := x.ask(t, montague, "set", s.payload); got != s.want {
			t.Errorf("in order: got %q, want %q", got, s.want)
		}
	}
	if len(st.sums) != 1 || st.sums[0] != sha256.Sum256(good) {
		t.Errorf("what was accepted in order: %x", st.sums)
	}
}

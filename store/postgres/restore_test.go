package postgres

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

// TestRestoreRacesMaintain: what Maintain is removing the content of at this moment
// is not brought back without it.
func TestRestoreRacesMaintain(t *testing.T) {
	name := newSchema()
	s := node(t, name, "a")
	m := newMessage(t, 10, "romeo@montague.example")
	if _, err := s.PutMessage(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Drop(t.Context(), store.One(m.ID, -1, "me")); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	c, err := pgx.Connect(t.Context(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	tx, err := c.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SET LOCAL search_path = `+name); err != nil {
		t.Fatal(err)
	}
	for _, step := range removals(store.Retention{}) {
		if step.what == "content of dropped messages" {
			if tag, err := tx.Exec(t.Context(), step.sql, maintainBatch, 0.0); err != nil || tag.RowsAffected() != 1 {
				t.Fatal(tag, err)
			}
		}
	}
	type answer struct {
		n   int
		err error
	}
	restored := make(chan answer, 1)
	go func() {
		n, err := s.Restore(t.Context(), store.One(m.ID, -1, "me"))
		restored <- answer{n, err}
	}()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if count(t, name, `SELECT count(*)::int FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'`, "mailxmppd a") > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the verb never waited for the removal")
		}
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := <-restored; a.n != 0 || !errors.Is(a.err, store.ErrNotFound) {
		t.Errorf("restored %d, %v", a.n, a.err)
	}
	if leases, err := s.Claim(t.Context(), 1, time.Hour, nil, 0); err != nil || len(leases) != 0 {
		t.Errorf("%d leases of a message without content, %v", len(leases), err)
	}
}

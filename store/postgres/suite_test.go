package postgres

import (
	"testing"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Opener { return &opener{schema: newSchema()} })
}

// opener opens one schema under one node name.
type opener struct{ schema string }

func (o *opener) Open(t *testing.T) store.Store { return node(t, o.schema, "node-"+o.schema) }

// Kill cuts all connections from the server's side, as it would after the
// death of the process: what was running is rolled back.
func (o *opener) Kill(t *testing.T, s store.Store) {
	t.Helper()
	exec(t, o.schema, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = $1`, "mailxmppd node-"+o.schema)
	s.Close()
}

func (o *opener) Damage(t *testing.T, _ store.Store, id mail.ID, column, value string) {
	t.Helper()
	exec(t, o.schema, `UPDATE messages SET `+column+` = $2 WHERE id = $1`, id, value)
}

// TestUnreadable: a check names what cannot be read, whether it is held or not.
func TestUnreadable(t *testing.T) {
	name := newSchema()
	s := node(t, name, "a")
	for range 3 {
		if _, err := s.PutMessage(t.Context(), newMessage(t, 10, "romeo@montague.example")); err != nil {
			t.Fatal(err)
		}
	}
	bad := newMessage(t, 10, "romeo@montague.example")
	if _, err := s.PutMessage(t.Context(), bad); err != nil {
		t.Fatal(err)
	}
	exec(t, name, `UPDATE messages SET facts = 'no' WHERE id = $1`, bad.ID)
	found, err := Unreadable(t.Context(), Config{URL: server.URL, Schema: name})
	if err != nil || found.Count != 1 || found.First[0].ID != bad.ID {
		t.Fatalf("found %+v, %v", found, err)
	}
	if leases, err := s.Claim(t.Context(), 10, time.Hour, nil, 0); err != nil || len(leases) != 3 {
		t.Fatalf("claimed %d leases, %v", len(leases), err)
	}
}

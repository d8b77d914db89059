package postgres

import (
	"testing"

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

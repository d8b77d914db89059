package faults

import (
	"fmt"
	"strings"
	"testing"

	"mailxmppd/lab/harness"
)

// TestClockBehind: gateways on SQLite that start with a clock that is an hour
// behind, and then one that is an hour ahead, as a machine without a battery
// for its clock does; mail that waits does not wait for the clock. That a clock
// set while they run does nothing is store/sqlite's TestSteadyClock.
func TestClockBehind(t *testing.T) {
	t.Parallel()
	s := newSite(t, "sqlite: clock behind and ahead", sqliteIn(shortDir(t), "a.example"), sqliteIn(shortDir(t), "b.example"))
	s.start()
	stop := s.load(20)
	defer stop()
	s.flows(10)
	for _, by := range []string{"-1h", "1h", "-1h"} {
		s.blow()
		must(t, s.pair.B.Kill())
		deferred := strings.Count(s.pair.A.Log(), "msg=deferred")
		s.eventually("mail waits", func() bool { return strings.Count(s.pair.A.Log(), "msg=deferred") > deferred })
		must(t, s.pair.A.Kill())
		s.env = []string{"MAILXMPPD_CLOCK_BY=" + by}
		s.start()
		s.flows(20)
	}
	stop()
	s.judge()
}

// TestDatabaseClock: the database's clock, by which all leases go, is set an
// hour on under load, by a now() that stands before the system's. All leases
// run out at once; those of attempts that are running are lost, and that shows.
func TestDatabaseClock(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	makeSchemas(t, server.URL, "clock")
	a, b := postgresAt(server.URL, "a.example", "clock"), postgresAt(server.URL, "b.example", "clock")
	for _, side := range []harness.Side{a, b} {
		must(t, server.Exec(t.Context(),
			fmt.Sprintf(`CREATE TABLE %s.clock AS SELECT interval '0' AS by`, side.Schema),
			fmt.Sprintf(`CREATE FUNCTION %s.now() RETURNS timestamptz STABLE LANGUAGE sql AS 'SELECT pg_catalog.now() + by FROM %[1]s.clock'`, side.Schema)))
	}
	s := newSite(t, "postgres: the database's clock set", a, b, "MAILXMPPD_OWN_NOW=1", "MAILXMPPD_SLOW_AT=smtp.after-dot:200ms")
	s.start()
	stop := s.load(20)
	defer stop()
	for hours := 1; hours <= 3; hours++ {
		s.flows(10)
		s.blow()
		for _, side := range []harness.Side{a, b} {
			must(t, server.Exec(t.Context(), fmt.Sprintf(`UPDATE %s.clock SET by = interval '%d hours'`, side.Schema, hours)))
		}
	}
	s.flows(10)
	stop()
	s.judge()
	t.Logf("leases lost: %d", strings.Count(s.pair.A.Log()+s.pair.B.Log(), "lease lost")+strings.Count(s.pair.A.Log()+s.pair.B.Log(), "settlement refused"))
}

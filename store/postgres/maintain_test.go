package postgres

import (
	"strings"
	"testing"
	"time"

	"mailxmppd/store"
)

// TestRemoveWithinTime: where the server's time does not suffice for as much as is
// removed at once, it is removed in smaller parts; where it never does, all other
// removals go on, and the error says which.
func TestRemoveWithinTime(t *testing.T) {
	t.Parallel()
	name := newSchema()
	s := node(t, name, "a")
	const waiting = 250
	exec(t, name, `INSERT INTO policies SELECT 'd' || i, '', now() - interval '1 hour' FROM generate_series(1, $1::int) i`, waiting)
	exec(t, name, `INSERT INTO uses SELECT 'u' || i, '', now() - interval '1 hour' FROM generate_series(1, $1::int) i`, waiting)
	// As a statement that takes too long ends.
	atMost := func(n string) {
		exec(t, name, `CREATE OR REPLACE FUNCTION too_long() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF (SELECT count(*) FROM gone) > `+n+` THEN RAISE EXCEPTION 'too long' USING ERRCODE = '57014'; END IF; RETURN NULL; END $$`)
	}
	atMost("100")
	exec(t, name, `CREATE TRIGGER too_long AFTER DELETE ON policies REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION too_long()`)
	keep := store.Retention{Acceptances: time.Hour, Transfers: time.Hour, Traces: time.Hour, Dropped: time.Hour, TLSReports: time.Hour}
	left := func(table string) int { return count(t, name, `SELECT count(*) FROM `+table) }
	if more, err := s.Maintain(t.Context(), keep); !more || err != nil || left("policies") != waiting-100 || left("uses") != 0 {
		t.Errorf("more %v, %v: %d policies and %d uses are left", more, err, left("policies"), left("uses"))
	}
	exec(t, name, `INSERT INTO uses SELECT 'u' || i, '', now() - interval '1 hour' FROM generate_series(1, $1::int) i`, waiting)
	atMost("0")
	if more, err := s.Maintain(t.Context(), keep); more || err == nil || !strings.Contains(err.Error(), "remove expired policies") || left("uses") != 0 {
		t.Errorf("more %v, %v: %d uses are left", more, err, left("uses"))
	}
}

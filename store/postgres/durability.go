package postgres

import (
	"context"
	"strings"
)

// Durability is what the server promises of a commit that it has answered.
type Durability struct {
	Commit   string // synchronous_commit as it holds for us: "on" or more
	Required string // synchronous_standby_names: which standbys a commit waits for; "" for none
	Standbys int    // standbys that stream from the server now
	Waited   int    // of them, those that a commit waits for
	Hidden   bool   // our role may not see the standbys' states: Waited says nothing
}

// SurvivesFailover reports whether an answered commit is on another server
// too, so that a fail-over loses no accepted mail.
func (d Durability) SurvivesFailover() bool {
	synchronous := d.Commit == "on" || d.Commit == "remote_write" || d.Commit == "remote_apply"
	return synchronous && d.Required != "" && (d.Waited > 0 || d.Hidden)
}

// Durability asks the server.
func (s *Store) Durability(ctx context.Context) (d Durability, err error) {
	// pg_stat_replication shows states to roles with pg_read_all_stats only.
	err = s.pool.QueryRow(ctx, `
		SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names'),
			count(pid), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')), count(pid) > 0 AND count(sync_state) = 0
		FROM pg_stat_replication`).Scan(&d.Commit, &d.Required, &d.Standbys, &d.Waited, &d.Hidden)
	d.Required = strings.TrimSpace(d.Required)
	return d, failed(err)
}

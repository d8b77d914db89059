package postgres

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Durability is what the server promises of a commit that it has answered.
type Durability struct {
	Commit   string `json:"synchronous_commit"`        // as it holds for us: "on" or more
	Fsync    string `json:"fsync"`                     // "on", or a crash of the machine loses mail
	Required string `json:"synchronous_standby_names"` // which standbys a commit waits for; "" for none
	Standbys int    `json:"standbys"`                  // that stream from the server now
	Waited   int    `json:"waited_for"`                // of them, those that a commit waits for
	Hidden   bool   `json:"hidden,omitempty"`          // our role may not see the standbys' states: Waited says nothing
}

// SurvivesFailover reports whether an answered commit is on another server
// too, so that a fail-over loses no accepted mail.
func (d Durability) SurvivesFailover() bool {
	synchronous := d.Commit == "on" || d.Commit == "remote_write" || d.Commit == "remote_apply"
	return synchronous && d.Required != "" && (d.Waited > 0 || d.Hidden)
}

// Durability asks the server.
func (s *Store) Durability(ctx context.Context) (Durability, error) {
	d, err := durability(ctx, s.pool)
	return d, failed(err)
}

// asker is a connection, or a pool of them.
type asker interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func durability(ctx context.Context, db asker) (d Durability, err error) {
	// pg_stat_replication shows states to roles with pg_read_all_stats only.
	err = db.QueryRow(ctx, `
		SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('synchronous_standby_names'),
			count(pid), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum')), count(pid) > 0 AND count(sync_state) = 0
		FROM pg_stat_replication`).Scan(&d.Commit, &d.Fsync, &d.Required, &d.Standbys, &d.Waited, &d.Hidden)
	d.Required = strings.TrimSpace(d.Required)
	return d, err
}

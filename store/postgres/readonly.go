package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// errReadOnly is what becomes of writing while the database takes nothing: it
// is a standby, or was set so. Nothing was done, and it can be done again.
var errReadOnly = errors.New("database is read-only (a standby, or default_transaction_read_only is on)")

// mustWrite refuses a connection on which nothing can be written: of several
// servers in the URL the next one is tried, as after a fail-over.
func mustWrite(ctx context.Context, c *pgconn.PgConn) error {
	if err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, c); err != nil {
		return fmt.Errorf("%w: %w", errReadOnly, err)
	}
	return nil
}

// turnedReadOnly reports what the server has told us of itself since the
// connection was made. Such a connection is given up, so that the store writes
// again as soon as a server does.
func turnedReadOnly(c *pgx.Conn) bool {
	for _, name := range []string{"in_hot_standby", "default_transaction_read_only"} {
		if c.PgConn().ParameterStatus(name) == "on" {
			return true
		}
	}
	return false
}

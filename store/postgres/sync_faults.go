//go:build faults

package postgres

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5"
)

// unsafe is asked for by the control run of the flush test, which must fail.
func unsafe() bool { return os.Getenv("MAILXMPPD_SYNC") == "off" }

// syncSettings also puts the schema's functions before the system's, on
// request: the tests set the database's clock by a now() of their own.
func syncSettings(set map[string]string) {
	if os.Getenv("MAILXMPPD_OWN_NOW") != "" {
		set["search_path"] += ", pg_catalog"
	}
	if unsafe() {
		set["synchronous_commit"] = "off"
	}
}

func checkSync(ctx context.Context, c *pgx.Conn) error {
	if unsafe() {
		return nil
	}
	return refuseUnsafe(ctx, c)
}

//go:build faults

package postgres

import (
	"context"
	"os"

	"github.com/jackc/pgx/v5"
)

// unsafe is asked for by the control run of the flush test, which must fail.
func unsafe() bool { return os.Getenv("MAILXMPPD_SYNC") == "off" }

func syncSettings(set map[string]string) {
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

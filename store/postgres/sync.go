//go:build !faults

package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

func syncSettings(map[string]string) {}

func checkSync(ctx context.Context, c *pgx.Conn) error { return refuseUnsafe(ctx, c) }

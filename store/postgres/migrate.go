package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"mailxmppd/schema"
	"mailxmppd/store"
)

// migrateTimeout bounds one start-up's schema work, waiting for another
// node's included.
const migrateTimeout = 5 * time.Minute

// migrate makes the schema and brings it up to date. Nodes that start together
// take turns under an advisory lock, which dies with its connection.
func migrate(ctx context.Context, cfg *pgx.ConnConfig, name string) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	cfg = cfg.Copy()
	cfg.RuntimeParams["statement_timeout"] = "0"
	guard, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer guard.Close(context.WithoutCancel(ctx))
	if err := checkSync(ctx, guard); err != nil {
		return err
	}
	if _, err := guard.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockKey("schema", name)); err != nil {
		return err
	}
	var there bool
	if err := guard.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, name).Scan(&there); err != nil {
		return err
	}
	if !there { // asked first: a role without CREATE may use a schema made for it
		if _, err := guard.Exec(ctx, `CREATE SCHEMA `+pgx.Identifier{name}.Sanitize()); err != nil {
			return err
		}
	}
	return applyMigrations(ctx, cfg)
}

func applyMigrations(ctx context.Context, cfg *pgx.ConnConfig) error {
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, schema.Postgres())
	if err != nil {
		return err
	}
	has, knows, err := p.GetVersions(ctx)
	if err != nil {
		return err
	}
	if has > knows {
		return fmt.Errorf("%w: its schema is version %d, this program knows %d", store.ErrNewer, has, knows)
	}
	_, err = p.Up(ctx)
	return err
}

package postgres

import (
	"context"
	"encoding/json"
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
// take turns under an advisory lock of the one connection that all of this
// runs on, with which it ends.
func migrate(ctx context.Context, cfg *pgx.ConnConfig, name string) error {
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	cfg = cfg.Copy()
	cfg.RuntimeParams["statement_timeout"] = "0"
	db := stdlib.OpenDB(*cfg)
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(ctx, `SELECT pg_advisory_lock($1)`, lockKey("schema", name)); err != nil {
		return err
	}
	var there bool
	if err := db.QueryRowContext(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, name).Scan(&there); err != nil {
		return err
	}
	if !there { // asked first: a role without CREATE may use a schema made for it
		if _, err := db.ExecContext(ctx, `CREATE SCHEMA `+pgx.Identifier{name}.Sanitize()); err != nil {
			return err
		}
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, schema.Postgres(),
		goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()), goose.WithAllowOutofOrder(true))
	if err != nil {
		return err
	}
	if _, err := p.GetDBVersion(ctx); err != nil { // which makes its table
		return err
	}
	var applied []byte
	if err := db.QueryRowContext(ctx, appliedVersions+`goose_db_version WHERE is_applied`).Scan(&applied); err != nil {
		return err
	}
	has, knows, err := standing(applied)
	if err != nil {
		return err
	}
	if has > knows {
		return fmt.Errorf("%w: its schema is version %d, this program knows %d", store.ErrNewer, has, knows)
	}
	if has == knows {
		return nil
	}
	_, err = p.Up(ctx)
	return err
}

// appliedVersions are those of a table of migrations, as JSON.
const appliedVersions = `SELECT coalesce(json_agg(DISTINCT version_id), '[]')::text FROM `

// standing compares the migrations of a schema with ours; store.ErrNewer where one
// of another program was applied among them.
func standing(applied []byte) (has, knows int64, err error) {
	var versions []int64
	if err := json.Unmarshal(applied, &versions); err != nil {
		return 0, 0, err
	}
	has, knows, unknown, err := schema.Standing(schema.Postgres(), versions)
	if err == nil && len(unknown) > 0 && has <= knows {
		err = fmt.Errorf("%w: its schema has version %d, which this program does not know", store.ErrNewer, unknown[0])
	}
	return has, knows, err
}

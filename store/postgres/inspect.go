package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"mailxmppd/schema"
	"mailxmppd/store"
)

// Inspect tells of a store what can be told without opening it, and what the
// server promises of its commits.
func Inspect(ctx context.Context, cfg Config) (r store.Report, d Durability, err error) {
	ccfg, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return r, d, withoutSecret(err)
	}
	ccfg.RuntimeParams["search_path"] = cfg.Schema
	c, err := pgx.ConnectConfig(ctx, ccfg)
	if err != nil {
		return r, d, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if d, err = durability(ctx, c); err == nil {
		err = refuseUnfinished(ctx, c, cfg.Schema)
	}
	if err != nil {
		return r, d, failed(err)
	}
	if r.Knows, err = schema.Newest(schema.Postgres()); err != nil {
		return r, d, err
	}
	// One snapshot, so that the numbers fit together.
	err = pgx.BeginTxFunc(ctx, c, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		table := pgx.Identifier{cfg.Schema, "goose_db_version"}.Sanitize()
		var there bool
		if err := tx.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, table).Scan(&there); err != nil || !there {
			return err
		}
		var applied string
		err := tx.QueryRow(ctx, appliedVersions+table+` WHERE is_applied`).Scan(&applied)
		if err == nil {
			r.Schema, r.Knows, err = standing([]byte(applied))
		}
		if err != nil || r.Schema != r.Knows {
			return err
		}
		return countRows(ctx, tx, cfg.Schema, &r)
	})
	if err != nil {
		return r, d, fmt.Errorf("schema %s: %w", cfg.Schema, failed(err))
	}
	return r, d, nil
}

func countRows(ctx context.Context, tx pgx.Tx, name string, r *store.Report) error {
	in := func(table string) string { return pgx.Identifier{name, table}.Sanitize() }
	for table, n := range map[string]*int64{"messages": &r.Messages, "acceptances": &r.Acceptances, "transfers": &r.Transfers, "users": &r.Users} {
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM `+in(table)).Scan(n); err != nil {
			return err
		}
	}
	rows, err := tx.Query(ctx, `SELECT `+signingColumns+` FROM `+in("signing_keys")+` ORDER BY domain, created_at, selector`)
	if err != nil {
		return err
	}
	if r.Signing, err = pgx.CollectRows(rows, scanSigningKey); err != nil {
		return err
	}
	rows, err = tx.Query(ctx, `SELECT state, count(*) FROM `+in("deliveries")+` GROUP BY state`)
	if err != nil {
		return err
	}
	r.Deliveries = map[store.State]int64{}
	var state store.State
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&state, &n}, func() error {
		r.Deliveries[state] = n
		return nil
	})
	return err
}

package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"mailxmppd/schema"
)

// store tells whether the store can be used, without making, migrating or
// locking it.
func (n *inspection) store(ctx context.Context) {
	if n.running != nil && n.running.Status != "ok" {
		n.add(levelError, "store", "does not answer the running gateway")
	}
	if path, ok := n.cfg.Store.SQLitePath(); ok {
		n.sqliteStore(ctx, path)
		return
	}
	n.postgresStore(ctx)
}

func (n *inspection) sqliteStore(ctx context.Context, path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		probe, err := os.CreateTemp(filepath.Dir(path), ".mailxmppd-check-*")
		if err != nil {
			n.add(levelError, "store", "cannot be made: %s", err)
			return
		}
		probe.Close()
		os.Remove(probe.Name())
		n.add(levelOK, "store", "%s will be made", path)
		return
	case err != nil:
		n.add(levelError, "store", "%s", err)
		return
	}
	f.Close()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro"}).String())
	if err != nil {
		n.add(levelError, "store", "%s: %s", path, err)
		return
	}
	defer db.Close()
	var has int64
	err = db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied`).Scan(&has)
	if err != nil {
		n.add(levelError, "store", "%s cannot be read as a store: %s", path, err)
		return
	}
	n.schema(path, has, schema.SQLite())
}

func (n *inspection) postgresStore(ctx context.Context) {
	where := n.cfg.Redacted().Store.URL
	conn, err := pgx.Connect(ctx, n.cfg.Store.URL)
	if err != nil {
		n.add(levelError, "store", "%s: %s", where, withoutURL(err))
		return
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var commit, fsync, standbys string
	err = conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('synchronous_standby_names')`).
		Scan(&commit, &fsync, &standbys)
	if err != nil {
		n.add(levelError, "store", "%s: %s", where, err)
		return
	}
	if commit == "off" || fsync == "off" {
		n.add(levelError, "store", "synchronous_commit is %s and fsync is %s: accepted mail would be lost in a crash", commit, fsync)
	}
	if standbys == "" {
		n.add(levelWarning, "store", "no synchronous standby: a fail-over of the database would lose the newest mail")
	}
	table := pgx.Identifier{n.cfg.Store.Schema, "goose_db_version"}.Sanitize()
	var there bool
	if err = conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, table).Scan(&there); err == nil && !there {
		n.add(levelOK, "store", "schema %s will be made in %s", n.cfg.Store.Schema, where)
		return
	}
	var has int64
	if err == nil {
		err = conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+table+` WHERE is_applied`).Scan(&has)
	}
	if err != nil {
		n.add(levelError, "store", "schema %s in %s: %s", n.cfg.Store.Schema, where, err)
		return
	}
	n.schema("schema "+n.cfg.Store.Schema+" in "+where, has, schema.Postgres())
}

// withoutURL keeps a password out of what a refused URL is answered with.
func withoutURL(err error) error {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return errors.New("is not a URL that PostgreSQL takes")
	}
	return err
}

// schema compares the version of a store with the newest that this program
// brings.
func (n *inspection) schema(where string, has int64, migrations fs.FS) {
	knows, err := newest(migrations)
	switch {
	case err != nil:
		n.add(levelError, "store", "%s", err)
	case has > knows:
		n.add(levelError, "store", "%s is at schema version %d, this program knows %d: a newer program wrote it", where, has, knows)
	case has < knows:
		n.add(levelOK, "store", "%s is at schema version %d and will be brought to %d", where, has, knows)
	default:
		n.add(levelOK, "store", "%s is at schema version %d", where, has)
	}
}

// newest returns the highest number among the names of migrations.
func newest(migrations fs.FS) (int64, error) {
	names, err := fs.Glob(migrations, "*.sql")
	if err != nil {
		return 0, err
	}
	var high int64
	for _, name := range names {
		number, _, _ := strings.Cut(name, "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("migration %s has no number", name)
		}
		high = max(high, n)
	}
	return high, nil
}

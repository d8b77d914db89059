package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mailxmppd/store/postgres"
	"mailxmppd/store/sqlite"
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
		n.keysKnown = true
		return
	case err != nil:
		n.add(levelError, "store", "%s", err)
		return
	}
	f.Close()
	r, err := sqlite.Inspect(ctx, path)
	if err != nil {
		n.add(levelError, "store", "cannot be used: %s", err)
		return
	}
	n.schema(path, r.Schema, r.Knows)
	n.keys, n.keysKnown = r.Signing, r.Schema == r.Knows
}

func (n *inspection) postgresStore(ctx context.Context) {
	where := n.cfg.Redacted().Store.URL
	r, d, err := postgres.Inspect(ctx, postgres.Config{URL: n.cfg.Store.URL, Schema: n.cfg.Store.Schema})
	if err != nil {
		n.add(levelError, "store", "%s: %s", where, err)
		return
	}
	for _, p := range unsafe(d) {
		n.add(p.Level, "store", "%s", p.Text)
	}
	if r.Schema == 0 {
		n.add(levelOK, "store", "schema %s will be made in %s", n.cfg.Store.Schema, where)
		n.keysKnown = true
		return
	}
	n.schema("schema "+n.cfg.Store.Schema+" in "+where, r.Schema, r.Knows)
	n.keys, n.keysKnown = r.Signing, r.Schema == r.Knows
}

// unsafe says what a PostgreSQL server does not promise of accepted mail.
func unsafe(d postgres.Durability) (found []finding) {
	add := func(l level, format string, args ...any) {
		found = append(found, finding{Level: l, Part: "store", Text: fmt.Sprintf(format, args...)})
	}
	switch {
	case d.Commit == "off" || d.Fsync == "off":
		add(levelError, "synchronous_commit is %s and fsync is %s: accepted mail would be lost in a crash", d.Commit, d.Fsync)
	case d.Required == "":
		add(levelWarning, "no synchronous standby: a fail-over of the database would lose the newest mail")
	case d.Commit == "local":
		add(levelWarning, "synchronous_commit is local, which waits for no standby: a fail-over of the database would lose the newest mail")
	case !d.SurvivesFailover():
		add(levelWarning, "synchronous_standby_names is %q but no such standby streams: every write waits until one does", d.Required)
	}
	return found
}

// schema compares the version of a store with the newest that this program
// brings.
func (n *inspection) schema(where string, has, knows int64) {
	switch {
	case has > knows:
		n.add(levelError, "store", "%s is at schema version %d, this program knows %d: a newer program wrote it", where, has, knows)
	case has < knows:
		n.add(levelOK, "store", "%s is at schema version %d and will be brought to %d", where, has, knows)
	default:
		n.add(levelOK, "store", "%s is at schema version %d", where, has)
	}
}

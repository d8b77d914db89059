// Package schema holds what is not Go but belongs into the executable: the
// migrations of both databases, numbered for goose. A migration that has been
// released is never changed, only followed by another.
package schema

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

//go:embed sqlite/*.sql postgres/*.sql
var files embed.FS

// SQLite returns the migrations of store/sqlite.
func SQLite() fs.FS { return sub("sqlite") }

// Postgres returns the migrations of store/postgres.
func Postgres() fs.FS { return sub("postgres") }

// sub cannot fail: the folder's name is valid, which is all that fs.Sub asks.
func sub(dir string) fs.FS {
	f, _ := fs.Sub(files, dir)
	return f
}

// Migration is one step of a schema.
type Migration struct {
	Version int64  `json:"version"`
	Name    string `json:"name"`
}

// Migrations lists those above a version, in their order.
func Migrations(of fs.FS, above int64) ([]Migration, error) {
	files, err := fs.Glob(of, "*.sql") // sorted, and the numbers have leading zeros
	if err != nil {
		return nil, err
	}
	var out []Migration
	for _, file := range files {
		number, name, _ := strings.Cut(strings.TrimSuffix(file, ".sql"), "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("migration %s has no number", file)
		}
		if n > above {
			out = append(out, Migration{n, name})
		}
	}
	return out, nil
}

// Newest is the version of a schema that all migrations have been applied to.
func Newest(of fs.FS) (int64, error) {
	all, err := Migrations(of, 0)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	return all[len(all)-1].Version, nil
}

// Standing compares the versions that were applied to a database with the
// migrations known here, one by one: the newest of either side says nothing of
// what is missing below it. has is up to where all known ones were applied, or
// what a newer program applied above all that are known; unknown are applied ones
// that are not known, which a database of ours has none of.
func Standing(of fs.FS, applied []int64) (has, knows int64, unknown []int64, err error) {
	all, err := Migrations(of, 0)
	if err != nil {
		return 0, 0, nil, err
	}
	gap := false
	for _, m := range all {
		if gap = gap || !slices.Contains(applied, m.Version); !gap {
			has = m.Version
		}
		knows = m.Version
	}
	for _, v := range applied {
		if v > 0 && !slices.ContainsFunc(all, func(m Migration) bool { return m.Version == v }) {
			unknown = append(unknown, v)
			if v > knows {
				has = max(has, v)
			}
		}
	}
	return has, knows, unknown, nil
}

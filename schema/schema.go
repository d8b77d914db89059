// Package schema holds what is not Go but belongs into the executable: the
// migrations of both databases, numbered for goose. A migration that has been
// released is never changed, only followed by another.
package schema

import (
	"embed"
	"io/fs"
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

package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"os"
	"strings"
	"time"

	"mailxmppd/mail/faults"
	"mailxmppd/store"
)

// Source is a store that is moved to another backend. It is open, so that its
// schema is this program's, the leases of its last owner are ended, and nobody
// else has it.
type Source struct {
	s *Store
	c *conn
}

var _ store.MoveSource = (*Source)(nil)

// OpenSource opens the store that is to be moved; there must be one. One that was
// marked by a move that may not have come to its end is opened by this alone.
func OpenSource(ctx context.Context, cfg Config) (*Source, error) {
	if _, err := os.Stat(cfg.Path); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	s, err := openFor(ctx, cfg, true)
	if err != nil {
		return nil, err
	}
	c, err := openConn((&url.URL{Scheme: "file", Path: cfg.Path}).String(), "busy_timeout=10000", "query_only=1", "cache_size=-8192")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store %s: %w", cfg.Path, err), s.Close())
	}
	return &Source{s: s, c: c}, nil
}

// Close closes the store.
func (x *Source) Close() error { return errors.Join(x.c.close(), x.s.Close()) }

// Tables implements store.MoveSource: the tables are those of the database
// itself, so that none is left behind that a later schema brings.
func (x *Source) Tables(ctx context.Context) (tables []store.MoveTable, err error) {
	var names []string
	err = x.c.query(`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
		AND name NOT IN ('goose_db_version', 'loose', '`+movedTable+`', '`+movingTable+`') ORDER BY name`, nil, func(r row) error {
		names = append(names, r.text(0))
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		t := store.MoveTable{Name: name}
		if t.Columns, err = x.columns(ctx, name); err != nil {
			return nil, err
		}
		where := ""
		if name == "content" {
			where = " WHERE " + apartContent
		}
		n, err := x.c.first("SELECT count(*) FROM " + quoted(name) + where)
		if err != nil {
			return nil, err
		}
		t.Rows = n.int(0)
		tables = append(tables, t)
	}
	return tables, ctx.Err()
}

// columns names what the export of a table gives.
func (x *Source) columns(ctx context.Context, table string) ([]string, error) {
	st, err := x.c.prepared(exportOf(table), nil)
	if err != nil {
		return nil, err
	}
	rows, err := st.(driver.StmtQueryContext).QueryContext(ctx, nil)
	if err != nil {
		return nil, explain(err)
	}
	return rows.Columns(), explain(rows.Close())
}

// Export implements store.MoveSource.
func (x *Source) Export(ctx context.Context, t store.MoveTable) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		values := make([]any, len(t.Columns))
		var content, start int64 // where the pieces of a content stand
		err := x.c.query(exportOf(t.Name), nil, func(r row) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			for i, v := range r {
				values[i] = v
			}
			if t.Name == "content" { // content_id, start, data
				if r.int(0) != content {
					content, start = r.int(0), 0
				}
				values[1] = start
				start += int64(len(r.blob(2)))
			}
			if !yield(values, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// movedTable is there once the store was moved, movingTable from just before its
// target is committed until then. They are no part of the schema's migrations:
// their being there is what they say.
const (
	movedTable  = "moved"
	movingTable = "moving"
)

// MovingTo implements store.MoveSource.
func (x *Source) MovingTo(ctx context.Context) (to string, err error) {
	err = x.s.read(ctx, func(c *conn) error {
		to, _, err = markOf(c, movingTable)
		return err
	})
	return to, err
}

// MarkMoving implements store.MoveSource.
func (x *Source) MarkMoving(ctx context.Context, to string) error {
	err := x.s.writer.do(ctx, plain, 0, func(c *conn) error {
		if _, err := c.exec("DROP TABLE IF EXISTS " + movingTable); err != nil {
			return err
		}
		if _, err := c.exec("CREATE TABLE " + movingTable + " (target TEXT NOT NULL, at INTEGER NOT NULL) STRICT"); err != nil {
			return err
		}
		_, err := c.exec("INSERT INTO "+movingTable+" (target, at) VALUES (?, ?)", to, x.s.now())
		return err
	})
	if err == nil {
		faults.Point("move.marked")
	}
	return err
}

// Unmark implements store.MoveSource.
func (x *Source) Unmark(ctx context.Context) error {
	return x.s.writer.do(ctx, plain, 0, func(c *conn) error {
		_, err := c.exec("DROP TABLE IF EXISTS " + movingTable)
		return err
	})
}

// MarkMoved implements store.MoveSource.
func (x *Source) MarkMoved(ctx context.Context) error {
	return x.s.writer.do(ctx, plain, 0, func(c *conn) error {
		_, err := c.exec("ALTER TABLE " + movingTable + " RENAME TO " + movedTable)
		return err
	})
}

// markOf reads a mark, "" where there is none.
func markOf(c *conn, table string) (to string, at time.Time, err error) {
	r, err := c.first("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?", table)
	if err != nil || r == nil {
		return "", at, err
	}
	if r, err = c.first("SELECT target, at FROM " + table); err != nil || r == nil {
		return "", at, err
	}
	return r.text(0), time.UnixMilli(r.int(1)).UTC(), nil
}

// refuseMoved keeps a store from being used that was moved: its mail would be
// delivered twice. A mover may go on with a move that has not come to its end.
func refuseMoved(c *conn, mover bool) error {
	to, at, err := markOf(c, movedTable)
	if err == nil && to != "" {
		err = fmt.Errorf("the mail that was here was moved to %s on %s: name that store in the configuration", to, at.Format(time.DateTime))
	}
	if err != nil || mover {
		return err
	}
	if to, at, err = markOf(c, movingTable); err == nil && to != "" {
		err = fmt.Errorf("the mail that is here is on its way to %s since %s: run mailxmppd store move to it again", to, at.Format(time.DateTime))
	}
	return err
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

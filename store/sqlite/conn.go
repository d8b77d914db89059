package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	driversqlite "modernc.org/sqlite"
)

// conn is one connection to the database with its prepared statements, kept
// for as long as it lives: the statements are the constants of this package,
// so there is a bounded number of them. It speaks to the driver itself, since
// database/sql's pool, locks and conversions cost more per statement than
// many of ours. Not safe for concurrent use.
type conn struct {
	db    driver.Conn
	stmts map[string]driver.Stmt
	args  []driver.NamedValue // reused
	wrote bool                // something was, or may have been, changed since it was last cleared
}

// row is one row of an answer: int64, string, []byte or nil.
type row []driver.Value

func (r row) int(i int) int64   { v, _ := r[i].(int64); return v }
func (r row) text(i int) string { v, _ := r[i].(string); return v }
func (r row) blob(i int) []byte { v, _ := r[i].([]byte); return v }
func (r row) bool(i int) bool   { return r.int(i) != 0 }

// errEnough ends a query before its last row.
var errEnough = errors.New("enough rows")

// openConn opens path and applies the pragmas in their order.
func openConn(path string, pragmas ...string) (*conn, error) {
	db, err := new(driversqlite.Driver).Open(path)
	if err != nil {
		return nil, explain(err)
	}
	c := &conn{db: db, stmts: map[string]driver.Stmt{}}
	for _, p := range pragmas {
		if err := c.pragma(p); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

// pragma runs a PRAGMA, which must not be prepared ahead: some act when they
// are compiled.
func (c *conn) pragma(p string) error {
	_, err := c.db.(driver.ExecerContext).ExecContext(context.Background(), "PRAGMA "+p, nil)
	return explain(err)
}

func (c *conn) close() error {
	var first error
	for _, st := range c.stmts {
		first = errors.Join(first, st.Close())
	}
	return explain(errors.Join(first, c.db.Close()))
}

// prepared returns the statement for a query and binds its arguments.
func (c *conn) prepared(query string, args []any) (driver.Stmt, error) {
	st := c.stmts[query]
	if st == nil {
		var err error
		if st, err = c.db.Prepare(query); err != nil {
			return nil, fmt.Errorf("%w in %q", explain(err), query)
		}
		c.stmts[query] = st
	}
	c.args = c.args[:0]
	for i, a := range args {
		switch v := a.(type) {
		case int:
			a = int64(v)
		case bool:
			a = int64(0)
			if v {
				a = int64(1)
			}
		}
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return st, nil
}

// exec runs a statement that changes something and says how many rows.
func (c *conn) exec(query string, args ...any) (int64, error) {
	st, err := c.prepared(query, args)
	if err != nil {
		return 0, err
	}
	res, err := st.(driver.StmtExecContext).ExecContext(context.Background(), c.args)
	if err != nil {
		c.wrote = true
		return 0, explain(err)
	}
	n, err := res.RowsAffected()
	if n > 0 {
		c.wrote = true
	}
	return n, err
}

// query calls each for every row; errEnough from it ends the query well.
func (c *conn) query(query string, args []any, each func(row) error) (err error) {
	st, err := c.prepared(query, args)
	if err != nil {
		return err
	}
	rows, err := st.(driver.StmtQueryContext).QueryContext(context.Background(), c.args)
	if err != nil {
		return explain(err)
	}
	defer func() {
		if e := rows.Close(); err == nil {
			err = explain(e)
		}
	}()
	r := make(row, len(rows.Columns()))
	for {
		if err := rows.Next(r); err == io.EOF {
			return nil
		} else if err != nil {
			return explain(err)
		}
		if err := each(r); errors.Is(err, errEnough) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// first returns a query's first row; nil if there is none.
func (c *conn) first(query string, args ...any) (row, error) {
	var found row
	err := c.query(query, args, func(r row) error {
		found = append(row(nil), r...)
		return errEnough
	})
	return found, err
}

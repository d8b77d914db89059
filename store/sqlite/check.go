package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"
)

// startCheck bounds the check at the start. Measured: a database of 1 GB took
// one second from the machine's memory, and takes as long as reading it from
// the disk otherwise. Of a larger one only a part is seen; Check sees all.
const startCheck = time.Second

// errDamaged is what a check that found something says.
var errDamaged = errors.New("database is damaged")

// quickCheck looks at every page, within ctx. done is false where the time ran
// out before.
func (c *conn) quickCheck(ctx context.Context) (done bool, err error) {
	return c.examine(ctx, "PRAGMA quick_check(10)")
}

func (c *conn) examine(ctx context.Context, pragma string) (done bool, err error) {
	rows, err := c.db.(driver.QueryerContext).QueryContext(ctx, pragma, nil)
	if ctx.Err() != nil {
		if err == nil {
			rows.Close()
		}
		return false, nil
	}
	if err != nil {
		return true, explain(err)
	}
	defer rows.Close()
	var found []string
	for r := make([]driver.Value, 1); ; {
		switch err := rows.Next(r); {
		case ctx.Err() != nil:
			return false, nil
		case err != nil && len(found) > 0:
			return true, fmt.Errorf("%w: %s", errDamaged, strings.Join(found, "; "))
		case err == io.EOF:
			return true, nil
		case err != nil:
			return true, explain(err)
		case r[0] != "ok":
			found = append(found, fmt.Sprint(r[0]))
		}
	}
}

// checkStart is the check at the start: a store that is damaged is not opened,
// since what is written into it would be lost with it.
func (s *Store) checkStart(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, startCheck)
	defer cancel()
	done, err := c.quickCheck(ctx)
	if err == nil && !done {
		s.log.Info("store is too large to be checked at the start")
	}
	return err
}

// Check examines the whole database at path, indexes included, and changes
// nothing. It works beside a running gateway too.
func Check(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	c, err := openConn((&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro"}).String(), "busy_timeout=10000", "query_only=1")
	if err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	done, err := c.examine(ctx, "PRAGMA integrity_check(10)")
	if err == nil && !done {
		err = ctx.Err()
	}
	if err = errors.Join(err, c.close()); err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	return nil
}

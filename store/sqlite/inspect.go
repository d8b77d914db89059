package sqlite

import (
	"context"
	"fmt"
	"net/url"
	"os"

	"mailxmppd/store"
)

// Inspect tells of the store at path what can be told without opening it; an
// error if it could not be opened. It examines nothing: see Check.
func Inspect(ctx context.Context, path string) (r store.Report, err error) {
	if _, err := os.Stat(path); err != nil {
		return r, err
	}
	if r.Schema, r.Knows, err = versions(ctx, "file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro"); err != nil {
		return r, fmt.Errorf("store %s: %w", path, err)
	}
	if r.Schema != r.Knows {
		return r, nil
	}
	c, err := openConn("file:"+(&url.URL{Path: path}).EscapedPath()+"?mode=ro", "busy_timeout=10000", "query_only=1")
	if err != nil {
		return r, fmt.Errorf("store %s: %w", path, err)
	}
	defer c.close()
	if err := refuseMoved(c, false); err != nil {
		return r, fmt.Errorf("store %s: %w", path, err)
	}
	if _, err := c.exec("BEGIN"); err != nil {
		return r, err
	}
	for table, n := range map[string]*int64{"messages": &r.Messages, "acceptances": &r.Acceptances, "transfers": &r.Transfers, "users": &r.Users} {
		found, err := c.first("SELECT count(*) FROM " + table)
		if err != nil {
			return r, fmt.Errorf("store %s: %w", path, err)
		}
		*n = found.int(0)
	}
	if r.Signing, err = signingKeys(c); err != nil {
		return r, fmt.Errorf("store %s: %w", path, err)
	}
	r.Deliveries = map[store.State]int64{}
	err = c.query("SELECT state, count(*) FROM deliveries GROUP BY state", nil, func(row row) error {
		r.Deliveries[stateOf(row.int(0))] = row.int(1)
		return ctx.Err()
	})
	return r, err
}

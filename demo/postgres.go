package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// checkStore refuses what cannot be a PostgreSQL database. A password in the
// URL is not repeated.
func checkStore(store string) error {
	if store == "" {
		return nil
	}
	u, err := url.Parse(store)
	if err != nil {
		return errors.New("store: not a URL")
	}
	if u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return fmt.Errorf("store %q: want postgres://user@host/database", u.Redacted())
	}
	return nil
}

// newSchema names a schema of its own for a gateway, so that runs and gateways
// share a database without meeting.
func newSchema(domain string) string {
	var b [4]byte
	rand.Read(b[:])
	return "demo_" + strings.ReplaceAll(domain, ".", "_") + "_" + hex.EncodeToString(b[:])
}

// dropWithin bounds the removal of the schemas.
const dropWithin = 20 * time.Second

// dropSchemas removes what the gateways have made in the database. It has a
// time of its own: the run's context has usually ended by then.
func (n *network) dropSchemas() error {
	if n.options.Store == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), dropWithin)
	defer cancel()
	conn, err := pgx.Connect(ctx, n.options.Store)
	if err != nil {
		return fmt.Errorf("dropping the demo's schemas: %w", err)
	}
	defer conn.Close(ctx)
	for _, g := range n.gateways {
		if g.schema == "" {
			continue
		}
		if _, err := conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{g.schema}.Sanitize()+" CASCADE"); err != nil {
			return fmt.Errorf("dropping schema %s: %w", g.schema, err)
		}
	}
	return nil
}

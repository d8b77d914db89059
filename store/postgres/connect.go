package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"mailxmppd/store"
)

// poolConfig turns the URL into the settings of every connection.
func poolConfig(cfg Config) (*pgxpool.Config, error) {
	p, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("store URL: %w", withoutSecret(err))
	}
	p.MaxConns = int32(cfg.MaxConns)
	p.ConnConfig.ConnectTimeout = connectTimeout
	p.ConnConfig.DialFunc = (&net.Dialer{KeepAliveConfig: keepAlive()}).DialContext
	if p.ConnConfig.ValidateConnect == nil { // else the URL says which server is wanted
		p.ConnConfig.ValidateConnect = mustWrite
	}
	set := p.ConnConfig.RuntimeParams
	set["search_path"] = cfg.Schema
	set["application_name"] = "mailxmppd " + cfg.Node
	set["statement_timeout"] = strconv.FormatInt(statementTimeout.Milliseconds(), 10)
	// A transaction of ours never waits for us: one that does has lost us.
	set["idle_in_transaction_session_timeout"] = "20000"
	set["tcp_keepalives_idle"] = "10"
	set["tcp_keepalives_interval"] = "5"
	set["tcp_keepalives_count"] = "3"
	// All our statements find a few rows by an index, so that one plan fits
	// all their parameters; planning anew each time costs a third more of the
	// server's time. But see freshPlans.
	set["plan_cache_mode"] = "force_generic_plan"
	set["enable_seqscan"] = "off"
	set["enable_hashjoin"] = "off"
	set["enable_mergejoin"] = "off"
	set["jit"] = "off"
	// Rows of a group pass through a tuple store; see batchOctets.
	set["work_mem"] = "16MB"
	syncSettings(set)
	p.AfterConnect = checkSync
	return p, nil
}

// usable looks at a connection each time before it is used: ok false has the
// pool take another one. Where one that has lain idle is dead the others may be
// as well, and all are given up: to find out one by one would take the patience
// of many calls.
func (s *Store) usable(ctx context.Context, c *pgx.Conn) (ok bool, err error) {
	if turnedReadOnly(c) {
		return false, nil
	}
	if ok, err = freshPlans(ctx, c); !ok && c.IsClosed() {
		s.pool.Reset()
	}
	return ok, err
}

// planAge is how old a connection's plans may become.
const planAge = 5 * time.Second

// freshPlans has a connection plan its statements anew from time to time. A
// plan made while a table is small may well read all of it, and the server
// would keep it while the queue grows to a million, until its statistics are
// gathered the next time. A server that is there does it at once: one that takes
// as long as a new connection may is gone without a farewell.
func freshPlans(ctx context.Context, c *pgx.Conn) (ok bool, err error) {
	const key = "mailxmppd planned"
	if at, ok := c.PgConn().CustomData()[key].(time.Time); ok && time.Since(at) < planAge {
		return true, nil
	}
	within, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if _, err := c.Exec(within, `DISCARD PLANS`); err != nil {
		return false, ctx.Err() // the pool takes another connection
	}
	c.PgConn().CustomData()[key] = time.Now()
	return true, nil
}

// withoutSecret keeps a password in the URL out of the error.
func withoutSecret(err error) error {
	if _, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return errors.New("not a valid PostgreSQL URL (postgres://user@host:port/database)")
	}
	return err
}

// refuseUnsafe is what every new connection must show before it is used: a
// commit that is answered before it is on disk would make each 250 a lie.
func refuseUnsafe(ctx context.Context, c *pgx.Conn) error {
	var commit, fsync string
	err := c.QueryRow(ctx, `SELECT current_setting('synchronous_commit'), current_setting('fsync')`).Scan(&commit, &fsync)
	switch {
	case err != nil:
		return err
	case commit == "off":
		return errors.New("synchronous_commit is off: accepted mail would be lost in a crash of the database; set it to on")
	case fsync == "off":
		return errors.New("fsync is off: accepted mail would be lost in a crash of the machine; set it to on")
	}
	return nil
}

// failed gives an error of the database the name that the contract has for it.
func failed(err error) error {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pg.Code {
		case "53100": // disk_full
			return fmt.Errorf("%w: %w", store.ErrFull, err)
		case "25006": // read_only_sql_transaction
			return fmt.Errorf("%w: %w", errReadOnly, err)
		}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return store.ErrNotFound
	}
	return err
}

// lost reports whether err is the loss of the connection, or of our patience
// with it, rather than the server's answer.
func lost(err error) bool {
	_, answered := errors.AsType[*pgconn.PgError](err)
	return err != nil && !answered
}

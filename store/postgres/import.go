package postgres

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"mailxmppd/store"
)

// unfinishedTable is there, and names its source, while a move into the schema
// has begun and not ended. It is no part of the schema's migrations: its being
// there is what it says.
const unfinishedTable = "unfinished_move"

// Target is a schema into which a store is moved.
type Target struct {
	config *pgx.ConnConfig
	conn   *pgx.Conn
	tx     pgx.Tx
	schema string
	tables []table
}

var _ store.MoveTarget = (*Target)(nil)

// table is one of the schema's, with what is needed to fill it.
type table struct {
	store.MoveTable
	fields []field // in the order of its columns
}

type field struct {
	column, kind string // as the database names them
	null         bool
}

// OpenTarget connects to where a store is to be moved to, and brings the
// schema up to date.
func OpenTarget(ctx context.Context, cfg Config) (*Target, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	pcfg, err := poolConfig(cfg)
	if err != nil {
		return nil, err
	}
	if err := migrate(ctx, pcfg.ConnConfig, cfg.Schema); err != nil {
		return nil, fmt.Errorf("open store: %w", failed(err))
	}
	// All is read and written once, in one long transaction: what is set for
	// short statements by an index is of no use.
	set := pcfg.ConnConfig.RuntimeParams
	for _, name := range []string{"plan_cache_mode", "enable_seqscan", "enable_hashjoin", "enable_mergejoin"} {
		delete(set, name)
	}
	set["statement_timeout"], set["idle_in_transaction_session_timeout"] = "0", "0"
	t := &Target{config: pcfg.ConnConfig, schema: cfg.Schema}
	if t.conn, err = pgx.ConnectConfig(ctx, pcfg.ConnConfig); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err = checkSync(ctx, t.conn); err == nil {
		err = t.alone(ctx)
	}
	if err == nil {
		t.tables, err = tablesOf(ctx, t.conn, cfg.Schema)
	}
	if err != nil {
		t.Close()
		return nil, fmt.Errorf("open store: %w", failed(err))
	}
	return t, nil
}

// alone lets one move at a time go to the schema.
func (t *Target) alone(ctx context.Context) error {
	var free bool
	err := t.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, lockKey("move", t.schema)).Scan(&free)
	if err == nil && !free {
		err = fmt.Errorf("another move to schema %s is under way", t.schema)
	}
	return err
}

// Close gives up what has not been finished.
func (t *Target) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	return t.conn.Close(ctx)
}

// tablesOf reads the tables from the database, so that none is left empty that
// a later migration makes. Uploads are other programs' unfinished work.
func tablesOf(ctx context.Context, c *pgx.Conn, schema string) (tables []table, err error) {
	rows, err := c.Query(ctx, `SELECT r.relname, a.attname, t.typname, NOT a.attnotnull
		FROM pg_class r JOIN pg_attribute a ON a.attrelid = r.oid JOIN pg_type t ON t.oid = a.atttypid
		WHERE r.relnamespace = to_regnamespace($1) AND r.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
			AND r.relname NOT IN ('goose_db_version', 'uploads', $2) ORDER BY r.relname, a.attnum`, schema, unfinishedTable)
	if err != nil {
		return nil, err
	}
	var name string
	var f field
	_, err = pgx.ForEachRow(rows, []any{&name, &f.column, &f.kind, &f.null}, func() error {
		if len(tables) == 0 || tables[len(tables)-1].Name != name {
			tables = append(tables, table{MoveTable: store.MoveTable{Name: name}})
		}
		shared := f.column
		if f.kind == "timestamptz" {
			shared = strings.TrimSuffix(shared, "_at")
		}
		at := &tables[len(tables)-1]
		at.fields, at.Columns = append(at.fields, f), append(at.Columns, shared)
		return nil
	})
	return tables, err
}

// Tables implements store.MoveTarget.
func (t *Target) Tables(context.Context) ([]store.MoveTable, error) {
	out := make([]store.MoveTable, len(t.tables))
	for i, x := range t.tables {
		out[i] = x.MoveTable
	}
	return out, nil
}

// State implements store.MoveTarget, on a connection of its own: that of the move
// may be what failed.
func (t *Target) State(ctx context.Context) (store.TargetState, error) {
	c, err := pgx.ConnectConfig(ctx, t.config)
	if err != nil {
		return 0, failed(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	if t.conn.IsClosed() {
		// Its commit may be under way yet: the server frees its lock with its end.
		ctx, cancel := context.WithTimeout(ctx, statementTimeout)
		defer cancel()
		if _, err := c.Exec(ctx, `SELECT pg_advisory_lock($1)`, lockKey("move", t.schema)); err != nil {
			return 0, failed(err)
		}
	}
	var unfinished bool
	err = c.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, pgx.Identifier{t.schema, unfinishedTable}.Sanitize()).Scan(&unfinished)
	if err != nil || unfinished {
		return store.TargetUnfinished, failed(err)
	}
	name, err := t.filled(ctx, c)
	if err != nil || name == "" {
		return store.TargetEmpty, failed(err)
	}
	return store.TargetFilled, nil
}

// filled names a table that holds something, "" for none.
func (t *Target) filled(ctx context.Context, c *pgx.Conn) (string, error) {
	for _, x := range t.tables {
		var some bool
		if err := c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+pgx.Identifier{x.Name}.Sanitize()+`)`).Scan(&some); err != nil || some {
			return x.Name, err
		}
	}
	return "", nil
}

// Begin implements store.MoveTarget.
func (t *Target) Begin(ctx context.Context, from string) error {
	switch name, err := t.filled(ctx, t.conn); {
	case err != nil:
		return failed(err)
	case name != "":
		return fmt.Errorf("schema %s is not empty: there is something in its table %s; name another schema, or drop this one", t.schema, name)
	}
	b := &pgx.Batch{}
	b.Queue(`DROP TABLE IF EXISTS ` + unfinishedTable)
	b.Queue(`CREATE TABLE `+unfinishedTable+` AS SELECT $1::text AS source, now() AS begun_at`, from)
	err := t.conn.SendBatch(ctx, b).Close()
	if err == nil {
		t.tx, err = t.conn.Begin(ctx)
	}
	return failed(err)
}

// refuseUnfinished keeps a store from being used into which not all has been
// moved.
func refuseUnfinished(ctx context.Context, c interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}, schema string) error {
	var there bool
	if err := c.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, pgx.Identifier{schema, unfinishedTable}.Sanitize()).Scan(&there); err != nil || !there {
		return err
	}
	var from string
	var begun time.Time
	if err := c.QueryRow(ctx, `SELECT source, begun_at FROM `+unfinishedTable).Scan(&from, &begun); err != nil {
		return err
	}
	return fmt.Errorf("a move from %s to schema %s, begun on %s, has not been finished: run mailxmppd store move again, or drop the schema",
		from, schema, begun.UTC().Format(time.DateTime))
}

// Import implements store.MoveTarget.
func (t *Target) Import(ctx context.Context, from store.MoveTable, rows iter.Seq2[[]any, error]) (int64, error) {
	i := slices.IndexFunc(t.tables, func(x table) bool { return x.Name == from.Name })
	if i < 0 {
		return 0, fmt.Errorf("no table %s", from.Name)
	}
	in := &inflow{}
	var columns []string
	for _, name := range from.Columns {
		at := slices.Index(t.tables[i].Columns, name)
		if at < 0 {
			return 0, fmt.Errorf("no column %s", name)
		}
		f := t.tables[i].fields[at]
		in.fields, columns = append(in.fields, f), append(columns, f.column)
	}
	next, stop := iter.Pull2(rows)
	defer stop()
	in.next = next
	n, err := t.tx.CopyFrom(ctx, pgx.Identifier{from.Name}, columns, in)
	return n, failed(err)
}

// inflow hands rows to the database in its own terms.
type inflow struct {
	next   func() ([]any, error, bool)
	fields []field
	row    []any
	err    error
}

// Next implements pgx.CopyFromSource.
func (in *inflow) Next() bool {
	row, err, ok := in.next()
	if !ok || err != nil {
		in.err = err
		return false
	}
	in.row = in.row[:0]
	for i, v := range row {
		value, err := in.fields[i].value(v)
		if err != nil {
			in.err = fmt.Errorf("column %s: %w", in.fields[i].column, err)
			return false
		}
		in.row = append(in.row, value)
	}
	return true
}

// Values implements pgx.CopyFromSource.
func (in *inflow) Values() ([]any, error) { return in.row, nil }

// Err implements pgx.CopyFromSource.
func (in *inflow) Err() error { return in.err }

var errNothing = errors.New("no value where there must be one")

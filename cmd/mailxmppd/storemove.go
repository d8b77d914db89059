package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"mailxmppd/config"
	"mailxmppd/store"
	"mailxmppd/store/postgres"
	"mailxmppd/store/sqlite"
)

// storeMove is the command line of store move.
type storeMove struct {
	verbFlags
	to, schema string
}

func storeMoveCommand() *cobra.Command {
	var v storeMove
	cmd := &cobra.Command{
		Use:   "move --config FILE --to postgres://USER@HOST/DATABASE",
		Short: "Bring all that the SQLite store holds into an empty Postgres schema",
		Args:  cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			u, err := url.Parse(v.to)
			if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Host == "" && u.RawQuery == "" {
				return errors.New("--to wants a URL such as postgres://user@host/database") // not repeated: it may hold a password
			}
			return nil
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(v.file)
			if err != nil {
				return err
			}
			moved, err := v.move(cmd.Context(), cfg, cmd.ErrOrStderr())
			if err != nil {
				return oneLine{err}
			}
			return v.print(cmd.OutOrStdout(), moved)
		}),
	}
	v.add(cmd)
	cmd.Flags().StringVar(&v.to, "to", "", "`URL` of the Postgres database; a password is better left to PGPASSWORD or a password file")
	cmd.Flags().StringVar(&v.schema, "schema", "mailxmppd", "the schema in it, which is made, or empty")
	return cmd
}

// move opens both stores and has everything go from one to the other.
func (v *storeMove) move(ctx context.Context, cfg *config.Config, progress io.Writer) (m store.Moved, err error) {
	path, ok := cfg.Store.SQLitePath()
	if !ok {
		return m, errors.New("the configuration names a Postgres store already: only an SQLite store can be moved")
	}
	log := newLog(progress, config.Log{Level: "warn"})
	from, err := sqlite.OpenSource(ctx, sqlite.Config{Path: path, Log: log})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := postgres.OpenTarget(ctx, postgres.Config{URL: v.to, Schema: v.schema, Log: log})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return store.Move(ctx, from, path, to, v.toName(), v.reporter(progress))
}

// toName is the target without its password.
func (v *storeMove) toName() string {
	c := config.Config{Store: config.Store{URL: v.to}}
	return c.Redacted().Store.URL + ", schema " + v.schema
}

// reportEvery is how long a move may say nothing while a table is on its way.
const reportEvery = 2 * time.Second

// reporter writes a line for each table that has gone over, and for a long one
// now and then before.
func (v *storeMove) reporter(w io.Writer) func(table string, rows, of int64) {
	last := time.Now()
	return func(table string, rows, of int64) {
		if v.json || rows < of && time.Since(last) < reportEvery {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "%s: %d of %d\n", table, rows, of)
	}
}

func (v *storeMove) print(w io.Writer, m store.Moved) error {
	if v.json {
		return printJSON(w, m)
	}
	if m.Tables == nil {
		_, err := fmt.Fprintln(w, "An earlier move had brought everything over, and is finished now.\n"+
			"Name the new store in the configuration, [store] url and schema: the old one will not be opened any more.")
		return err
	}
	rows := int64(0)
	for _, t := range m.Tables {
		rows += t.Rows
	}
	_, err := fmt.Fprintf(w, "%d rows in %d tables moved and counted, %d contents compared by their hashes.\n"+
		"Name the new store in the configuration, [store] url and schema: the old one will not be opened any more.\n",
		rows, len(m.Tables), m.Contents)
	return err
}

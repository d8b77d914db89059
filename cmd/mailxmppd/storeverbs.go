package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/schema"
	"mailxmppd/store"
	"mailxmppd/store/postgres"
	"mailxmppd/store/sqlite"
)

func storeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Look after the store itself: check, backup, restore, migrate, move",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("no store command given") },
	}
	cmd.AddCommand(storeCheckCommand(), storeBackupCommand(), storeRestoreCommand(), storeMigrateCommand(), storeMoveCommand())
	return cmd
}

// errServerStore is what is for an SQLite store alone, with what does it for this
// one: the words are those of docs/operations.md (Restoring PostgreSQL).
func errServerStore(cfg *config.Config) error {
	return fmt.Errorf("this store is PostgreSQL's, whose own tools make backups and restore them, the first while the gateways run:\n"+
		"pg_dump --format=custom --no-owner --schema=%s --file=BACKUP '%s'\n"+
		"pg_restore --exit-on-error --single-transaction --no-owner --dbname=URL-OF-AN-EMPTY-DATABASE BACKUP",
		cfg.Store.Schema, cfg.Redacted().Store.URL)
}

func storeBackupCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "backup --config FILE BACKUP",
		Short: "Write what the store holds into a new file, while the gateway runs or not",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return v.onSQLite(func(cfg *config.Config, path string) error {
				if err := backup(cmd.Context(), cfg, path, file); err != nil {
					return err
				}
				info, err := os.Stat(file)
				switch {
				case err != nil:
					return err
				case v.json:
					return printJSON(cmd.OutOrStdout(), backupDone{file, info.Size()})
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s written and checked, %d octets\n", file, info.Size())
				return err
			})
		}),
	}
	v.add(cmd)
	return cmd
}

type backupDone struct {
	File   string `json:"file"`
	Octets int64  `json:"octets"`
}

// backup asks the running gateway, or reads the store where none runs.
func backup(ctx context.Context, cfg *config.Config, path, file string) error {
	if cfg.Admin.Socket != "" {
		err := admin.NewClient(cfg.Admin.Socket).Backup(ctx, file)
		if !errors.Is(err, admin.ErrNotRunning) {
			return err
		}
	}
	return sqlite.BackupClosed(ctx, path, file)
}

// onSQLite does what is for an SQLite store alone.
func (v *verbFlags) onSQLite(do func(cfg *config.Config, path string) error) error {
	cfg, err := config.Load(v.file)
	if err != nil {
		return err
	}
	path, ok := cfg.Store.SQLitePath()
	if !ok {
		return errServerStore(cfg)
	}
	return do(cfg, path)
}

func storeRestoreCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "restore --config FILE BACKUP",
		Short: "Put a backup in the place of the store, which is kept under another name",
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			return v.onSQLite(func(_ *config.Config, path string) error {
				// Made by another user, the gateway could not open it.
				if err := isMade.permits(path); err != nil {
					return err
				}
				aside, err := sqlite.Replace(cmd.Context(), args[0], path)
				switch {
				case err != nil:
					return err
				case v.json:
					return printJSON(cmd.OutOrStdout(), restoreDone{path, aside})
				}
				w := cmd.OutOrStdout()
				fmt.Fprintf(w, "%s is what the backup held\n", path)
				if aside != "" {
					_, err = fmt.Fprintf(w, "the store that was there is kept as %s\n", aside)
				}
				return err
			})
		}),
	}
	v.add(cmd)
	return cmd
}

type restoreDone struct {
	Store string `json:"store"`
	Aside string `json:"aside,omitempty"` // what was there before
}

// migration is what store migrate did, or would do.
type migration struct {
	From    int64              `json:"from"`
	To      int64              `json:"to"`
	Pending []schema.Migration `json:"pending"`
	Done    bool               `json:"done"`
}

func storeMigrateCommand() *cobra.Command {
	var v verbFlags
	var dry bool
	cmd := &cobra.Command{
		Use:   "migrate --config FILE",
		Short: "Bring the store's tables up to date, as a start of the gateway does",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(v.file)
			if err != nil {
				return err
			}
			m, err := pendingMigration(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if !dry && len(m.Pending) > 0 {
				st, err := openStore(cmd.Context(), cfg, newLog(cmd.ErrOrStderr(), config.Log{Level: "warn"}))
				if err != nil {
					return err
				}
				if err := st.Close(); err != nil {
					return err
				}
				m.Done = true
			}
			if v.json {
				return printJSON(cmd.OutOrStdout(), m)
			}
			return m.print(cmd.OutOrStdout())
		}),
	}
	v.add(cmd)
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

func pendingMigration(ctx context.Context, cfg *config.Config) (m migration, err error) {
	steps, found := schema.Postgres(), store.Report{}
	if path, ok := cfg.Store.SQLitePath(); ok {
		if err := mustBeThere.permits(path); err != nil {
			return m, err
		}
		steps = schema.SQLite()
		found, err = sqlite.Inspect(ctx, path)
	} else {
		found, _, err = postgres.Inspect(ctx, postgres.Config{URL: cfg.Store.URL, Schema: cfg.Store.Schema})
	}
	if err != nil {
		return m, oneLine{err}
	}
	if found.Schema > found.Knows {
		return m, fmt.Errorf("%w: it has schema %d, this program knows %d", store.ErrNewer, found.Schema, found.Knows)
	}
	m = migration{From: found.Schema, To: found.Knows}
	m.Pending, err = schema.Migrations(steps, found.Schema)
	if m.Pending == nil {
		m.Pending = []schema.Migration{}
	}
	return m, err
}

func (m migration) print(w io.Writer) error {
	if len(m.Pending) == 0 {
		_, err := fmt.Fprintf(w, "schema version %d is up to date\n", m.From)
		return err
	}
	verb := "to be applied"
	if m.Done {
		verb = "applied"
	}
	for _, p := range m.Pending {
		fmt.Fprintf(w, "%04d %s %s\n", p.Version, p.Name, verb)
	}
	_, err := fmt.Fprintf(w, "schema version %d -> %d\n", m.From, m.To)
	return err
}

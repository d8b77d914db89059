package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
)

// verbFlags are what every verb of queue and user takes.
type verbFlags struct {
	file string
	json bool
}

func (v *verbFlags) add(cmd *cobra.Command) {
	configFlag(cmd, &v.file)
	jsonFlag(cmd, &v.json)
}

// absentStore says what becomes of a verb where there is no SQLite store yet.
type absentStore int

const (
	mustBeThere absentStore = iota
	isMade
)

// on runs a verb: through the socket of the running gateway, or on the store
// itself where none runs. An SQLite store belongs to one process at a time, so
// that only one of the two ways is open.
func (v *verbFlags) on(cmd *cobra.Command, absent absentStore, verb func(context.Context, admin.Store, io.Writer) error) error {
	ctx, w := cmd.Context(), cmd.OutOrStdout()
	cfg, err := config.Load(v.file)
	if err != nil {
		return err
	}
	if cfg.Admin.Socket != "" {
		client := admin.NewClient(cfg.Admin.Socket)
		if _, err := client.Health(ctx); !errors.Is(err, admin.ErrNotRunning) {
			if err != nil {
				return err
			}
			return verb(ctx, client, w)
		}
	}
	if path, ok := cfg.Store.SQLitePath(); ok {
		if err := absent.permits(path); err != nil {
			return err
		}
	}
	st, err := openStore(ctx, cfg, newLog(cmd.ErrOrStderr(), config.Log{Level: "warn"}))
	if err != nil {
		return err
	}
	return errors.Join(verb(ctx, st, w), st.Close())
}

// permits tells whether the store at path may be opened, which makes one where
// there is none. Made by another user than the gateway's, who owns the
// directory, the gateway could not open it.
func (a absentStore) permits(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil // opening it says what else is wrong
	}
	if a == mustBeThere {
		return fmt.Errorf("no gateway is running here and there is no store at %s yet", path)
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return nil
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && st.Uid != 0 {
		return fmt.Errorf("there is no store at %s yet: do this as the user that the gateway runs as, number %d", path, st.Uid)
	}
	return nil
}

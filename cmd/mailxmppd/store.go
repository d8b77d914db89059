package main

import (
	"context"
	"log/slog"
	"strings"

	"mailxmppd/config"
	"mailxmppd/store"
	"mailxmppd/store/postgres"
	"mailxmppd/store/sqlite"
)

// openStore opens the store that the configuration names.
func openStore(ctx context.Context, cfg *config.Config, log *slog.Logger) (store.Store, error) {
	// A backend is returned only without an error: a nil *sqlite.Store in the
	// interface would not be nil.
	if path, ok := cfg.Store.SQLitePath(); ok {
		st, err := sqlite.Open(ctx, sqlite.Config{Path: path, Log: log})
		if err != nil {
			return nil, err
		}
		return st, nil
	}
	st, err := postgres.Open(ctx, postgres.Config{URL: cfg.Store.URL, Schema: cfg.Store.Schema, Node: cfg.Store.Node, Log: log})
	if err != nil {
		return nil, oneLine{err}
	}
	return st, nil
}

// oneLine is an error whose text has no line breaks: the driver lists one
// address a line.
type oneLine struct{ error }

func (e oneLine) Error() string { return strings.Join(strings.Fields(e.error.Error()), " ") }
func (e oneLine) Unwrap() error { return e.error }

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/store/postgres"
	"mailxmppd/store/sqlite"
)

// storeReport is what store check answers.
type storeReport struct {
	OK     bool   `json:"ok"`
	Kind   string `json:"kind"` // "sqlite" or "postgres"
	Where  string `json:"where"`
	Octets int64  `json:"octets,omitempty"` // of the database and its log; SQLite
	store.Report
	Unreadable store.Unreadables    `json:"unreadable"`
	Server     *postgres.Durability `json:"server,omitempty"`
	Findings   []finding            `json:"findings"`
}

func storeCheckCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Examine the whole store, beside a running gateway too",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(v.file)
			if err != nil {
				return err
			}
			r := examine(cmd.Context(), cfg)
			write := r.print
			if v.json {
				write = func(w io.Writer) error { return printJSON(w, r) }
			}
			if err := write(cmd.OutOrStdout()); err != nil {
				return err
			}
			if !r.OK {
				return &failedError{}
			}
			return nil
		}),
	}
	v.add(cmd)
	return cmd
}

// examine looks at everything in a store and changes nothing.
func examine(ctx context.Context, cfg *config.Config) *storeReport {
	r := &storeReport{Findings: []finding{}}
	if path, ok := cfg.Store.SQLitePath(); ok {
		r.Kind, r.Where = "sqlite", path
		var err error
		if r.Report, err = sqlite.Inspect(ctx, path); err != nil {
			r.add(levelError, "%s", err)
			return r
		}
		for _, name := range []string{path, path + "-wal"} {
			if info, err := os.Stat(name); err == nil {
				r.Octets += info.Size()
			}
		}
		if err := sqlite.Check(ctx, path); err != nil {
			r.add(levelError, "%s", err)
		} else {
			r.add(levelOK, "every page and index is sound")
		}
		if r.Schema == r.Knows {
			r.unreadable(sqlite.Unreadable(ctx, path))
		}
		r.judge()
		return r
	}
	r.Kind, r.Where = "postgres", fmt.Sprintf("schema %s in %s", cfg.Store.Schema, cfg.Redacted().Store.URL)
	where := postgres.Config{URL: cfg.Store.URL, Schema: cfg.Store.Schema}
	found, d, err := postgres.Inspect(ctx, where)
	if err != nil {
		r.add(levelError, "%s", oneLine{err})
		return r
	}
	r.Report, r.Server = found, &d
	r.Findings = append(r.Findings, unsafe(d)...)
	if d.SurvivesFailover() {
		r.add(levelOK, "what is accepted is on %d standbys too before it is answered", d.Waited)
	}
	if r.Schema == r.Knows {
		r.unreadable(postgres.Unreadable(ctx, where))
	}
	r.judge()
	return r
}

// unreadable names the messages that nobody can deliver.
func (r *storeReport) unreadable(found store.Unreadables, err error) {
	if err != nil {
		r.add(levelError, "%s", oneLine{err})
		return
	}
	r.Unreadable = found
	for _, m := range found.First {
		r.add(levelError, "message %s: %s", m.ID, mail.Sanitise(m.Why))
	}
	if more := found.Count - len(found.First); more > 0 {
		r.add(levelError, "and %d more messages that cannot be read", more)
	}
}

func (r *storeReport) add(l level, format string, args ...any) {
	r.Findings = append(r.Findings, finding{Level: l, Part: "store", Text: fmt.Sprintf(format, args...)})
}

// judge compares the schema with ours and sums up.
func (r *storeReport) judge() {
	switch {
	case r.Schema > r.Knows:
		r.add(levelError, "schema version %d, this program knows %d: a newer program wrote it", r.Schema, r.Knows)
	case r.Schema < r.Knows:
		r.add(levelWarning, "schema version %d; the next start, or store migrate, brings it to %d", r.Schema, r.Knows)
	default:
		r.add(levelOK, "schema version %d", r.Schema)
	}
	r.OK = true
	for _, f := range r.Findings {
		r.OK = r.OK && f.Level != levelError
	}
}

func (r *storeReport) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "store\t%s, %s\n", r.Kind, r.Where)
	if r.Octets > 0 {
		fmt.Fprintf(t, "octets\t%d\n", r.Octets)
	}
	if r.Deliveries != nil {
		fmt.Fprintf(t, "messages\t%d\n", r.Messages)
		for _, s := range store.States() {
			if n := r.Deliveries[s]; n > 0 {
				fmt.Fprintf(t, "deliveries %s\t%d\n", s, n)
			}
		}
		fmt.Fprintf(t, "acceptances\t%d\nopen transfers\t%d\nusers\t%d\n", r.Acceptances, r.Transfers, r.Users)
	}
	for _, f := range r.Findings {
		fmt.Fprintf(t, "%s\t%s\n", f.Level, f.Text)
	}
	return t.Flush()
}

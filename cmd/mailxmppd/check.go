package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
)

// checkTimeout bounds the whole of check: what has not answered then does not
// answer.
const checkTimeout = time.Minute

// level says what a finding means: only levelError keeps the gateway from its
// work.
type level string

const (
	levelOK      level = "ok"
	levelWarning level = "warning"
	levelError   level = "error"
)

// finding is one line of check's answer.
type finding struct {
	Level level  `json:"level"`
	Part  string `json:"part"` // "config", "gateway", "certificate", "store", "listener", "dns", "signing", "settings"
	Text  string `json:"text"`
}

// inspection gathers what is found about one configuration.
type inspection struct {
	cfg      *config.Config
	running  *admin.Health // of the gateway that runs now; nil without one
	findings []finding

	keys      []store.SigningKey // that sign our mail
	keysKnown bool
}

func (n *inspection) add(l level, part, format string, args ...any) {
	n.findings = append(n.findings, finding{Level: l, Part: part, Text: mail.Sanitise(fmt.Sprintf(format, args...))})
}

func checkCommand() *cobra.Command {
	var file string
	var show, asJSON bool
	cmd := &cobra.Command{
		Use:   "check --config FILE",
		Short: "Judge a configuration and what it needs, without running it",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), checkTimeout)
			defer cancel()
			n := inspect(ctx, file)
			write := n.print
			if asJSON {
				write = n.printJSON
			}
			if err := write(cmd.OutOrStdout(), show); err != nil {
				return err
			}
			if n.failed() {
				return &failedError{}
			}
			return nil
		}),
	}
	configFlag(cmd, &file)
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&show, "print", false, "print the configuration in force as well, secrets hidden")
	return cmd
}

// inspect looks at everything that it can look at without changing anything.
func inspect(ctx context.Context, file string) *inspection {
	n := &inspection{}
	cfg, err := config.Load(file)
	if err != nil {
		problems, ok := errors.AsType[*config.Errors](err)
		if !ok {
			n.add(levelError, "config", "%s", err)
			return n
		}
		for _, p := range problems.List {
			n.add(levelError, "config", "%s", p)
		}
		return n
	}
	n.cfg = cfg
	n.add(levelOK, "config", "%s holds no mistake", file)
	if cfg.Admin.Socket != "" {
		h, err := admin.NewClient(cfg.Admin.Socket).Health(ctx)
		switch {
		case err == nil:
			n.running = &h
			n.add(levelOK, "gateway", "runs as process %d for %s", h.PID, age(h.Uptime))
		case !errors.Is(err, admin.ErrNotRunning):
			n.add(levelWarning, "gateway", "%s", err)
		}
	}
	n.certificates()
	n.store(ctx)
	n.listeners(ctx)
	n.dns(ctx)
	n.settings(file)
	return n
}

func (n *inspection) failed() bool {
	for _, f := range n.findings {
		if f.Level == levelError {
			return true
		}
	}
	return false
}

// print writes a line for each finding; behind the configuration they are
// comments, so that the whole stays a valid file.
func (n *inspection) print(w io.Writer, show bool) error {
	prefix := ""
	if show && n.cfg != nil {
		text, err := n.cfg.TOML()
		if err != nil {
			return err
		}
		prefix = "# "
		if _, err := fmt.Fprintf(w, "%s\n", text); err != nil {
			return err
		}
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, f := range n.findings {
		fmt.Fprintf(t, "%s%s\t%s\t%s\n", prefix, f.Level, f.Part, f.Text)
	}
	return t.Flush()
}

// printJSON writes the same as one object; the configuration has the keys of
// the file.
func (n *inspection) printJSON(w io.Writer, show bool) error {
	out := struct {
		OK       bool            `json:"ok"`
		Findings []finding       `json:"findings"`
		Config   json.RawMessage `json:"config,omitempty"`
	}{OK: !n.failed(), Findings: n.findings}
	if show && n.cfg != nil {
		text, err := n.cfg.TOML()
		if err != nil {
			return err
		}
		var tree map[string]any
		if err := toml.Unmarshal(text, &tree); err != nil {
			return err
		}
		if out.Config, err = json.Marshal(tree); err != nil {
			return err
		}
	}
	return printJSON(w, out)
}

// quiet is the log of parts that check starts: it has its own way to speak.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

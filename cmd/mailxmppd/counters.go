package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/smtpbridge"
)

// counters gathers what the parts have counted.
func (p *parts) counters(cfg *config.Config) map[string]any {
	out := map[string]any{"streams": p.xmpp.streams.Snapshot(), "transfers": p.xmpp.transfers.Snapshot(), "gateway": p.gateway.Snapshot()}
	if p.grants != nil {
		out["grants"] = p.grants.Snapshot()
	}
	for _, c := range p.xmpp.components {
		out["component "+c.Domain()] = c.Snapshot()
	}
	for i, s := range p.smtp {
		name := cfg.Listeners[i].Kind + " " + cfg.Listeners[i].Address
		switch server := s.server.(type) {
		case *smtpbridge.Server:
			out[name] = server.Counts()
		case *smtpbridge.Lookup:
			out[name] = server.Counts()
		case *smtpbridge.Milter:
			out[name] = server.Counts()
		case filtering:
			out[name] = server.Counts()
			out[name+" next"] = server.filter.Counts()
		}
	}
	return out
}

func countersCommand() *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "counters --config FILE",
		Short: "Show what the running gateway has counted since its start",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(file)
			if err != nil {
				return err
			}
			if cfg.Admin.Socket == "" {
				return fmt.Errorf("%s: admin.socket is empty: nothing to ask", file)
			}
			parts, err := admin.NewClient(cfg.Admin.Socket).Counters(cmd.Context())
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(parts)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, part := range slices.Sorted(maps.Keys(parts)) {
				for _, name := range slices.Sorted(maps.Keys(parts[part])) {
					fmt.Fprintf(w, "%s\t%s\t%v\n", part, name, parts[part][name])
				}
			}
			return w.Flush()
		}),
	}
	configFlag(cmd, &file)
	jsonFlag(cmd, &asJSON)
	return cmd
}

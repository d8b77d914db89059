package main

import (
	"github.com/spf13/cobra"

	"mailxmppd/config"
	"mailxmppd/demo"
)

func serveCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the gateway until SIGTERM",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(file)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, newLog(cmd.ErrOrStderr(), cfg.Log))
		}),
	}
	configFlag(cmd, &file)
	return cmd
}

func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show mail travelling between two domains, on this machine alone",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			o.Stdout, o.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return demo.Run(cmd.Context(), o)
		}),
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.Messages, "message", nil, "send this `FILE` along every path instead of the samples (repeatable)")
	f.StringVar(&o.Out, "out", "", "write each message as it was delivered into this `DIR`")
	f.StringVar(&o.Endpoints, "endpoints", "", "write where everything listens into this `FILE`, before the first message")
	f.BoolVar(&o.Keep, "keep", false, "keep the gateways running until interrupted")
	f.StringVar(&o.Store, "store", "", "use this Postgres `URL`, a schema for each gateway, instead of SQLite")
	f.BoolVar(&o.JSON, "json", false, "print the timeline as JSON, one object a line")
	return cmd
}

// configFlag adds the flag that says which configuration is meant.
func configFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration `FILE`")
	cmd.MarkFlagRequired("config")
}

// jsonFlag adds the flag that asks for output for programs.
func jsonFlag(cmd *cobra.Command, asked *bool) {
	cmd.Flags().BoolVar(asked, "json", false, "print JSON")
}

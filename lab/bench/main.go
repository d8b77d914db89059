// Bench measures the gateway against named peers on the same machine in the
// same run and prints ratios.
//
//	go run ./lab/bench pair [--json] [--messages N] [--reps N] [--store URL]
//
// pair: 16 SMTP sessions -> gateway A -> XMPP over TLS -> gateway B -> sink,
// with 10 KB messages, spooled and cut-through, beside a pair of Postfix
// relays with verified TLS between them, where Postfix is installed.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || args[0] != "pair" {
		return fmt.Errorf("usage: bench pair [flags]")
	}
	flags := flag.NewFlagSet("pair", flag.ContinueOnError)
	p := pairParams{Sessions: 16, Size: 10 << 10}
	asJSON := flags.Bool("json", false, "print the report as JSON")
	flags.IntVar(&p.Messages, "messages", 4000, "messages per repetition")
	flags.IntVar(&p.Reps, "reps", 3, "repetitions")
	flags.StringVar(&p.Store, "store", "sqlite", "sqlite, or the URL of a PostgreSQL database")
	flags.StringVar(&p.profile, "profile", "", "folder for CPU profiles of the gateways (build tag profile)")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	report, err := benchPair(ctx, p)
	if err != nil {
		return err
	}
	if *asJSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", " ")
		return enc.Encode(report)
	}
	report.print(os.Stdout)
	return nil
}

// Bench measures the gateway against named peers on the same machine in the
// same run and prints ratios.
//
//	go run ./lab/bench pair [--json] [--messages N] [--reps N] [--store URL]
//	go run ./lab/bench trust [--json] [--messages N] [--reps N]
//	go run ./lab/bench leg [--json] [--volume MB] [--reps N] [--streams N] [--hold D] [--large MB]
//	go run ./lab/bench smtp [--json] [--volume MB] [--reps N]
//	go run ./lab/bench queue [--json] [--quick] [--parts deep,nodes,flushes,relay] ...
//
// pair: 16 SMTP sessions -> gateway A -> XMPP over TLS -> gateway B -> sink,
// with 10 KB messages, spooled and cut-through, beside a pair of Postfix
// relays with verified TLS between them, where Postfix is installed.
//
// leg: the XMPP leg alone, no store, between two processes, 64 messages in
// flight, beside bare length-prefixed frames over the same TLS; the memory of
// idle streams and of one large message.
//
// smtp: our SMTP server, storing nothing, behind Postfix's smtp-source, and our
// client before its smtp-sink, 16 sessions with 2, 10 and 100 KB messages,
// beside smtp-source into smtp-sink.
//
// queue: a queue of a million waiting deliveries beside an empty one, and what
// becomes due in it at once; one node and three draining a spool; durable
// flushes; the spooled path beside one Postfix relay.
//
// trust: all evidence for a 10 KB message with one RSA-2048 signature, with DNS
// answered from memory, beside go-msgauth's bare verification of it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
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
	if len(args) == 0 {
		return errors.New("usage: bench pair|leg|smtp|queue|trust [flags]")
	}
	switch args[0] {
	case "pair":
		return runPair(ctx, args[1:])
	case "leg":
		return runLeg(ctx, args[1:])
	case "smtp":
		return runSMTP(ctx, args[1:])
	case "queue":
		return runQueue(ctx, args[1:])
	case "trust":
		return runTrust(ctx, args[1:])
	case legSide:
		return runLegSide()
	}
	return fmt.Errorf("no benchmark named %q", args[0])
}

func runPair(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("pair", flag.ContinueOnError)
	p := pairParams{Sessions: 16, Size: 10 << 10}
	asJSON := flags.Bool("json", false, "print the report as JSON")
	flags.IntVar(&p.Messages, "messages", 4000, "messages per repetition")
	flags.IntVar(&p.Reps, "reps", 3, "repetitions")
	flags.StringVar(&p.Store, "store", "sqlite", "sqlite, or the URL of a PostgreSQL database")
	flags.StringVar(&p.profile, "profile", "", "folder for CPU profiles of the gateways (build tag profile)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	report, err := benchPair(ctx, p)
	if err != nil {
		return err
	}
	return report.output(os.Stdout, *asJSON)
}

func runLeg(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("leg", flag.ContinueOnError)
	p := legParams{InFlight: 64, Sizes: []int{20 << 10, 200 << 10}}
	asJSON := flags.Bool("json", false, "print the report as JSON")
	flags.IntVar(&p.VolumeMB, "volume", 800, "MB of content per repetition")
	flags.IntVar(&p.Reps, "reps", 5, "repetitions")
	flags.IntVar(&p.Streams, "streams", 2000, "idle streams to hold; 0 to leave that out")
	flags.DurationVar(&p.Hold, "hold", time.Minute, "how long to hold them")
	flags.IntVar(&p.LargeMB, "large", 50, "MB of the one large message; 0 to leave that out")
	flags.StringVar(&p.profile, "profile", "", "folder for CPU profiles of both sides")
	if err := flags.Parse(args); err != nil {
		return err
	}
	report, err := benchLeg(ctx, p)
	if err != nil {
		return err
	}
	return report.output(os.Stdout, *asJSON)
}

func runSMTP(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("smtp", flag.ContinueOnError)
	p := smtpParams{Sessions: 16, Sizes: []int{2 << 10, 10 << 10, 100 << 10}}
	asJSON := flags.Bool("json", false, "print the report as JSON")
	volume := flags.Int("volume", 200, "MB of content per repetition")
	flags.IntVar(&p.Reps, "reps", 7, "repetitions")
	flags.StringVar(&p.profile, "profile", "", "folder for a CPU profile of our side")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p.Volume = *volume << 20
	report, err := benchSMTP(ctx, p)
	if err != nil {
		return err
	}
	return report.output(os.Stdout, *asJSON)
}

func runTrust(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("trust", flag.ContinueOnError)
	p := trustParams{Size: 10 << 10}
	asJSON := flags.Bool("json", false, "print the report as JSON")
	flags.IntVar(&p.Messages, "messages", 2000, "messages per repetition")
	flags.IntVar(&p.Reps, "reps", 5, "repetitions")
	if err := flags.Parse(args); err != nil {
		return err
	}
	report, err := benchTrust(ctx, p)
	if err != nil {
		return err
	}
	return report.output(os.Stdout, *asJSON)
}

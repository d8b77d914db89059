// Command mailxmppd is the gateway: serve runs it, check judges its
// configuration, queue looks after what it holds, store after where it holds
// it, user after who may submit mail, keys after what signs it, demo shows it
// at work.
//
// Every command ends with exit code 0, or with one clear line on standard
// error for each thing that is wrong and exit code 1; a command line that
// makes no sense ends with exit code 2.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program but for the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:               "mailxmppd",
		Short:             "Mail between cooperating domains over XMPP",
		Args:              cobra.NoArgs,
		RunE:              func(cmd *cobra.Command, _ []string) error { return errors.New("no command given") },
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddCommand(serveCommand(), demoCommand(), checkCommand(), countersCommand(), queueCommand(), storeCommand(), userCommand(), grantCommand(), keysCommand(), contactCommand(), tlsReportCommand(), versionCommand())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	failed, isFailed := errors.AsType[*failedError](err)
	if !isFailed {
		fmt.Fprintf(stderr, "mailxmppd: %s; see %s --help\n", firstLine(err), cmd.CommandPath())
		return exitUsage
	}
	if failed.err != nil {
		for line := range strings.SplitSeq(failed.Error(), "\n") {
			fmt.Fprintf(stderr, "mailxmppd: %s\n", line)
		}
	}
	return exitFailed
}

// firstLine leaves out the hints that follow an error about the command line.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// failedError is what a command that was rightly called came to; every other
// error is about the command line. With a nil err all has been said already.
type failedError struct{ err error }

func (e *failedError) Error() string {
	if e.err == nil {
		return "failed"
	}
	return e.err.Error()
}

func (e *failedError) Unwrap() error { return e.err }

// work is the part of a command that comes after its command line was found to
// be right.
func work(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		if _, said := err.(*failedError); err == nil || said {
			return err
		}
		return &failedError{err}
	}
}

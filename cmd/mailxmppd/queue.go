package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/mail"
	"mailxmppd/store"
)

// maxListed bounds --limit: more deliveries than that are for a program, by
// pages.
const maxListed = 10_000

func queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Look after the messages that the gateway holds",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("no queue command given") },
	}
	cmd.AddCommand(queueListCommand(), queueTotalsCommand(), queueShowCommand(), queueLogCommand())
	for _, v := range queueVerbs() {
		cmd.AddCommand(v.command())
	}
	cmd.AddCommand(queueRedirectCommand(), queueFailCommand())
	return cmd
}

func queueListCommand() *cobra.Command {
	var q verbFlags
	var choice filterFlags
	var closed bool
	var limit int
	var after string
	cmd := &cobra.Command{
		Use:   "list --config FILE",
		Short: "List deliveries, the newest message first",
		Args:  cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) (err error) {
			if limit < 1 || limit > maxListed {
				return fmt.Errorf("--limit wants a number from 1 to %d", maxListed)
			}
			if after != "" {
				if choice.f.After, choice.f.AfterN, err = deliveryArg(after); err == nil && choice.f.AfterN < 0 {
					err = errors.New("--after wants ID.N, the last delivery of the page before")
				}
			}
			choice.f.Closed, choice.f.Limit = closed, limit
			return errors.Join(err, choice.settle())
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return q.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				entries, err := st.List(ctx, choice.f)
				switch {
				case err != nil:
					return err
				case q.json && entries == nil:
					return printJSON(w, []store.Entry{})
				case q.json:
					return printJSON(w, entries)
				}
				if err := printEntries(w, entries); err != nil || len(entries) < limit {
					return err
				}
				last := entries[len(entries)-1]
				_, err = fmt.Fprintf(w, "there may be more: --after %s.%d\n", last.ID, last.N)
				return err
			})
		}),
	}
	q.add(cmd)
	choice.add(cmd)
	cmd.Flags().BoolVar(&closed, "all", false, "finished deliveries too")
	cmd.Flags().IntVar(&limit, "limit", 1000, "at most so many")
	cmd.Flags().StringVar(&after, "after", "", "go on after the delivery `ID.N`, the last of the page before")
	return cmd
}

func queueTotalsCommand() *cobra.Command {
	var q verbFlags
	var choice filterFlags
	var top int
	cmd := &cobra.Command{
		Use:   "totals --config FILE",
		Short: "Count what waits by recipients' domain and age",
		Args:  cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if top < 0 || top > maxListed {
				return fmt.Errorf("--top wants a number from 0 to %d", maxListed)
			}
			return choice.settle()
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return q.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				totals, err := st.Totals(ctx, choice.f, top)
				switch {
				case err != nil:
					return err
				case q.json:
					return printJSON(w, totals)
				}
				return printTotals(w, totals)
			})
		}),
	}
	q.add(cmd)
	choice.add(cmd)
	cmd.Flags().IntVar(&top, "top", 20, "so many domains, the others together")
	return cmd
}

func queueShowCommand() *cobra.Command {
	return recordCommand("show", "Show a message with its deliveries, attempts and what operators did",
		func(w io.Writer, r store.Record) error { return printRecord(w, r) },
		func(r store.Record) any { return r })
}

// recordCommand is a verb that tells of one message.
func recordCommand(name, short string, tell func(io.Writer, store.Record) error, asJSON func(store.Record) any) *cobra.Command {
	var q verbFlags
	var id mail.ID
	cmd := &cobra.Command{
		Use:   name + " --config FILE ID",
		Short: short,
		Args:  cobra.ExactArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			id, _, err = deliveryArg(args[0])
			return err
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return q.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				r, err := st.Show(ctx, id)
				switch {
				case err != nil:
					return unknown(fmt.Sprintf("message %s", id), err)
				case q.json:
					return printJSON(w, asJSON(r))
				}
				return tell(w, r)
			})
		}),
	}
	q.add(cmd)
	return cmd
}

// unknown says what was not found, and what may be why.
func unknown(what string, err error) error {
	if errors.Is(err, store.ErrNotFound) && strings.HasSuffix(err.Error(), store.ErrNotFound.Error()) {
		return fmt.Errorf("%s: %w (what is finished is forgotten after [queue] keep_trace)", what, store.ErrNotFound)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// operator is who runs this command, for the record.
func operator() string {
	u, err := user.Current()
	if err != nil {
		return fmt.Sprintf("uid %d", os.Getuid())
	}
	return u.Username
}

// deliveryArg reads "ID" (n is -1) or "ID.N".
func deliveryArg(s string) (id mail.ID, n int, err error) {
	text, number, one := strings.Cut(s, ".")
	if id, err = mail.ParseID(strings.ToUpper(text)); err != nil {
		return "", 0, err
	}
	if !one {
		return id, -1, nil
	}
	u, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return "", 0, fmt.Errorf("delivery %q: want ID.N with N from 0", s)
	}
	return id, int(u), nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

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

// maxListed bounds --limit: more deliveries than that are for a program.
const maxListed = 10_000

func queueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "queue",
		Short: "Look after the messages that the gateway holds",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("no queue command given") },
	}
	cmd.AddCommand(queueListCommand(), queueShowCommand(), queueRetryCommand(), queueDropCommand())
	return cmd
}

func queueListCommand() *cobra.Command {
	var q verbFlags
	var f store.Filter
	cmd := &cobra.Command{
		Use:   "list --config FILE",
		Short: "List deliveries, the newest message first",
		Args:  cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) (err error) {
			if f.Limit < 1 || f.Limit > maxListed {
				return fmt.Errorf("--limit wants a number from 1 to %d", maxListed)
			}
			return domainArg(&f.Domain)
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return q.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				entries, err := st.List(ctx, f)
				switch {
				case err != nil:
					return err
				case q.json && entries == nil:
					return printJSON(w, []store.Entry{})
				case q.json:
					return printJSON(w, entries)
				}
				return printEntries(w, entries)
			})
		}),
	}
	q.add(cmd)
	cmd.Flags().StringVar(&f.Domain, "domain", "", "only recipients of this `DOMAIN`")
	cmd.Flags().BoolVar(&f.Closed, "all", false, "finished deliveries too")
	cmd.Flags().IntVar(&f.Limit, "limit", 1000, "at most so many")
	return cmd
}

func queueShowCommand() *cobra.Command {
	var q verbFlags
	var id mail.ID
	cmd := &cobra.Command{
		Use:   "show --config FILE ID",
		Short: "Show a message with its deliveries and attempts",
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
					return fmt.Errorf("message %s: %w", id, err)
				case q.json:
					return printJSON(w, r)
				}
				return printRecord(w, r)
			})
		}),
	}
	q.add(cmd)
	return cmd
}

func queueRetryCommand() *cobra.Command {
	var q verbFlags
	var domain string
	var all bool
	var id mail.ID
	var n int
	cmd := &cobra.Command{
		Use:   "retry --config FILE (ID | ID.N | --domain DOMAIN | --all)",
		Short: "Try waiting deliveries again now",
		Args:  cobra.MaximumNArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			named := len(args)
			for _, given := range []bool{domain != "", all} {
				if given {
					named++
				}
			}
			if named != 1 {
				return errors.New("wants one of ID, --domain and --all")
			}
			if len(args) == 1 {
				id, n, err = deliveryArg(args[0])
				return err
			}
			return domainArg(&domain)
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return q.change(cmd, "due now", func(ctx context.Context, st admin.Store) (int, error) {
				if id == "" {
					return st.Release(ctx, domain)
				}
				return st.Retry(ctx, store.One(id, n, operator()))
			})
		}),
	}
	q.add(cmd)
	cmd.Flags().StringVar(&domain, "domain", "", "everything that waits for this `DOMAIN`")
	cmd.Flags().BoolVar(&all, "all", false, "everything that waits")
	return cmd
}

func queueDropCommand() *cobra.Command {
	var q verbFlags
	var id mail.ID
	var n int
	cmd := &cobra.Command{
		Use:   "drop --config FILE (ID | ID.N)",
		Short: "End deliveries without telling the sender",
		Args:  cobra.ExactArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			id, n, err = deliveryArg(args[0])
			return err
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return q.change(cmd, "dropped", func(ctx context.Context, st admin.Store) (int, error) {
				return st.Drop(ctx, store.One(id, n, operator()))
			})
		}),
	}
	q.add(cmd)
	return cmd
}

// change runs a verb that counts deliveries and says how many it changed.
func (q *verbFlags) change(cmd *cobra.Command, done string, verb func(context.Context, admin.Store) (int, error)) error {
	return q.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
		n, err := verb(ctx, st)
		switch {
		case err != nil:
			return err
		case q.json:
			return printJSON(w, admin.Count{Deliveries: n})
		}
		noun := "deliveries"
		if n == 1 {
			noun = "delivery"
		}
		_, err = fmt.Fprintf(w, "%d %s %s\n", n, noun, done)
		return err
	})
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

// domainArg puts a domain into the form that the store knows.
func domainArg(s *string) (err error) {
	if *s != "" {
		*s, err = mail.ParseDomain(*s)
	}
	return err
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

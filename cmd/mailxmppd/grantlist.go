package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/grants"
)

// grantsPerPage is how many are read at a time.
const grantsPerPage = 1000

func grantListCommand() *cobra.Command {
	var held bool
	cmd := listGrantsCommand("list", "List what our recipients have permitted, or refused", func() []store.GrantKind {
		if held {
			return []store.GrantKind{store.GrantHeld}
		}
		return []store.GrantKind{store.GrantGiven}
	})
	cmd.Flags().BoolVar(&held, "held", false, "list what recipients elsewhere have permitted authors of ours")
	return cmd
}

func grantPendingCommand() *cobra.Command {
	var wanted bool
	cmd := listGrantsCommand("pending", "List the requests to our recipients that wait for an answer", func() []store.GrantKind {
		if wanted {
			return []store.GrantKind{store.GrantWanted}
		}
		return []store.GrantKind{store.GrantAsked}
	})
	cmd.Flags().BoolVar(&wanted, "ours", false, "list the requests of authors of ours")
	return cmd
}

func listGrantsCommand(verb, short string, kinds func() []store.GrantKind) *cobra.Command {
	var v verbFlags
	var recipient string
	cmd := &cobra.Command{
		Use:   verb + " --config FILE",
		Short: short,
		Args:  cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) (err error) {
			if recipient != "" {
				recipient, _, err = grants.Party(recipient)
			}
			return err
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				all := []store.Grant{}
				for _, kind := range kinds() {
					f := store.GrantFilter{Kind: kind, Recipient: recipient, Limit: grantsPerPage}
					for {
						page, err := st.Grants(ctx, f)
						if err != nil {
							return err
						}
						all = append(all, unlessWithdrawn(page)...)
						if len(page) < grantsPerPage {
							break
						}
						f.After = page[len(page)-1].GrantName
					}
				}
				if v.json {
					return printJSON(w, withoutKeys(all))
				}
				return printGrants(w, all)
			})
		}),
	}
	v.add(cmd)
	cmd.Flags().StringVar(&recipient, "recipient", "", "only those of this `RECIPIENT`, a mailbox or a domain")
	return cmd
}

// unlessWithdrawn leaves out requests that nobody can answer any more: they are
// kept for their number.
func unlessWithdrawn(page []store.Grant) (rest []store.Grant) {
	for _, g := range page {
		if g.Kind != store.GrantAsked || g.State == store.Pending {
			rest = append(rest, g)
		}
	}
	return rest
}

// withoutKeys leaves out what opens a mailbox.
func withoutKeys(all []store.Grant) []store.Grant {
	for i := range all {
		all[i].Key = nil
	}
	return all
}

func printGrants(w io.Writer, all []store.Grant) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "RECIPIENT\tAUTHOR\tSTATE\tBY\tUNTIL\tTOLD\tTEXT")
	for _, g := range all {
		until, told := "", "no"
		if !g.Expires.IsZero() {
			until = g.Expires.UTC().Format(time.DateOnly)
		}
		if g.Told {
			told = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", g.Recipient, g.Author, g.State, g.Origin, until, told, mail.Sanitise(g.Text))
	}
	return t.Flush()
}

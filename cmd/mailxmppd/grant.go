package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/store"
	"mailxmppd/trust/grants"
)

func grantCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "grant",
		Short: "Look after who may write to whom",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("no grant command given") },
	}
	cmd.AddCommand(grantAddCommand(), grantListCommand(), grantRevokeCommand(), grantPendingCommand(),
		grantApproveCommand(), grantDenyCommand(), grantRequestCommand())
	return cmd
}

// grantPair is who a grant is for and from, and on whose side of it we are.
type grantPair struct {
	recipient, author string
	peer              string // the domain that is not ours
	given             bool   // the recipient is ours, else the author is
}

// pair reads RECIPIENT and AUTHOR: one of them has to be ours.
func (v *verbFlags) pair(args []string) (p grantPair, err error) {
	cfg, err := config.Load(v.file)
	if err != nil {
		return p, err
	}
	ours := func(domain string) bool {
		return slices.ContainsFunc(cfg.Domains, func(d config.Domain) bool { return d.Name == domain })
	}
	recipient, at, err := grants.Party(args[0])
	if err != nil {
		return p, err
	}
	author, from, err := grants.Party(args[1])
	if err != nil {
		return p, err
	}
	p = grantPair{recipient, author, from, true}
	switch {
	case ours(at) && ours(from):
		return p, fmt.Errorf("%s and %s are both ours: they need no grant", recipient, author)
	case ours(from):
		p.peer, p.given = at, false
	case !ours(at):
		return p, fmt.Errorf("neither %s nor %s is of a domain of ours", recipient, author)
	}
	return p, nil
}

func (p grantPair) String() string { return p.author + " to write to " + p.recipient }

func (p grantPair) name(kind store.GrantKind) store.GrantName {
	return store.GrantName{Kind: kind, Recipient: p.recipient, Author: p.author}
}

// expiryFlags say until when a grant holds.
type expiryFlags struct {
	span  string
	until string
}

func (e *expiryFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&e.span, "for", "", "how long it holds, as `90d` or 12h; without this and --until, until it is revoked")
	cmd.Flags().StringVar(&e.until, "until", "", "the last `DAY` on which it holds, as 2027-12-31")
}

// instant is zero for no end.
func (e *expiryFlags) instant() (time.Time, error) {
	var d config.Duration
	switch {
	case e.span != "" && e.until != "":
		return time.Time{}, errors.New("only one of --for and --until can be given")
	case e.span != "":
		if err := d.UnmarshalText([]byte(e.span)); err != nil || d.Duration <= 0 {
			return time.Time{}, fmt.Errorf("--for: %q is not a time span such as 12h or 90d", clip(e.span))
		}
		return time.Now().Add(d.Duration).Truncate(time.Second).UTC(), nil
	case e.until != "":
		day, err := time.Parse(time.DateOnly, e.until)
		if err != nil || !day.AddDate(0, 0, 1).After(time.Now()) {
			return time.Time{}, fmt.Errorf("--until: %q is not a day to come such as 2027-12-31", clip(e.until))
		}
		return day.AddDate(0, 0, 1).UTC(), nil
	}
	return time.Time{}, nil
}

func grantAddCommand() *cobra.Command {
	var v verbFlags
	var e expiryFlags
	var until time.Time
	cmd := &cobra.Command{
		Use:   "add --config FILE RECIPIENT AUTHOR",
		Short: "Permit an author to write to a recipient of ours; either may be a whole domain",
		Args:  cobra.ExactArgs(2),
		PreRunE: func(*cobra.Command, []string) (err error) {
			until, err = e.instant()
			return err
		},
		RunE: work(func(cmd *cobra.Command, args []string) error {
			p, err := v.pair(args)
			if err != nil {
				return err
			}
			if !p.given {
				return fmt.Errorf("%s is not of a domain of ours: `grant request` asks for it", p.recipient)
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				asked := store.Grant{GrantName: p.name(store.GrantAsked), Peer: p.peer}
				if err := grants.Approve(ctx, st, asked, store.ByOperator, until); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "permitted %s%s\n", p, expiryWords(until))
				return err
			})
		}),
	}
	configFlag(cmd, &v.file)
	e.add(cmd)
	return cmd
}

func expiryWords(until time.Time) string {
	if until.IsZero() {
		return ""
	}
	return " until " + until.UTC().Format(time.RFC3339)
}

func grantRevokeCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "revoke --config FILE RECIPIENT AUTHOR",
		Short: "Take a permission back, or give up one that an author of ours has",
		Args:  cobra.ExactArgs(2),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			p, err := v.pair(args)
			if err != nil {
				return err
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				kind := store.GrantGiven
				if !p.given {
					kind = store.GrantHeld
				}
				if err := grants.Revoke(ctx, st, p.name(kind), p.peer); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "no longer permitted: %s\n", p)
				return err
			})
		}),
	}
	configFlag(cmd, &v.file)
	return cmd
}

func grantApproveCommand() *cobra.Command {
	var e expiryFlags
	var until time.Time
	cmd := answerCommand("approve", "Permit what was asked for", func(ctx context.Context, st admin.Store, asked store.Grant) error {
		return grants.Approve(ctx, st, asked, store.ByOperator, until)
	})
	cmd.PreRunE = func(*cobra.Command, []string) (err error) {
		until, err = e.instant()
		return err
	}
	e.add(cmd)
	return cmd
}

func grantDenyCommand() *cobra.Command {
	return answerCommand("deny", "Refuse what was asked for, for good; whoever asked hears nothing", func(ctx context.Context, st admin.Store, asked store.Grant) error {
		return grants.Deny(ctx, st, asked, store.ByOperator)
	})
}

// answerCommand answers a request that waits.
func answerCommand(verb, short string, answer func(context.Context, admin.Store, store.Grant) error) *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   verb + " --config FILE RECIPIENT AUTHOR",
		Short: short,
		Args:  cobra.ExactArgs(2),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			p, err := v.pair(args)
			if err != nil {
				return err
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				asked, err := grants.Find(ctx, st, p.name(store.GrantAsked), p.peer)
				if errors.Is(err, store.ErrNotFound) || err == nil && asked.State != store.Pending {
					return fmt.Errorf("nobody has asked for %s", p)
				}
				if err != nil {
					return err
				}
				if err := answer(ctx, st, asked); err != nil {
					return err
				}
				_, err = fmt.Fprintf(w, "%s: %s\n", map[string]string{"approve": "permitted", "deny": "refused"}[verb], p)
				return err
			})
		}),
	}
	configFlag(cmd, &v.file)
	return cmd
}

func grantRequestCommand() *cobra.Command {
	var v verbFlags
	var text string
	cmd := &cobra.Command{
		Use:   "request --config FILE RECIPIENT AUTHOR",
		Short: "Ask a recipient elsewhere to permit an author of ours",
		Args:  cobra.ExactArgs(2),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			p, err := v.pair(args)
			if err != nil {
				return err
			}
			if p.given {
				return fmt.Errorf("%s is of a domain of ours: `grant add` permits", p.recipient)
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				if err := grants.Ask(ctx, st, p.recipient, p.author, p.peer, text); err != nil {
					return err
				}
				_, err := fmt.Fprintf(w, "%s is asked to permit %s\n", p.recipient, p.author)
				return err
			})
		}),
	}
	configFlag(cmd, &v.file)
	cmd.Flags().StringVar(&text, "text", "", "one `LINE` that the recipient is shown")
	return cmd
}

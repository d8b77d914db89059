package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/store"
)

func userCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Look after the users who may submit mail",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("no user command given") },
	}
	cmd.AddCommand(userAddCommand(), userPasswdCommand(), userAddressesCommand(), userListCommand(), userDelCommand())
	return cmd
}

func userAddCommand() *cobra.Command {
	var v verbFlags
	var u store.User
	var password passwordFlag
	cmd := &cobra.Command{
		Use:   "add --config FILE NAME",
		Short: "Add a user, whose password is read from standard input",
		Args:  cobra.ExactArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			if u.Name, err = userName(args[0]); err != nil {
				return err
			}
			u.Addresses, err = ownAddresses(u.Addresses)
			return err
		},
		RunE: work(func(cmd *cobra.Command, _ []string) (err error) {
			if u.Addresses, err = v.addressesOf(u); err != nil {
				return err
			}
			if u.Verifier, err = password.verifier(cmd.InOrStdin()); err != nil {
				return err
			}
			return v.on(cmd, isMade, func(ctx context.Context, st admin.Store, w io.Writer) error {
				_, err := st.User(ctx, u.Name)
				switch {
				case err == nil:
					return fmt.Errorf("user %s is there already", u.Name)
				case !errors.Is(err, store.ErrNotFound):
					return err
				}
				return v.put(ctx, st, w, u, "added")
			})
		}),
	}
	configFlag(cmd, &v.file)
	password.add(cmd)
	cmd.Flags().StringArrayVar(&u.Addresses, "address", nil, "an `ADDRESS` to write from, or @domain for all of a domain (repeatable); without any, the name")
	return cmd
}

func userPasswdCommand() *cobra.Command {
	var v verbFlags
	var name string
	var password passwordFlag
	cmd := &cobra.Command{
		Use:     "passwd --config FILE NAME",
		Short:   "Give a user another password, which is read from standard input",
		Args:    cobra.ExactArgs(1),
		PreRunE: nameArg(&name),
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			verifier, err := password.verifier(cmd.InOrStdin())
			if err != nil {
				return err
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				u, err := st.User(ctx, name)
				if err != nil {
					return fmt.Errorf("user %s: %w", name, err)
				}
				u.Verifier = verifier
				return v.put(ctx, st, w, u, "changed")
			})
		}),
	}
	configFlag(cmd, &v.file)
	password.add(cmd)
	return cmd
}

func userAddressesCommand() *cobra.Command {
	var v verbFlags
	var name string
	var addresses []string
	cmd := &cobra.Command{
		Use:   "addresses --config FILE NAME ADDRESS...",
		Short: "Say what a user may write from; a user of Dovecot's is added",
		Args:  cobra.MinimumNArgs(2),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			if name, err = userName(args[0]); err != nil {
				return err
			}
			addresses, err = ownAddresses(args[1:])
			return err
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(v.file)
			if err != nil {
				return err
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				u, err := st.User(ctx, name)
				if errors.Is(err, store.ErrNotFound) && asksDovecot(cfg) {
					u, err = store.User{Name: name}, nil
				}
				if err != nil {
					return fmt.Errorf("user %s: %w", name, err)
				}
				u.Addresses = addresses
				return v.put(ctx, st, w, u, "changed")
			})
		}),
	}
	configFlag(cmd, &v.file)
	return cmd
}

func userListCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "list --config FILE",
		Short: "List the users and what they may write from",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				users, err := st.Users(ctx)
				if err != nil {
					return err
				}
				if v.json {
					return printJSON(w, publicUsers(users))
				}
				t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
				fmt.Fprintln(t, "USER\tADDRESSES")
				for _, u := range users {
					fmt.Fprintf(t, "%s\t%s\n", u.Name, strings.Join(u.Addresses, " "))
				}
				return t.Flush()
			})
		}),
	}
	v.add(cmd)
	return cmd
}

func userDelCommand() *cobra.Command {
	var v verbFlags
	var name string
	cmd := &cobra.Command{
		Use:     "del --config FILE NAME",
		Short:   "Delete a user",
		Args:    cobra.ExactArgs(1),
		PreRunE: nameArg(&name),
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				if err := st.DeleteUser(ctx, name); err != nil {
					return fmt.Errorf("user %s: %w", name, err)
				}
				_, err := fmt.Fprintf(w, "user %s deleted\n", name)
				return err
			})
		}),
	}
	configFlag(cmd, &v.file)
	return cmd
}

func nameArg(name *string) func(*cobra.Command, []string) error {
	return func(_ *cobra.Command, args []string) (err error) {
		*name, err = userName(args[0])
		return err
	}
}

// addressesOf completes the addresses of a new user, from the configuration.
func (v *verbFlags) addressesOf(u store.User) ([]string, error) {
	if len(u.Addresses) > 0 {
		return u.Addresses, nil
	}
	cfg, err := config.Load(v.file)
	if err != nil {
		return nil, err
	}
	own, ok := nameAddress(u.Name, cfg.DefaultDomain().Name)
	if !ok {
		return nil, fmt.Errorf("user %s: the name is no address, so that --address is needed", u.Name)
	}
	return []string{own}, nil
}

func (v *verbFlags) put(ctx context.Context, st admin.Store, w io.Writer, u store.User, how string) error {
	if err := st.PutUser(ctx, u); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "user %s %s, may write from %s\n", u.Name, how, strings.Join(u.Addresses, " "))
	return err
}

// publicUsers leaves out what is kept of the passwords.
func publicUsers(users []store.User) []store.User {
	out := make([]store.User, len(users))
	for i, u := range users {
		out[i] = store.User{Name: u.Name, Addresses: u.Addresses}
	}
	return out
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/dns"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/signing"
)

func keysCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "keys",
		Short: "Look after the keys that sign our mail (DKIM)",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("no keys command given") },
	}
	cmd.AddCommand(keysListCommand(), keysDNSCommand(), keysAddCommand(), keysRotateCommand(), keysRemoveCommand())
	return cmd
}

// keyRow is a key as the operator sees it; what is private stays where it is.
type keyRow struct {
	Domain   string           `json:"domain"`
	Selector string           `json:"selector"`
	Kind     string           `json:"kind"`
	Created  time.Time        `json:"created"`
	Forced   bool             `json:"forced,omitempty"`
	DNS      signing.Standing `json:"dns"`
}

func keysListCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "list --config FILE",
		Short: "List the keys, and whether DNS shows their records",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			cfg, err := config.Load(v.file)
			if err != nil {
				return err
			}
			resolver, err := dns.New(cfg.DNS.Servers, cfg.DNS.Timeout.Duration)
			if err != nil {
				return err
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				keys, err := openKeys(ctx, st)
				if err != nil {
					return err
				}
				rows := make([]keyRow, len(keys))
				for i, k := range keys {
					rows[i] = keyRow{k.Domain, k.Selector, k.Kind, k.Created, k.Forced, k.Look(ctx, resolver)}
				}
				if v.json {
					return json.NewEncoder(w).Encode(rows)
				}
				return printKeys(w, rows)
			})
		}),
	}
	v.add(cmd)
	return cmd
}

func printKeys(w io.Writer, rows []keyRow) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "DOMAIN\tSELECTOR\tKIND\tMADE\tDNS")
	for _, r := range rows {
		standing := string(r.DNS)
		if r.Forced {
			standing += ", signs anyway"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Domain, r.Selector, r.Kind, r.Created.UTC().Format(time.DateOnly), standing)
	}
	return t.Flush()
}

func keysDNSCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "dns --config FILE [DOMAIN]",
		Short: "Print the records that publish the keys, as a zone file has them",
		Args:  cobra.MaximumNArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				keys, err := openKeys(ctx, st)
				if err != nil {
					return err
				}
				if len(args) == 1 {
					domain, err := mail.ParseDomain(args[0])
					if err != nil {
						return err
					}
					keys = slices.DeleteFunc(keys, func(k signing.Key) bool { return k.Domain != domain })
				}
				if len(keys) == 0 {
					return errors.New("there are no keys; mailxmppd serve makes them, and so does mailxmppd keys add")
				}
				return printRecords(w, keys)
			})
		}),
	}
	configFlag(cmd, &v.file)
	return cmd
}

func keysAddCommand() *cobra.Command {
	return makeKeysCommand("add", "Make the first keys of a domain, one RSA and one Ed25519", true)
}

func keysRotateCommand() *cobra.Command {
	return makeKeysCommand("rotate", "Make new keys for a domain; the old ones sign until DNS shows the new", false)
}

// makeKeysCommand makes a verb that adds keys, of which there must be none yet
// with first, and some without it.
func makeKeysCommand(name, short string, first bool) *cobra.Command {
	var v verbFlags
	var force bool
	cmd := &cobra.Command{
		Use:   name + " --config FILE DOMAIN",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			cfg, err := config.Load(v.file)
			if err != nil {
				return err
			}
			domain, err := mail.ParseDomain(args[0])
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(cfg.Domains, func(d config.Domain) bool { return d.Name == domain }) {
				return fmt.Errorf("%s is no domain of ours", domain)
			}
			absent := mustBeThere
			if first {
				absent = isMade
			}
			return v.on(cmd, absent, func(ctx context.Context, st admin.Store, w io.Writer) error {
				return makeKeys(ctx, st, w, domain, first, force)
			})
		}),
	}
	configFlag(cmd, &v.file)
	cmd.Flags().BoolVar(&force, "force", false, "let the keys sign before DNS shows their records")
	return cmd
}

func makeKeys(ctx context.Context, st admin.Store, w io.Writer, domain string, first, force bool) error {
	stored, err := st.SigningKeys(ctx)
	if err != nil {
		return err
	}
	has := slices.ContainsFunc(stored, func(k store.SigningKey) bool { return k.Domain == domain })
	switch {
	case has && first:
		return fmt.Errorf("%s has keys already: mailxmppd keys rotate makes new ones", domain)
	case !has && !first:
		return fmt.Errorf("%s has no keys yet: mailxmppd keys add makes the first", domain)
	}
	made, err := signing.GenerateAll(domain, time.Now(), stored)
	if err != nil {
		return err
	}
	var keys []signing.Key
	for i := range made {
		made[i].Forced = force
		k, err := signing.Open(made[i])
		if err != nil {
			return err
		}
		keys = append(keys, k)
	}
	if err := st.AddSigningKeys(ctx, made, first); err != nil {
		return err
	}
	return printRecords(w, keys)
}

func keysRemoveCommand() *cobra.Command {
	var v verbFlags
	cmd := &cobra.Command{
		Use:   "remove --config FILE DOMAIN SELECTOR",
		Short: "Delete a key for good; its record in DNS has to stay while mail that it signed is under way",
		Args:  cobra.ExactArgs(2),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			domain, err := mail.ParseDomain(args[0])
			if err != nil {
				return err
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				if err := st.DeleteSigningKey(ctx, domain, args[1]); err != nil {
					return fmt.Errorf("key %s of %s: %w", args[1], domain, err)
				}
				_, err := fmt.Fprintf(w, "key %s of %s deleted\n", args[1], domain)
				return err
			})
		}),
	}
	configFlag(cmd, &v.file)
	return cmd
}

func openKeys(ctx context.Context, st admin.Store) ([]signing.Key, error) {
	stored, err := st.SigningKeys(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]signing.Key, len(stored))
	for i, k := range stored {
		if keys[i], err = signing.Open(k); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

func printRecords(w io.Writer, keys []signing.Key) error {
	for _, k := range keys {
		line, err := k.ZoneLine()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

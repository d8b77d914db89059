package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/config"
	"mailxmppd/mail"
	"mailxmppd/store"
	"mailxmppd/trust/contacts"
)

// contactPage is how many keys are asked for at a time, and maxContactList how
// many are shown.
const (
	contactPage    = 1000
	maxContactList = 100_000
)

func contactCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "contact",
		Short: "Look after the keys that mailboxes know of the people who write to them",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return errors.New("no contact command given") },
	}
	cmd.AddCommand(contactImportCommand(), contactListCommand(), contactRemoveCommand())
	return cmd
}

func contactImportCommand() *cobra.Command {
	var v verbFlags
	var mailbox, address string
	cmd := &cobra.Command{
		Use:   "import --config FILE --for ADDRESS KEYFILE...",
		Short: "Import keys from vCards, OpenPGP keys or S/MIME certificates",
		Args:  cobra.MinimumNArgs(1),
		RunE: work(func(cmd *cobra.Command, files []string) error {
			owner, err := v.ownerOf(mailbox)
			if err != nil {
				return err
			}
			// All files are read before anything is stored.
			var keys []store.ContactKey
			for _, file := range files {
				found, err := keysIn(file, owner, address)
				if err != nil {
					return err
				}
				keys = append(keys, found...)
			}
			return v.on(cmd, isMade, func(ctx context.Context, st admin.Store, w io.Writer) error {
				for _, k := range keys {
					if err := st.PutContactKey(ctx, k); err != nil {
						return fmt.Errorf("key %s of %s: %w", k.Fingerprint, k.Address, err)
					}
					if !v.json {
						fmt.Fprintf(w, "%s knows the %s key %s of %s\n", k.Owner, k.Kind, k.Fingerprint, k.Address)
					}
				}
				if v.json {
					return printJSON(w, publicKeys(keys))
				}
				return nil
			})
		}),
	}
	v.add(cmd)
	ownerFlag(cmd, &mailbox, true)
	cmd.Flags().StringVar(&address, "address", "", "take the keys as those of this `ADDRESS`, whatever they say themselves")
	return cmd
}

func contactListCommand() *cobra.Command {
	var v verbFlags
	var mailbox string
	cmd := &cobra.Command{
		Use:   "list --config FILE [--for ADDRESS]",
		Short: "List the keys that mailboxes know",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) (err error) {
			owner := ""
			if mailbox != "" {
				if owner, err = v.ownerOf(mailbox); err != nil {
					return err
				}
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				keys, err := allContacts(ctx, st, owner)
				if err != nil {
					return err
				}
				if v.json {
					return printJSON(w, publicKeys(keys))
				}
				return printContacts(w, keys)
			})
		}),
	}
	v.add(cmd)
	ownerFlag(cmd, &mailbox, false)
	return cmd
}

func contactRemoveCommand() *cobra.Command {
	var v verbFlags
	var mailbox string
	cmd := &cobra.Command{
		Use:   "remove --config FILE --for ADDRESS CONTACT [FINGERPRINT]",
		Short: "Forget a key of a contact, or all of them",
		Args:  cobra.RangeArgs(1, 2),
		RunE: work(func(cmd *cobra.Command, args []string) error {
			owner, err := v.ownerOf(mailbox)
			if err != nil {
				return err
			}
			a, err := mail.ParseAddress(args[0])
			if err != nil {
				return err
			}
			fingerprint := ""
			if len(args) > 1 {
				fingerprint = strings.ToUpper(strings.ReplaceAll(args[1], " ", ""))
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				n, err := st.DeleteContactKeys(ctx, owner, contacts.Form(a), fingerprint)
				switch {
				case err != nil:
					return err
				case n == 0:
					return fmt.Errorf("%s knows no such key of %s", owner, contacts.Form(a))
				case v.json:
					return printJSON(w, map[string]int{"removed": n})
				}
				_, err = fmt.Fprintf(w, "%d removed\n", n)
				return err
			})
		}),
	}
	v.add(cmd)
	ownerFlag(cmd, &mailbox, true)
	return cmd
}

func ownerFlag(cmd *cobra.Command, owner *string, required bool) {
	cmd.Flags().StringVar(owner, "for", "", "the mailbox of ours, an `ADDRESS`, whose contacts are meant")
	if required {
		cmd.MarkFlagRequired("for")
	}
}

// ownerOf reads whose contacts are meant. Of a domain that is not ours nobody
// would ever be asked.
func (v *verbFlags) ownerOf(s string) (string, error) {
	cfg, err := config.Load(v.file)
	if err != nil {
		return "", err
	}
	a, err := mail.ParseAddress(s)
	if err != nil {
		return "", err
	}
	for _, d := range cfg.Domains {
		if d.Name == a.Domain {
			return contacts.Form(a), nil
		}
	}
	return "", fmt.Errorf("--for %s: %q is no domain of ours", a, a.Domain)
}

// keysIn reads the keys of a file. What would never count is refused here,
// where somebody sees it.
func keysIn(file, owner, address string) ([]store.ContactKey, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, contacts.MaxFile+1))
	if err != nil {
		return nil, err
	}
	found, err := contacts.ReadFile(file, data)
	if err != nil {
		return nil, err
	}
	var out []store.ContactKey
	for _, k := range found {
		if err := k.Usable(time.Now()); err != nil {
			return nil, fmt.Errorf("%s: key %s: %w", file, k.Fingerprint, err)
		}
		if address != "" {
			a, err := mail.ParseAddress(address)
			if err != nil {
				return nil, fmt.Errorf("--address: %w", err)
			}
			k.Addresses = []string{contacts.Form(a)}
		}
		if len(k.Addresses) == 0 {
			return nil, fmt.Errorf("%s: key %s names no address: --address says whose it is", file, k.Fingerprint)
		}
		for _, a := range k.Addresses {
			out = append(out, store.ContactKey{Owner: owner, Address: a, Fingerprint: k.Fingerprint, Kind: k.Kind, Origin: store.Imported,
				Name: k.Name, Certificate: k.Data, Expires: k.Expires})
		}
	}
	return out, nil
}

// allContacts asks page by page.
func allContacts(ctx context.Context, st admin.Store, owner string) ([]store.ContactKey, error) {
	var all []store.ContactKey
	var last store.ContactKey
	for {
		page, err := st.ListContactKeys(ctx, owner, last, contactPage)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(page) < contactPage {
			return all, nil
		}
		if len(all) >= maxContactList {
			return nil, fmt.Errorf("more than %d keys: --for lists those of one mailbox", maxContactList)
		}
		last = page[len(page)-1]
	}
}

// contactRow is a contact's key as the operator sees it.
type contactRow struct {
	Owner       string    `json:"owner"`
	Address     string    `json:"address"`
	Name        string    `json:"name,omitempty"`
	Kind        string    `json:"kind"`
	Fingerprint string    `json:"fingerprint"`
	Origin      string    `json:"origin"`
	Expires     time.Time `json:"expires,omitzero"`
	Signed      time.Time `json:"signed,omitzero"`
}

func publicKeys(keys []store.ContactKey) []contactRow {
	rows := make([]contactRow, len(keys))
	for i, k := range keys {
		rows[i] = contactRow{k.Owner, k.Address, k.Name, k.Kind, k.Fingerprint, k.Origin, k.Expires, k.Signed}
	}
	return rows
}

func printContacts(w io.Writer, keys []store.ContactKey) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "FOR\tCONTACT\tKIND\tFINGERPRINT\tFROM\tEXPIRES\tLAST SIGNED")
	day := func(at time.Time) string {
		if at.IsZero() {
			return "never"
		}
		return at.Format(time.DateOnly)
	}
	for _, k := range keys {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", k.Owner, k.Address, k.Kind, k.Fingerprint, k.Origin, day(k.Expires), day(k.Signed))
	}
	return t.Flush()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
	"mailxmppd/store"
)

// queueVerb changes deliveries.
type queueVerb struct {
	name, short string
	of          []store.State // what it changes
	done        string        // of the deliveries that it changed
	do          func(context.Context, admin.Store, store.Selection) (int, error)
}

// queueVerbs are those that take nothing but a selection.
func queueVerbs() []queueVerb {
	return []queueVerb{
		{"retry", "Try waiting deliveries again now", []store.State{store.Due, store.Deferred}, "due now",
			func(ctx context.Context, st admin.Store, sel store.Selection) (int, error) { return st.Retry(ctx, sel) }},
		{"hold", "Keep deliveries from being tried, and from expiring", []store.State{store.Due, store.Deferred, store.Leased}, "held",
			func(ctx context.Context, st admin.Store, sel store.Selection) (int, error) { return st.Hold(ctx, sel) }},
		{"release", "Let held deliveries go on", []store.State{store.Held}, "released",
			func(ctx context.Context, st admin.Store, sel store.Selection) (int, error) {
				return st.Unhold(ctx, sel)
			}},
		{"drop", "End deliveries without telling the sender; restore brings them back for a day", openStates(), "dropped",
			func(ctx context.Context, st admin.Store, sel store.Selection) (int, error) { return st.Drop(ctx, sel) }},
		{"restore", "Bring dropped deliveries back", []store.State{store.Dropped}, "restored",
			func(ctx context.Context, st admin.Store, sel store.Selection) (int, error) {
				return st.Restore(ctx, sel)
			}},
	}
}

func openStates() []store.State {
	return slices.DeleteFunc(store.States(), func(s store.State) bool { return !s.Open() })
}

func (v queueVerb) command() *cobra.Command {
	var q selectFlags
	cmd := &cobra.Command{
		Use:     v.name + " --config FILE (ID | ID.N | --all)",
		Short:   v.short,
		Args:    cobra.MaximumNArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) error { return q.settle(args) },
		RunE:    work(func(cmd *cobra.Command, _ []string) error { return q.run(cmd, v) }),
	}
	q.add(cmd)
	return cmd
}

func queueRedirectCommand() *cobra.Command {
	var q selectFlags
	var next string
	var back bool
	v := queueVerb{name: "redirect", of: openStates(), done: "redirected",
		do: func(ctx context.Context, st admin.Store, sel store.Selection) (int, error) {
			return st.Redirect(ctx, sel, next)
		}}
	cmd := &cobra.Command{
		Use:   "redirect --config FILE (--next HOP | --back) (ID | ID.N | --all)",
		Short: "Send deliveries to another next hop, whatever their route",
		Args:  cobra.MaximumNArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) error {
			if back == (next != "") {
				return errors.New("wants either --next or --back")
			}
			if next != "" {
				if _, err := smtpbridge.ParseHop(next); err != nil {
					return fmt.Errorf("--next: %w", err)
				}
			}
			return q.settle(args)
		},
		RunE: work(func(cmd *cobra.Command, _ []string) error { return q.run(cmd, v) }),
	}
	q.add(cmd)
	cmd.Flags().StringVar(&next, "next", "", "the `HOP`, as in a [[route]]: smtp://HOST:PORT, lmtp://HOST:PORT, mx")
	cmd.Flags().BoolVar(&back, "back", false, "take a redirection back: as routed again")
	return cmd
}

// failer is a gateway that runs: it alone can write DSNs.
type failer interface {
	Fail(ctx context.Context, id mail.ID, n int, by, text string) (int, error)
}

func queueFailCommand() *cobra.Command {
	var q selectFlags
	var text string
	v := queueVerb{name: "fail", of: openStates(), done: "failed",
		do: func(ctx context.Context, st admin.Store, sel store.Selection) (int, error) {
			gw, ok := st.(failer)
			switch {
			case !ok:
				return 0, errors.New("no gateway is running here, and it alone can write the DSNs: start it (mailxmppd serve), then ask again")
			case sel.ID == "":
				return failAll(ctx, st, gw, sel, text)
			}
			return gw.Fail(ctx, sel.ID, sel.N, sel.By, text)
		}}
	cmd := &cobra.Command{
		Use:     "fail --config FILE (ID | ID.N | --all)",
		Short:   "End deliveries and send the DSN that their sender is due",
		Args:    cobra.MaximumNArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) error { return q.settle(args) },
		RunE:    work(func(cmd *cobra.Command, _ []string) error { return q.run(cmd, v) }),
	}
	q.add(cmd)
	cmd.Flags().StringVar(&text, "reason", "", "`TEXT` for the sender")
	return cmd
}

// failPage is how many deliveries are looked at before they are failed.
const failPage = 500

// failAll fails what a choice finds, message by message: one whose open
// deliveries are all meant gets one DSN for all.
func failAll(ctx context.Context, st admin.Store, gw failer, sel store.Selection, text string) (total int, err error) {
	f := sel.Filter
	f.Limit, f.After = failPage, ""
	unreadable := 0
	for {
		page, err := st.List(ctx, f)
		if err != nil {
			return total, err
		}
		for rest := page; len(rest) > 0; {
			id, n := rest[0].ID, 1
			for n < len(rest) && rest[n].ID == id {
				n++
			}
			count, err := failOne(ctx, st, gw, sel.By, text, rest[:n])
			total += count
			switch {
			case errors.Is(err, store.ErrUnreadable):
				unreadable++
			case err != nil && !errors.Is(err, store.ErrNotFound): // that is finished meanwhile
				return total, err
			}
			rest = rest[n:]
		}
		if len(page) < failPage {
			if unreadable > 0 {
				err = fmt.Errorf("%d messages were left: %w, so that their senders cannot be told; drop ends them", unreadable, store.ErrUnreadable)
			}
			return total, err
		}
		last := page[len(page)-1]
		f.After, f.AfterN = last.ID, last.N
	}
}

// failOne fails deliveries of one message, as far as they are open still: since
// they were listed some may have ended, and what was not meant may not take their
// place.
func failOne(ctx context.Context, st admin.Store, gw failer, by, text string, of []store.Entry) (total int, err error) {
	r, err := st.Show(ctx, of[0].ID)
	if err != nil {
		return 0, err
	}
	if r.Unreadable != "" {
		return 0, store.ErrUnreadable
	}
	meant := map[int]bool{}
	for _, e := range of {
		meant[e.N] = true
	}
	open := slices.DeleteFunc(r.Deliveries, func(e store.Entry) bool { return !e.State.Open() })
	left := slices.DeleteFunc(slices.Clone(open), func(e store.Entry) bool { return !meant[e.N] })
	switch len(left) {
	case 0: // they ended while others were failed
		return 0, nil
	case len(open):
		return gw.Fail(ctx, of[0].ID, -1, by, text)
	}
	for _, e := range left {
		n, err := gw.Fail(ctx, e.ID, e.N, by, text)
		if total += n; err != nil {
			return total, err
		}
	}
	return total, nil
}

// run does the verb and says how many deliveries it changed.
func (q *selectFlags) run(cmd *cobra.Command, v queueVerb) error {
	return q.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
		if q.sel.ID == "" {
			if err := q.narrow(v); err != nil {
				return err
			}
			if err := q.ask(ctx, cmd, st, v); err != nil {
				return err
			}
		}
		n, err := v.do(ctx, st, q.sel)
		switch {
		case err != nil && n > 0:
			return fmt.Errorf("%s %s, then: %w", deliveries(n), v.done, err)
		case err != nil && q.sel.ID != "":
			return unknown(q.named(), err)
		case err != nil:
			return err
		case n == 0 && q.sel.ID != "":
			return q.explain(ctx, st, v)
		case q.json:
			return printJSON(w, admin.Count{Deliveries: n})
		}
		_, err = fmt.Fprintf(w, "%s %s\n", deliveries(n), v.done)
		return err
	})
}

// narrow leaves of the states asked for those that the verb is for.
func (q *selectFlags) narrow(v queueVerb) error {
	if len(q.sel.Filter.States) == 0 {
		q.sel.Filter.States = v.of
		return nil
	}
	q.sel.Filter.States = slices.DeleteFunc(slices.Clone(q.sel.Filter.States), func(s store.State) bool { return !slices.Contains(v.of, s) })
	if len(q.sel.Filter.States) == 0 {
		return fmt.Errorf("%s is for deliveries that are %s", v.name, anyOf(v.of))
	}
	return nil
}

// ask counts what a choice finds and has the operator confirm it.
func (q *selectFlags) ask(ctx context.Context, cmd *cobra.Command, st admin.Store, v queueVerb) error {
	if q.yes {
		return nil
	}
	totals, err := st.Totals(ctx, q.sel.Filter, 1)
	if err != nil || totals.All.Deliveries == 0 {
		return err
	}
	return confirm(cmd.InOrStdin(), cmd.ErrOrStderr(), fmt.Sprintf("%s %s?", v.name, deliveries(totals.All.Deliveries)))
}

// explain says why a verb on a message or delivery changed nothing.
func (q *selectFlags) explain(ctx context.Context, st admin.Store, v queueVerb) error {
	r, err := st.Show(ctx, q.sel.ID)
	if err != nil {
		return unknown(q.named(), err)
	}
	count := map[store.State]int{}
	for _, e := range r.Deliveries {
		if q.sel.N < 0 || e.N == q.sel.N {
			count[e.State]++
		}
	}
	var is []string
	fits := false
	for _, s := range slices.Sorted(maps.Keys(count)) {
		is = append(is, fmt.Sprintf("%d %s", count[s], s))
		fits = fits || slices.Contains(v.of, s)
	}
	switch {
	case len(is) == 0:
		return unknown(q.named(), store.ErrNotFound)
	case fits:
		return fmt.Errorf("%s: nothing to change", q.named())
	case q.sel.N >= 0:
		return fmt.Errorf("%s is %s: %s is for what is %s", q.named(), slices.Collect(maps.Keys(count))[0], v.name, anyOf(v.of))
	}
	return fmt.Errorf("%s has nothing to %s, which is for what is %s: its deliveries are %s", q.named(), v.name, anyOf(v.of), strings.Join(is, ", "))
}

func anyOf(states []store.State) string {
	names := stateNames(states)
	if len(names) == 1 {
		return names[0]
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

// deliveries is a number of them in words.
func deliveries(n int) string {
	if n == 1 {
		return "1 delivery"
	}
	return fmt.Sprintf("%d deliveries", n)
}

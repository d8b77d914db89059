package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"mailxmppd/mail"
	"mailxmppd/store"
)

// clipped is how much of a next hop's words a table shows, in characters.
const clipped = 72

// printEntries writes a table of deliveries.
func printEntries(w io.Writer, entries []store.Entry) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "DELIVERY\tSTATE\tAGE\tDUE\tATTEMPTS\tFROM\tRCPT\tLAST")
	for _, e := range entries {
		rcpt := "<" + e.Rcpt + ">"
		if e.Next != "" {
			rcpt += " by " + e.Next
		}
		fmt.Fprintf(t, "%s.%d\t%s\t%s\t%s\t%d\t<%s>\t%s\t%s\n",
			e.ID, e.N, state(e), age(e.AgeSecs), due(e), e.Attempts, e.Sender, clip(rcpt), clip(e.Last))
	}
	return t.Flush()
}

// state marks a delivery that the next hop may have taken already.
func state(e store.Entry) string {
	if e.InDoubt {
		return string(e.State) + "?"
	}
	return string(e.State)
}

func due(e store.Entry) string {
	switch {
	case !e.State.Open(), e.State == store.Held:
		return "-"
	case e.DueSecs <= 0:
		return "now"
	}
	return "in " + age(e.DueSecs)
}

// age writes a time span in its two largest units.
func age(secs int64) string {
	d := time.Duration(secs) * time.Second
	days, hours, minutes := secs/86400, secs/3600%24, secs/60%60
	switch {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, hours)
	case hours > 0:
		return fmt.Sprintf("%dh%dm", hours, minutes)
	case minutes > 0:
		return fmt.Sprintf("%dm%ds", minutes, secs%60)
	}
	return d.String()
}

func clip(s string) string {
	r := []rune(mail.Sanitise(s))
	if len(r) > clipped {
		return string(r[:clipped-3]) + "..."
	}
	return string(r)
}

// printRecord writes everything about one message.
func printRecord(w io.Writer, r store.Record) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	field := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, mail.Sanitise(value))
		}
	}
	field("id", string(r.ID))
	field("unreadable", r.Unreadable)
	field("transfer", r.Transfer)
	field("from", r.Envelope.Sender.Path())
	field("envid", r.Envelope.EnvelopeID)
	field("size", fmt.Sprint(r.Size))
	field("sha-256", r.SHA256)
	field("received", r.Origin.Received.UTC().Format(time.RFC3339))
	field("transport", r.Origin.Transport)
	field("remote", r.Origin.Remote)
	field("helo", r.Origin.Helo)
	field("user", r.Origin.User)
	field("peer", r.Origin.Peer)
	field("proof", r.Origin.Proof)
	field("tls", r.Origin.TLS)
	for line := range strings.Lines(r.Trace) {
		field("trace", line)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := printEntries(w, r.Deliveries); err != nil {
		return err
	}
	if len(r.Attempts) > 0 {
		fmt.Fprintln(w)
		if err := printAttempts(w, r.Attempts); err != nil {
			return err
		}
	}
	if len(r.Events) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return printEvents(w, r.Events)
}

func printEvents(w io.Writer, events []store.Event) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "N\tAT\tVERB\tBY\tDETAIL")
	for _, e := range events {
		n := "all"
		if e.N >= 0 {
			n = fmt.Sprint(e.N)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", n, e.At.UTC().Format(time.RFC3339), e.Verb, clip(e.By), dash(e.Detail))
	}
	return t.Flush()
}

// printTotals writes what waits as Postfix's qshape does: by domain, and by
// the age at which each column ends, in minutes.
func printTotals(w io.Writer, totals store.Totals) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "DELIVERIES\t")
	bounds := store.AgeClasses()
	for _, b := range bounds {
		fmt.Fprintf(t, "<%dm\t", int(b.Minutes()))
	}
	fmt.Fprintf(t, "%dm+\tHELD\tLEASED\t  DOMAIN\n", int(bounds[len(bounds)-1].Minutes()))
	line := func(name string, n store.Total) {
		fmt.Fprintf(t, "%d\t", n.Deliveries)
		for _, c := range n.Ages {
			fmt.Fprintf(t, "%d\t", c)
		}
		fmt.Fprintf(t, "%d\t%d\t  %s\n", n.Held, n.Leased, clip(name))
	}
	line("all", totals.All)
	for _, d := range totals.Domains {
		line(d.Domain, d)
	}
	if totals.Others.Deliveries > 0 {
		line("others", totals.Others)
	}
	return t.Flush()
}

func printAttempts(w io.Writer, tries []store.Try) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "N\tATTEMPT\tBEGAN\tTOOK\tRESULT\tSTATUS\tREMOTE\tREMOTE ID\tPROOF\tTLS\tTEXT")
	for _, a := range tries {
		took, result := "-", string(a.Result)
		if !a.Ended.IsZero() {
			took = a.Ended.Sub(a.Began).Round(time.Millisecond).String()
		}
		if result == "" {
			result = "unfinished"
		}
		fmt.Fprintf(t, "%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", a.N, a.Number, a.Began.UTC().Format(time.RFC3339),
			took, result, dash(a.Status), dash(a.Remote), dash(a.RemoteID), dash(a.Proof), dash(a.TLS), clip(a.Text))
	}
	return t.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return clip(s)
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mailxmppd/admin"
	"mailxmppd/mail"
	"mailxmppd/smtpbridge"
	"mailxmppd/store"
)

// keepTLSReports is how long the results of a day can be shown, and a report be
// tried, which RFC 8460 section 5.5 ends after a day.
const keepTLSReports = 14 * 24 * time.Hour

// shownReport is a domain's day as the verb prints it.
type shownReport struct {
	smtpbridge.DayReport
	State    store.TLSState `json:"state"`
	ReportID string         `json:"report_id,omitempty"`
	Attempts int            `json:"attempts"`
	Last     string         `json:"last,omitempty"`
}

func tlsReportCommand() *cobra.Command {
	var v verbFlags
	var date, domain string
	cmd := &cobra.Command{
		Use:   "tlsreport --config FILE [--date DAY] [--domain D]",
		Short: "Show how TLS with the mail hosts of other domains fared on a day",
		Args:  cobra.NoArgs,
		RunE: work(func(cmd *cobra.Command, _ []string) error {
			day, err := time.Parse(time.DateOnly, cmp.Or(date, time.Now().UTC().Format(time.DateOnly)))
			if err != nil {
				return fmt.Errorf("--date %q: wants a day such as 2006-01-02", date)
			}
			if domain != "" {
				if domain, err = mail.ParseDomain(domain); err != nil {
					return err
				}
			}
			return v.on(cmd, mustBeThere, func(ctx context.Context, st admin.Store, w io.Writer) error {
				days, err := st.TLSDays(ctx, day.Format(time.DateOnly), domain)
				if err != nil {
					return err
				}
				return printTLSReports(w, days, v.json)
			})
		}),
	}
	v.add(cmd)
	cmd.Flags().StringVar(&date, "date", "", "the `DAY` in UTC; today if not given")
	cmd.Flags().StringVar(&domain, "domain", "", "this `DOMAIN` alone")
	return cmd
}

func printTLSReports(out io.Writer, days []store.TLSDay, asJSON bool) error {
	shown := make([]shownReport, len(days))
	for i, d := range days {
		shown[i] = shownReport{smtpbridge.ReadTLSDay(d), d.State, d.ID, d.Tries, d.Said}
	}
	if asJSON {
		return json.NewEncoder(out).Encode(shown)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DOMAIN\tPOLICY\tHOST\tSESSIONS\tRESULT")
	for _, d := range shown {
		for _, p := range d.Policies {
			if p.Successes > 0 {
				fmt.Fprintf(w, "%s\t%s\t\t%d\tok\n", d.Domain, p.Type, p.Successes)
			}
			for _, f := range p.Details {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s: %s\n", d.Domain, p.Type, f.MXHost, f.Sessions, f.Result, mail.Sanitise(f.Detail))
			}
		}
		said := ""
		if d.Last != "" {
			said = ": " + mail.Sanitise(d.Last)
		}
		fmt.Fprintf(w, "%s\treport\t\t\t%s%s\n", d.Domain, d.State, said)
	}
	return w.Flush()
}

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"mailxmppd/mail"
	"mailxmppd/store"
)

func queueLogCommand() *cobra.Command {
	return recordCommand("log", "Tell a message's story in the order of time",
		func(w io.Writer, r store.Record) error { return printStory(w, storyOf(r, time.Now())) },
		func(r store.Record) any { return storyOf(r, time.Now()) })
}

// happening is a line of a message's story.
type happening struct {
	At    time.Time `json:"at"`
	N     int       `json:"n"`     // of the delivery; -1: the whole message
	Event string    `json:"event"` // received, stored, attempt, operator, waits, or the state that it ended in
	By    string    `json:"by,omitempty"`
	Text  string    `json:"text"`
}

// storyOf puts what is known of a message into the order of time: how it came,
// each attempt, what operators did, how each delivery ended or what it waits for.
func storyOf(r store.Record, now time.Time) []happening {
	out := []happening{{At: r.Stored, N: -1, Event: "stored", Text: deliveries(len(r.Deliveries)) + ", transfer id " + r.Transfer}}
	for _, a := range r.Attempts {
		out = append(out, happening{At: a.Began, N: a.N, Event: "attempt", Text: attemptText(a)})
	}
	for _, e := range r.Events {
		verb := e.Verb
		if verb == "unhold" {
			verb = "release" // as the command is called
		}
		out = append(out, happening{At: e.At, N: e.N, Event: "operator", By: e.By, Text: strings.TrimSpace(verb + " " + e.Detail)})
	}
	for _, d := range r.Deliveries {
		out = append(out, outcomeOf(d, r.Stored, now))
	}
	slices.SortStableFunc(out, func(a, b happening) int { return a.At.Compare(b.At) })
	// The first, whatever the database's clock says of the rest.
	return slices.Insert(out, 0, happening{At: r.Origin.Received, N: -1, Event: "received", Text: arrival(r)})
}

// arrival says from whom a message came, and what shows it.
func arrival(r store.Record) string {
	o := r.Origin
	text := r.Envelope.Sender.Path() + " by " + o.Transport
	add := func(name, value string) {
		if value != "" {
			text += ", " + name + value
		}
	}
	add("from ", o.Remote)
	add("helo ", o.Helo)
	add("user ", o.User)
	add("peer ", o.Peer)
	add("proof ", o.Proof)
	if o.Transport == "local" {
		return text + fmt.Sprintf(", %d octets", r.Size)
	}
	if o.TLS == "" {
		o.TLS = "no TLS"
	}
	add("", o.TLS)
	return text + fmt.Sprintf(", %d octets", r.Size)
}

func attemptText(a store.Try) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d", a.Number)
	if a.Number == 0 {
		b.Reset()
		b.WriteString("while the client waited")
	}
	if a.Way != store.WayUnknown {
		fmt.Fprintf(&b, " by %s", a.Way)
	}
	if a.Result == "" {
		return b.String() + ": unfinished, running or cut short"
	}
	fmt.Fprintf(&b, ": %s", a.Result)
	if !a.Ended.IsZero() {
		fmt.Fprintf(&b, " after %s", a.Ended.Sub(a.Began).Round(time.Millisecond))
	}
	for _, part := range [][2]string{{"", a.Status}, {"", a.Text}, {"remote ", a.Remote}, {"its id ", a.RemoteID}, {"proof ", a.Proof}, {"", a.TLS}} {
		if part[1] != "" {
			fmt.Fprintf(&b, ", %s%s", part[0], part[1])
		}
	}
	return b.String()
}

// outcomeOf is where a delivery stands.
func outcomeOf(d store.Entry, stored, now time.Time) happening {
	h := happening{At: d.Settled, N: d.N, Event: string(d.State)}
	if !d.State.Open() {
		h.Text = fmt.Sprintf("<%s>, %s after it was stored, attempts: %d", d.Rcpt, age(int64(d.Settled.Sub(stored).Seconds())), d.Attempts)
		if d.Last != "" && d.State != store.Delivered {
			h.Text += ", " + d.Last
		}
		return h
	}
	h.At, h.Event = now.UTC(), "waits"
	h.Text = fmt.Sprintf("<%s> is %s", d.Rcpt, state(d))
	if d.State != store.Held {
		h.Text += ", due " + due(d)
	}
	if d.Next != "" {
		h.Text += ", redirected to " + d.Next
	}
	return h
}

func printStory(w io.Writer, story []happening) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, h := range story {
		n := "-"
		if h.N >= 0 {
			n = fmt.Sprintf(".%d", h.N)
		}
		text := h.Text
		if h.By != "" {
			text += " (" + h.By + ")"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", h.At.UTC().Format(time.RFC3339), n, h.Event, mail.Sanitise(text))
	}
	return t.Flush()
}

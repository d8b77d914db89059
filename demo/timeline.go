package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// event is one line of the timeline. As JSON every event has t, step, ok and
// text; the others are there where they mean something.
type event struct {
	T      float64 `json:"t"`    // seconds since the start of the run
	Step   string  `json:"step"` // start, sent, delivered, bounced, refused, stop, keep, ...
	OK     bool    `json:"ok"`   // it went as it must
	Path   string  `json:"path,omitempty"`
	Source string  `json:"source,omitempty"`
	From   string  `json:"from,omitempty"`
	To     string  `json:"to,omitempty"`
	Reply  string  `json:"reply,omitempty"` // of the SMTP server, or the stanza error
	Text   string  `json:"text"`
}

// timeline writes events as they happen, for a reader or for a program. Safe
// for concurrent use; a line is never torn.
type timeline struct {
	mu    sync.Mutex
	out   io.Writer
	json  bool
	start time.Time
}

func newTimeline(out io.Writer, asJSON bool) *timeline {
	return &timeline{out: out, json: asJSON, start: time.Now()}
}

// heading begins a part of the scenario; programs know it by each event's path.
func (t *timeline) heading(text string) {
	if t.json {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(t.out, "\n%s\n", text)
}

// say writes one event, with the time of the call.
func (t *timeline) say(e event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	elapsed := time.Since(t.start)
	e.T = float64(elapsed.Milliseconds()) / 1000
	if t.json {
		t.object(e)
		return
	}
	fmt.Fprintln(t.out, e.line())
}

// line gives the event for a reader: time, step, who to whom, what.
func (e event) line() string {
	mark := " "
	if !e.OK {
		mark = "✗"
	}
	line := fmt.Sprintf("%8.3f s %s %-9s", e.T, mark, e.Step)
	if e.To != "" {
		line += fmt.Sprintf("  %-52s", strings.TrimSpace(e.From+" → "+e.To))
	}
	if e.Source != "" {
		line += fmt.Sprintf("  %-26s", e.Source)
	}
	for _, s := range []string{e.Text, e.Reply} {
		if s != "" {
			line += "  " + s
		}
	}
	return line
}

// object writes v as one line of JSON. The caller holds the lock.
func (t *timeline) object(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b, _ = json.Marshal(event{Step: "error", Text: err.Error()})
	}
	t.out.Write(append(b, '\n'))
}

// tally is the last line of a run: what was sent, what arrived, what arrived
// octet for octet.
type tally struct {
	Step      string  `json:"step"` // "end"
	T         float64 `json:"t"`
	OK        bool    `json:"ok"`
	Sent      int     `json:"sent"`
	Delivered int     `json:"delivered"`
	Identical int     `json:"identical"`
	Twins     int     `json:"twins"`
	Held      int     `json:"refusals"` // refusals seen that had to be
}

func (s tally) String() string {
	end := "all of it held"
	if !s.OK {
		end = "NOT all of it held"
	}
	return fmt.Sprintf("sent %d, delivered %d, byte-identical %d, twins %d, refused as they must be %d, in %.1f s: %s",
		s.Sent, s.Delivered, s.Identical, s.Twins, s.Held, s.T, end)
}

// finish writes the tally.
func (t *timeline) finish(s tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Step, s.T = "end", float64(time.Since(t.start).Milliseconds())/1000
	if t.json {
		t.object(s)
		return
	}
	fmt.Fprintf(t.out, "\n%s\n", s)
}

// oneLine makes a joined error fit for one line of standard error.
func oneLine(err error) error {
	if err == nil || !strings.Contains(err.Error(), "\n") {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}

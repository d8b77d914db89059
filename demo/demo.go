// Package demo is the demo network: two domains with a gateway each and one
// domain without, on loopback, in one command and with Go alone. It starts its
// own DNS, a throwaway certificate authority, final mailboxes and an SMTP-only
// domain inside this process, and the gateways as child processes of the same
// executable, so that stopping them is real. It sends messages along every
// path, compares what arrived octet by octet, and tells the story as a
// timeline.
//
// Invariants: everything listens on 127.0.0.1 only; no gateway outlives Run,
// however Run ends; a mailbox never de-duplicates and never alters, so that a
// twin or a changed octet is seen; every wait is bounded.
//
// Failure semantics: what must hold and does not is collected, told in the
// timeline and returned as one error after the whole scenario; what makes the
// scenario senseless (a gateway that does not start) ends it at once. Either
// way the files of the run, logs among them, are kept, and Run says where.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Options say what a run of the demo does. The zero value runs the shipped
// samples over SQLite and writes the timeline to nobody.
type Options struct {
	Messages   []string  // files to send instead of the samples
	Out        string    // directory for the messages as they arrived, "" for none
	Endpoints  string    // file that tells programs where everything is, "" for none
	Keep       bool      // leave everything up after the run, until ctx ends
	Store      string    // URL of a PostgreSQL database; "" for SQLite files
	JSON       bool      // the timeline as one JSON object a line
	Stdout     io.Writer // the timeline
	Stderr     io.Writer // after a failure: where the files of the run are
	Executable string    // that the gateways are started from; "" for this one
}

// Run runs the demo and returns nil only if all of it held. It ends early,
// with an error, when ctx is cancelled; under Keep the end of ctx after the
// scenario is the expected end, and the result is the scenario's.
func Run(ctx context.Context, o Options) (err error) {
	o, err = o.withDefaults()
	if err != nil {
		return err
	}
	out := &checkedWriter{Writer: o.Stdout}
	net := &network{options: o, timeline: newTimeline(out, o.JSON)}
	letters, err := net.letters()
	if err != nil {
		return err
	}
	if err := prepareOut(o.Out); err != nil {
		return err
	}
	if net.dir, err = os.MkdirTemp("", "mailxmppd-demo-"); err != nil {
		return fmt.Errorf("directory for the demo: %w", err)
	}
	err = net.run(ctx, letters)
	interrupted := ctx.Err() != nil && errors.Is(err, ctx.Err())
	if interrupted {
		err = errors.New("interrupted")
	}
	closed := net.close(err == nil || interrupted)
	if err != nil && !interrupted || closed != nil {
		fmt.Fprintf(o.Stderr, "files of the run, with the gateways' logs: %s\n", net.dir)
	}
	return oneLine(errors.Join(err, closed, out.failed()))
}

// checkedWriter remembers that something could not be written: a timeline that
// nobody can read is no success.
type checkedWriter struct {
	io.Writer
	mu  sync.Mutex
	err error
}

func (w *checkedWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && w.err == nil {
		w.err = fmt.Errorf("the timeline could not be written: %w", err)
	}
	return n, err
}

func (w *checkedWriter) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (o Options) withDefaults() (Options, error) {
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	if o.Executable == "" {
		exe, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("finding this program's own file, to start the gateways from: %w", err)
		}
		o.Executable = exe
	}
	return o, checkStore(o.Store)
}

// run brings the network up, plays the scenario, writes what came of it and,
// under Keep, waits for the end of ctx.
func (n *network) run(ctx context.Context, letters []letter) error {
	if err := n.start(ctx); err != nil {
		return err
	}
	if err := n.writeEndpoints(); err != nil {
		return err
	}
	played := n.play(ctx, letters)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	keep := n.options.Keep && played == nil
	if keep {
		n.timeline.say(event{Step: "keep", OK: true, Text: "everything stays up until the interrupt"})
	}
	err := errors.Join(played, n.writeOut(), n.summary(played))
	if keep {
		n.keep(ctx)
	}
	return err
}

// keep waits for the end of ctx, and tells when a gateway ends before it: the
// verdict stands, but somebody is using the network.
func (n *network) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-n.crashed:
			fmt.Fprintln(n.options.Stderr, err)
		}
	}
}

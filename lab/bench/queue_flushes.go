package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"mailxmppd/lab/harness"
)

// flushParams say what a case of counted flushes did.
type flushParams struct {
	What     string `json:"what"`
	Store    string `json:"store"`
	Senders  int    `json:"senders"`
	Messages int    `json:"messages"`
	Size     int    `json:"size"`
}

// changesPerMessage are the states that each message goes through at least:
// stored with its first attempt begun, and settled. One that finds no place at
// once has more.
const changesPerMessage = 2

// benchFlushes counts the durable flushes that messages on their way to a sink
// take: with one sender, where nothing can be grouped, and with 16.
func (q *queueLab) benchFlushes(ctx context.Context, p queueParams, backends []string) ([]benchCase, error) {
	var cases []benchCase
	for _, backend := range backends {
		for _, senders := range []int{1, 16} {
			c := flushParams{"durable flushes", backend, senders, p.Messages, 10 << 10}
			run := benchRun{fmt.Sprintf("%d senders", senders), p.Reps, map[string]spread{}}
			perMessage, perChange, err := q.flushes(ctx, c, p.Reps)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", backend, err)
			}
			run.Metrics["flushes_per_msg"], run.Metrics["flushes_per_change"] = spreadOf(perMessage), spreadOf(perChange)
			fmt.Fprintf(os.Stderr, "%s, %d senders: %.2f flushes a message\n", backend, senders, run.Metrics["flushes_per_msg"].Median)
			median := run.Metrics["flushes_per_change"].Median
			cases = append(cases, benchCase{Params: c, Runs: []benchRun{run}, Ratio: map[string]*float64{"flushes_per_change": &median}})
		}
	}
	return cases, nil
}

func (q *queueLab) flushes(ctx context.Context, c flushParams, reps int) (perMessage, perChange []float64, err error) {
	sink, err := harness.NewSink("127.0.0.1:0", nil)
	if err != nil {
		return nil, nil, err
	}
	defer sink.Close()
	g, err := q.gateway(q.spool(c.Store), sink.Addr)
	if err != nil {
		return nil, nil, err
	}
	if err := q.prepare(ctx, g); err != nil {
		return nil, nil, err
	}
	for range reps {
		n, err := q.flushesOf(ctx, c, g, sink)
		if err != nil {
			return nil, nil, err
		}
		each := float64(n) / float64(c.Messages)
		perMessage, perChange = append(perMessage, each), append(perChange, each/changesPerMessage)
	}
	return perMessage, perChange, nil
}

// flushesOf counts from before the gateway's start until after its end, with
// which all is settled; PostgreSQL's processes keep what they have counted to
// themselves for up to ten seconds, or until they end.
func (q *queueLab) flushesOf(ctx context.Context, c flushParams, g *harness.Gateway, sink *harness.Sink) (int, error) {
	before, count := 0, q.walSyncs
	if c.Store == "sqlite" {
		q.made++
		trace := filepath.Join(q.dir, fmt.Sprintf("flushes%d.trace", q.made))
		g.Wrap = []string{"strace", "-D", "-f", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-o", trace}
		count = func(context.Context) (int, error) { return tracedFlushes(trace) }
	} else if n, err := atRest(ctx, count); err != nil {
		return 0, err
	} else {
		before = n
	}
	if _, err := q.start(ctx, g); err != nil {
		return 0, err
	}
	load := pairParams{Sessions: c.Senders, Size: c.Size, to: "juliet@live.example"}
	_, err := once(ctx, load, &relay{addr: g.SMTP, pids: []int{g.PID()}}, sink, c.Messages)
	if err = errors.Join(err, g.Stop()); err != nil {
		return 0, err
	}
	after, err := atRest(ctx, count)
	return after - before, err
}

// atRest counts until the number has stood still for a while: who counts may
// be a little behind.
func atRest(ctx context.Context, count func(context.Context) (int, error)) (int, error) {
	for last, since := -1, time.Now(); ; time.Sleep(50 * time.Millisecond) {
		n, err := count(ctx)
		switch {
		case err != nil:
			return 0, err
		case n != last:
			last, since = n, time.Now()
		case time.Since(since) > 500*time.Millisecond:
			return n, nil
		}
	}
}

var flushed = regexp.MustCompile(`(?m)^\d+ +(?:<\.\.\. )?(?:fsync|fdatasync)\b.*= 0\b`)

// tracedFlushes counts the flushes that have ended in strace's log.
func tracedFlushes(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return len(flushed.FindAllString(whole(string(b)), -1)), nil
}

// whole leaves out a last line that is still being written.
func whole(log string) string { return log[:strings.LastIndexByte(log, '\n')+1] }

// walSyncs is how often PostgreSQL has flushed its log.
func (q *queueLab) walSyncs(ctx context.Context) (n int, err error) {
	db, _, err := openSpool(harness.Side{Store: q.server.URL, Schema: "public"})
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return n, db.QueryRowContext(ctx, `SELECT wal_sync FROM pg_stat_wal`).Scan(&n)
}

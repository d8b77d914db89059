package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"mailxmppd/lab/harness"
)

// deepParams say what a case of much waiting mail did.
type deepParams struct {
	What     string `json:"what"`
	Store    string `json:"store"`
	Waiting  int    `json:"waiting"`
	Domains  int    `json:"domains"`
	Overdue  int64  `json:"overdue"` // of them, as the storm begins
	Probes   int    `json:"probes"`
	PauseMS  int64  `json:"pause_ms"`
	StormSec int64  `json:"storm_s"` // how long it was watched
}

// pause is between two probes of a gateway.
const pause = 20 * time.Millisecond

// patience is how long what was sent may take to arrive; what is later counts
// as just as late.
const patience = 30 * time.Second

// arrivals is a sink that notes when each message came.
type arrivals struct {
	*harness.Sink
	mu sync.Mutex
	at map[string]time.Time
}

func newArrivals() (*arrivals, error) {
	a := &arrivals{at: map[string]time.Time{}}
	var err error
	a.Sink, err = harness.NewSink("127.0.0.1:0", func(content []byte) string {
		id := harness.MessageID(content)
		a.mu.Lock()
		defer a.mu.Unlock()
		if _, known := a.at[id]; !known {
			a.at[id] = time.Now()
		}
		return id
	})
	return a, err
}

func (a *arrivals) when(id string) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.at[id]
	return at, ok
}

// subject is a gateway under watch, in one state of its queue.
type subject struct {
	name    string
	spool   harness.Side
	gateway *harness.Gateway
	sink    *arrivals
	started time.Duration

	sent    map[string]time.Time
	answers []float64 // ms until the 250
}

// benchDeep compares a gateway whose queue is full with one whose queue is
// empty, both running at the same time and asked in turn: first while nothing
// of the queue is due, then while a share of it has become due at once, to
// destinations that are all dead.
func (q *queueLab) benchDeep(ctx context.Context, p queueParams, backends []string) (cases []benchCase, err error) {
	sizes := map[string]int{"sqlite": p.SQLite, "postgres": p.Postgres}
	for _, backend := range backends {
		if sizes[backend] == 0 {
			continue
		}
		c, err := q.deep(ctx, p, backend, sizes[backend])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", backend, err)
		}
		cases = append(cases, *c)
	}
	return cases, nil
}

func (q *queueLab) deep(ctx context.Context, p queueParams, backend string, n int) (_ *benchCase, err error) {
	subjects := []*subject{{name: "empty queue"}, {name: "full queue"}}
	for _, s := range subjects {
		if s.sink, err = newArrivals(); err != nil {
			return nil, err
		}
		defer s.sink.Close()
		s.spool = q.spool(backend)
		if s.gateway, err = q.gateway(s.spool, s.sink.Addr); err != nil {
			return nil, err
		}
		if err := q.prepare(ctx, s.gateway); err != nil {
			return nil, err
		}
	}
	full := subjects[1]
	began := time.Now()
	if err := fill(ctx, full.spool, waiting(n, p.Domains, p.Share)); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "%s: %d deliveries put into the queue in %v\n", backend, n, time.Since(began).Round(time.Millisecond))
	out := &benchCase{Params: deepParams{}, Ratio: map[string]*float64{}}
	for _, s := range subjects {
		if s.started, err = q.start(ctx, s.gateway, "GODEBUG=gctrace=1"); err != nil {
			return nil, err
		}
		defer s.gateway.Stop()
	}
	quiet, err := q.watch(ctx, p, subjects, 0)
	if err != nil {
		return nil, err
	}
	out.Runs = append(out.Runs, quiet...)
	if err := full.gateway.Stop(); err != nil {
		return nil, err
	}
	overdue, err := overdue(ctx, full.spool)
	if err != nil {
		return nil, err
	}
	subjects[0].name, full.name = "empty queue, beside a storm", "full queue, in a storm"
	profile := ""
	if p.profile != "" {
		profile = filepath.Join(p.profile, "storm-"+backend+".pprof")
	}
	if full.started, err = q.start(ctx, full.gateway, "GODEBUG=gctrace=1", "MAILXMPPD_PROFILE="+profile); err != nil {
		return nil, err
	}
	stormy, err := q.watch(ctx, p, subjects, p.Storm)
	if err != nil {
		return nil, err
	}
	out.Runs = append(out.Runs, stormy...)
	left, err := countOverdue(ctx, full.spool)
	if err != nil {
		return nil, err
	}
	stormy[1].Metrics["overdue_left"] = spreadOf([]float64{float64(left)})
	out.Params = deepParams{"much waiting mail", backend, n, p.Domains, overdue, p.Probes, pause.Milliseconds(), int64(p.Storm.Seconds())}
	for _, metric := range []string{"latency_ms", "latency_p99_ms"} {
		out.Ratio["full_"+metric] = ratio(quiet[1], &quiet[0], metric)
		out.Ratio["storm_"+metric] = ratio(stormy[1], &quiet[0], metric)
		out.Ratio["storm_beside_"+metric] = ratio(stormy[1], &stormy[0], metric)
	}
	return out, nil
}

// watch sends probes to the gateways in turn and looks at their memory
// meanwhile, for at least as long as it is told.
func (q *queueLab) watch(ctx context.Context, p queueParams, subjects []*subject, atLeast time.Duration) ([]benchRun, error) {
	end := time.After(atLeast)
	heaps := make([]*heapWatch, len(subjects))
	for i, s := range subjects {
		heaps[i] = watchHeap(s.gateway)
	}
	err := probe(ctx, p.Probes, subjects)
	if err == nil {
		select {
		case <-end:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	var runs []benchRun
	for i, s := range subjects {
		heap := heaps[i].stop()
		if err != nil {
			continue
		}
		rss, peak, merr := processMemory(s.gateway.PID())
		if merr != nil {
			return nil, merr
		}
		latencies, late := s.latencies()
		one := func(v float64) spread { return spread{v, v, v} }
		runs = append(runs, benchRun{Name: s.name, Reps: len(s.sent), Metrics: map[string]spread{
			"start_s": one(s.started.Seconds()), "latency_ms": spreadOf(latencies), "latency_p99_ms": one(percentile(latencies, 99)),
			"answer_ms": spreadOf(s.answers), "late": one(float64(late)),
			"rss_mb": one(rss), "rss_peak_mb": one(peak), "heap_peak_mb": one(heap),
		}})
		m := runs[len(runs)-1].Metrics
		fmt.Fprintf(os.Stderr, "%s: start %.2f s, latency %.1f ms, p99 %.1f ms, late %d, RSS %.0f MB at most\n",
			s.name, s.started.Seconds(), m["latency_ms"].Median, m["latency_p99_ms"].Median, late, peak)
	}
	return runs, err
}

// probe sends n messages to each gateway, in turn, and waits until all have
// arrived or patience is over.
func probe(ctx context.Context, n int, subjects []*subject) error {
	sessions := make([]*harness.Client, len(subjects))
	for i, s := range subjects {
		s.sent, s.answers = map[string]time.Time{}, nil
		c, err := harness.Dial(s.gateway.SMTP)
		if err != nil {
			return err
		}
		defer c.Close()
		sessions[i] = c
	}
	run := time.Now().UnixNano()
	for k := range n {
		for i, s := range subjects {
			id := fmt.Sprintf("%d.%d.%d", run, i, k)
			content := harness.Stuff(message(id, 10<<10))
			began := time.Now()
			if _, err := sessions[i].Send("romeo@capulet.example", []string{"juliet@live.example"}, content); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			s.sent["<"+id+"@load.example>"] = began
			s.answers = append(s.answers, milliseconds(time.Since(began)))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for over := time.Now().Add(patience); time.Now().Before(over); time.Sleep(pause) {
		if !slices.ContainsFunc(subjects, func(s *subject) bool { _, late := s.latencies(); return late > 0 }) {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// latencies are those of all that was sent, in ms, and how much of it has not
// arrived: that counts with its age.
func (s *subject) latencies() (ms []float64, late int) {
	for id, began := range s.sent {
		at, arrived := s.sink.when(id)
		if !arrived {
			late, at = late+1, time.Now()
		}
		ms = append(ms, milliseconds(at.Sub(began)))
	}
	return ms, late
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// percentile is the smallest value that so many in a hundred do not exceed.
func percentile(values []float64, p int) float64 {
	v := slices.Sorted(slices.Values(values))
	return v[max(0, (len(v)*p+99)/100-1)]
}

package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"mailxmppd/lab/harness"
)

// nodesParams say what a case of one node beside three did.
type nodesParams struct {
	What     string `json:"what"`
	Messages int    `json:"messages"`
	Size     int    `json:"size"`
	SinkMS   int64  `json:"sink_ms"` // what the sink takes for each message
}

// slowSink is what a next hop that is not beside us may take for a message.
const slowSink = 50 * time.Millisecond

// benchNodes lets one node drain a spool on PostgreSQL, and three in turn: into
// a sink that takes no time, where all that counts is CPU, and into one that
// does, where the places that each node has at a destination count.
func (q *queueLab) benchNodes(ctx context.Context, p queueParams) ([]benchCase, error) {
	var cases []benchCase
	for _, c := range []nodesParams{
		{"nodes draining a spool", p.Drain, 10 << 10, 0},
		{"nodes draining a spool", p.SlowDrain, 10 << 10, slowSink.Milliseconds()},
	} {
		counts := []int{1, 3}
		values := []map[string][]float64{{}, {}}
		for rep := range p.Reps {
			for i, nodes := range counts {
				m, err := q.drain(ctx, c, nodes)
				if err != nil {
					return nil, err
				}
				fmt.Fprintf(os.Stderr, "%d nodes, sink takes %d ms, %d/%d: %.0f msg/s\n", nodes, c.SinkMS, rep+1, p.Reps, m["msgs_per_s"])
				for k, v := range m {
					values[i][k] = append(values[i][k], v)
				}
			}
		}
		out := benchCase{Params: c, Ratio: map[string]*float64{"msgs_per_s": turnRatio(values[1]["msgs_per_s"], values[0]["msgs_per_s"])}}
		for i, nodes := range counts {
			run := benchRun{fmt.Sprintf("%d nodes", nodes), p.Reps, map[string]spread{}}
			for k, v := range values[i] {
				run.Metrics[k] = spreadOf(v)
			}
			out.Runs = append(out.Runs, run)
		}
		cases = append(cases, out)
	}
	return cases, nil
}

// drain has nodes drain a spool. The sink takes nothing until all of them are
// up, and the time counts from then.
func (q *queueLab) drain(ctx context.Context, c nodesParams, nodes int) (map[string]float64, error) {
	open := make(chan struct{})
	sink, err := harness.NewSink("127.0.0.1:0", func([]byte) string {
		<-open
		time.Sleep(time.Duration(c.SinkMS) * time.Millisecond)
		return ""
	})
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	spool := q.spool("postgres")
	var pids []int
	var all []*harness.Gateway
	for range nodes {
		g, err := q.gateway(spool, sink.Addr)
		if err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	opened := false
	defer func() {
		if !opened {
			close(open)
		}
	}()
	if err := q.prepare(ctx, all[0]); err != nil {
		return nil, err
	}
	if err := fill(ctx, spool, due(c.Messages, c.Size)); err != nil {
		return nil, err
	}
	for _, g := range all {
		if _, err := q.start(ctx, g); err != nil {
			return nil, err
		}
		defer g.Stop()
		pids = append(pids, g.PID())
	}
	before, err := q.usage(pids)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	close(open)
	opened = true
	over := time.NewTimer(5 * time.Minute)
	defer over.Stop()
	for sink.Count() < c.Messages {
		select {
		case <-sink.More():
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-over.C:
			return nil, fmt.Errorf("%d of %d messages have arrived after 5 minutes", sink.Count(), c.Messages)
		}
	}
	took := time.Since(began)
	after, err := q.usage(pids)
	if err != nil {
		return nil, err
	}
	if n := sink.Count(); n != c.Messages {
		return nil, fmt.Errorf("%d messages arrived, %d were in the spool", n, c.Messages)
	}
	used := after.since(before)
	n := float64(c.Messages)
	return map[string]float64{
		"msgs_per_s":              n / took.Seconds(),
		"node_cpu_ms_per_msg":     milliseconds(used.nodes) / n,
		"postgres_cpu_ms_per_msg": milliseconds(used.postgres) / n,
		"sink_cpu_ms_per_msg":     milliseconds(used.own) / n,
		// Of all cores: what this run had of them, and what others took.
		"cpu_share":    (used.nodes + used.postgres + used.own).Seconds() / took.Seconds() / float64(runtime.NumCPU()),
		"machine_busy": used.machine.Seconds() / took.Seconds() / float64(runtime.NumCPU()),
	}, nil
}

// cpuUsage is CPU time by who used it.
type cpuUsage struct{ nodes, postgres, own, machine time.Duration }

func (q *queueLab) usage(nodes []int) (u cpuUsage, err error) {
	if u.nodes, err = treeCPU(nodes...); err != nil {
		return u, err
	}
	if u.postgres, err = treeCPU(q.server.PID); err != nil {
		return u, err
	}
	u.own = ownCPU()
	u.machine, err = machineCPU()
	return u, err
}

func (u cpuUsage) since(before cpuUsage) cpuUsage {
	return cpuUsage{u.nodes - before.nodes, u.postgres - before.postgres, u.own - before.own, u.machine - before.machine}
}

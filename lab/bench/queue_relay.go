package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"mailxmppd/lab/harness"
)

// relayParams say what the comparison with one relay did.
type relayParams struct {
	What     string `json:"what"`
	Store    string `json:"store"`
	Sessions int    `json:"sessions"`
	Messages int    `json:"messages"`
	Size     int    `json:"size"`
}

// benchRelay sends messages through one Postfix relay into a sink and through
// our spooled path into another, in turn. Both have a message on disk before
// they answer.
func (q *queueLab) benchRelay(ctx context.Context, p queueParams) ([]benchCase, error) {
	c := relayParams{"one relay", "sqlite", 16, p.Messages, 10 << 10}
	type contestant struct {
		name   string
		relay  *relay
		sink   *harness.Sink
		values map[string][]float64
	}
	starts := []struct {
		name  string
		start func(sink string) (*relay, error)
	}{
		{"mailxmppd, spooled", func(sink string) (*relay, error) { return q.startRelay(ctx, sink, p.profile) }},
		{"postfix", q.startPostfix},
	}
	if _, missing := exec.LookPath("postfix"); missing != nil {
		starts = starts[:1]
	}
	load := pairParams{Sessions: c.Sessions, Size: c.Size, to: "juliet@live.example"}
	var all []*contestant
	for _, s := range starts {
		sink, err := harness.NewSink("127.0.0.1:0", nil)
		if err != nil {
			return nil, err
		}
		defer sink.Close()
		rl, err := s.start(sink.Addr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		defer rl.stop()
		if _, err := once(ctx, load, rl, sink, max(c.Messages/2, 50)); err != nil {
			return nil, fmt.Errorf("%s: warm-up: %w", s.name, err)
		}
		all = append(all, &contestant{s.name, rl, sink, map[string][]float64{}})
	}
	for rep := range p.Reps {
		for _, k := range all {
			m, err := once(ctx, load, k.relay, k.sink, c.Messages)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k.name, err)
			}
			fmt.Fprintf(os.Stderr, "%s %d/%d: %.0f msg/s, %.2f ms CPU a message\n", k.name, rep+1, p.Reps, m["msgs_per_s"], m["cpu_ms_per_msg"])
			for metric, v := range m {
				k.values[metric] = append(k.values[metric], v)
			}
		}
	}
	out := benchCase{Params: c, Ratio: map[string]*float64{"msgs_per_s": nil, "cpu_ms_per_msg": nil}}
	for _, k := range all {
		run := benchRun{k.name, p.Reps, map[string]spread{}}
		for metric, v := range k.values {
			run.Metrics[metric] = spreadOf(v)
		}
		out.Runs = append(out.Runs, run)
	}
	if len(all) == 2 {
		for metric := range out.Ratio {
			out.Ratio[metric] = turnRatio(all[0].values[metric], all[1].values[metric])
		}
	}
	return []benchCase{out}, nil
}

// startRelay starts a gateway with the places at the sink that it has by default.
func (q *queueLab) startRelay(ctx context.Context, sink, profile string) (*relay, error) {
	g, err := q.gateway(q.spool("sqlite"), sink)
	if err != nil {
		return nil, err
	}
	if profile != "" {
		profile = filepath.Join(profile, "relay.pprof")
	}
	if _, err := q.start(ctx, g, "MAILXMPPD_PROFILE="+profile); err != nil {
		return nil, err
	}
	return &relay{addr: g.SMTP, pids: []int{g.PID()}, stop: func() {
		if err := g.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}}, nil
}

func (q *queueLab) startPostfix(sink string) (*relay, error) {
	addrs, err := harness.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(q.dir, "postfix")
	conf, err := postfixInstance(dir, q.ca, "single", addrs[0], sink, "none")
	if err != nil {
		return nil, err
	}
	if out, err := exec.Command("postfix", "-c", conf, "start").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("postfix start: %w\n%s", err, out)
	}
	rl := &relay{addr: addrs[0], stop: func() { exec.Command("postfix", "-c", conf, "stop").Run() }}
	pid, err := masterPID(dir)
	if err != nil {
		rl.stop()
		return nil, err
	}
	rl.pids = []int{pid}
	return rl, nil
}

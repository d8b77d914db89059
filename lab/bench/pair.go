package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"mailxmppd/lab/harness"
)

// pairParams say what the pair benchmark does.
type pairParams struct {
	Sessions int    `json:"sessions"`
	Size     int    `json:"size"` // octets of content
	Messages int    `json:"messages"`
	Reps     int    `json:"reps"`
	Store    string `json:"store"`
	Mode     string `json:"mode"` // "spooled" or "cut-through"
	profile  string
	to       string // the recipient; "" for one at montague.example
}

// relay is a pair of relays: mail goes in at addr and comes out at the sink.
type relay struct {
	addr string
	pids []int // of both relays and what belongs to them
	stop func()
}

// benchPair runs Postfix once and each of our modes.
func benchPair(ctx context.Context, p pairParams) (report, error) {
	r := report{Bench: "pair", Version: 1, Env: environment(), Missing: []string{}}
	dir, err := os.MkdirTemp("", "mailxmppd-bench-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // Postfix's processes are not root
		return r, err
	}
	ca, err := harness.NewCA(dir)
	if err != nil {
		return r, err
	}
	var peer *benchRun
	if _, err := exec.LookPath("postfix"); err != nil {
		r.Missing = append(r.Missing, "postfix")
	} else if peer, err = measure(ctx, p, "postfix pair", func(sink string) (*relay, error) {
		return startPostfixPair(filepath.Join(dir, "postfix"), ca, sink)
	}); err != nil {
		return r, fmt.Errorf("postfix: %w", err)
	}
	exe, err := harness.Build(dir, "profile")
	if err != nil {
		return r, err
	}
	for _, mode := range []string{"spooled", "cut-through"} {
		p.Mode = mode
		ours, err := measure(ctx, p, "mailxmppd pair", func(sink string) (*relay, error) {
			return startGatewayPair(ctx, filepath.Join(dir, mode), exe, ca, sink, p)
		})
		if err != nil {
			return r, fmt.Errorf("%s: %w", mode, err)
		}
		c := benchCase{Params: p, Runs: []benchRun{*ours}, Ratio: map[string]*float64{}}
		if peer != nil {
			c.Runs = append(c.Runs, *peer)
		}
		for _, metric := range []string{"msgs_per_s", "cpu_ms_per_msg"} {
			c.Ratio[metric] = ratio(*ours, peer, metric)
		}
		r.Cases = append(r.Cases, c)
	}
	return r, nil
}

// measure starts a pair, warms it up and sends the messages p.Reps times.
func measure(ctx context.Context, p pairParams, name string, start func(sink string) (*relay, error)) (*benchRun, error) {
	sink, err := harness.NewSink("127.0.0.1:0", nil)
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	rl, err := start(sink.Addr)
	if err != nil {
		return nil, err
	}
	defer rl.stop()
	if _, err := once(ctx, p, rl, sink, max(p.Messages/10, 50)); err != nil {
		return nil, fmt.Errorf("warm-up: %w", err)
	}
	values := map[string][]float64{}
	for i := range p.Reps {
		m, err := once(ctx, p, rl, sink, p.Messages)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "%s %s %d/%d: %.0f msg/s, %.2f ms CPU a message\n", name, p.Mode, i+1, p.Reps, m["msgs_per_s"], m["cpu_ms_per_msg"])
		for k, v := range m {
			values[k] = append(values[k], v)
		}
	}
	run := &benchRun{Name: name, Reps: p.Reps, Metrics: map[string]spread{}}
	for k, v := range values {
		run.Metrics[k] = spreadOf(v)
	}
	return run, nil
}

// once sends n messages over p.Sessions sessions and waits until all of them
// have reached the sink.
func once(ctx context.Context, p pairParams, rl *relay, sink *harness.Sink, n int) (map[string]float64, error) {
	before, start, own := sink.Count(), time.Now(), ownCPU()
	cpu, err := treeCPU(rl.pids...)
	if err != nil {
		return nil, err
	}
	if err := load(p, rl.addr, n); err != nil {
		return nil, err
	}
	patience := time.NewTimer(3 * time.Minute)
	defer patience.Stop()
	for sink.Count() < before+n {
		select {
		case <-sink.More():
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-patience.C:
			return nil, fmt.Errorf("%d of %d messages have arrived after 3 minutes", sink.Count()-before, n)
		}
	}
	took, ownUsed := time.Since(start), ownCPU()-own
	cpuAfter, err := treeCPU(rl.pids...)
	if err != nil {
		return nil, err
	}
	if got := sink.Count() - before; got != n {
		return nil, fmt.Errorf("%d messages arrived, %d were sent", got, n)
	}
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) / float64(n) }
	return map[string]float64{
		"msgs_per_s":          float64(n) / took.Seconds(),
		"cpu_ms_per_msg":      ms(cpuAfter - cpu),
		"load_cpu_ms_per_msg": ms(ownUsed),
	}, nil
}

// load sends n messages, each with a Message-ID of its own.
func load(p pairParams, addr string, n int) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, p.Sessions)
	run := time.Now().UnixNano()
	for i := range p.Sessions {
		wg.Go(func() {
			c, err := harness.Dial(addr)
			if err != nil {
				errs[i] = err
				return
			}
			defer c.Close()
			for k := next.Add(1); k <= int64(n); k = next.Add(1) {
				content := harness.Stuff(message(fmt.Sprintf("%d.%d", run, k), p.Size))
				if _, err := c.Send("romeo@capulet.example", []string{cmp.Or(p.to, "juliet@montague.example")}, content); err != nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// message is a content of the given size.
func message(id string, size int) []byte {
	head := fmt.Sprintf("From: romeo@capulet.example\r\nTo: juliet@montague.example\r\nSubject: load\r\nMessage-ID: <%s@load.example>\r\n\r\n", id)
	line := strings.Repeat("0123456789abcdef", 4) + "\r\n"
	body := strings.Repeat(line, size/len(line)+1)
	return []byte(head + body[:max(size-len(head)-2, 0)] + "\r\n")
}

// startGatewayPair starts capulet.example and montague.example.
func startGatewayPair(ctx context.Context, dir, exe string, ca *harness.CA, sink string, p pairParams) (*relay, error) {
	side := func(domain string) harness.Side {
		if p.Store == "sqlite" {
			return harness.Side{Domain: domain, Store: "sqlite://" + filepath.Join(dir, domain+".db")}
		}
		return harness.Side{Domain: domain, Store: p.Store, Schema: fmt.Sprintf("bench_%s_%d", domain[:7], time.Now().UnixNano())}
	}
	pair, err := harness.NewPair(harness.Spec{
		Exe: exe, Dir: dir, CA: ca, Deliver: "smtp://" + sink,
		Extra: fmt.Sprintf("cut_through = %v\n[queue]\nconcurrency = 64\nper_domain = 32\n", p.Mode == "cut-through"),
	}, side("capulet.example"), side("montague.example"))
	if err != nil {
		return nil, err
	}
	rl := &relay{addr: pair.A.SMTP}
	rl.stop = func() {
		for _, g := range []*harness.Gateway{pair.A, pair.B} {
			if err := g.Stop(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}
	for _, g := range []*harness.Gateway{pair.B, pair.A} {
		if err := g.Start(ctx, "MAILXMPPD_PROFILE="+profileFile(p, g.Domain)); err != nil {
			rl.stop()
			return nil, err
		}
		rl.pids = append(rl.pids, g.PID())
	}
	return rl, nil
}

func profileFile(p pairParams, domain string) string {
	if p.profile == "" {
		return ""
	}
	return filepath.Join(p.profile, p.Mode+"-"+domain+".pprof")
}

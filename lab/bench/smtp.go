package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"mailxmppd/lab/harness"
)

// smtpParams say what the SMTP benchmark does.
type smtpParams struct {
	Sessions int   `json:"sessions"`
	Sizes    []int `json:"-"` // octets of content, a case each
	Volume   int   `json:"-"` // octets of content per repetition, of small messages fewer
	Reps     int   `json:"reps"`
	profile  string
}

// smtpCase is what one case did.
type smtpCase struct {
	Size     int `json:"size"`
	Sessions int `json:"sessions"`
	Messages int `json:"messages"`
}

// mostMessages keeps a repetition of small messages short.
const mostMessages = 20_000

// smtpLeg is one sender into one receiver.
type smtpLeg struct {
	name string
	send func(ctx context.Context, c smtpCase) (cpu time.Duration, err error) // all messages of a case; CPU time of the sender
	cpu  func() (time.Duration, error)                                        // of the receiver so far
}

// benchSMTP measures our server behind smtp-source and our client before
// smtp-sink, each as a ratio to smtp-source into smtp-sink. The three take
// turns, and what counts is the median of the turns' ratios: the machine is
// seldom one's own.
func benchSMTP(ctx context.Context, p smtpParams) (report, error) {
	r := report{Bench: "smtp", Version: 1, Env: environment(), Missing: []string{}}
	source, sink := findPeer("smtp-source"), findPeer("smtp-sink")
	for name, path := range map[string]string{"smtp-source": source, "smtp-sink": sink} {
		if path == "" {
			r.Missing = append(r.Missing, name)
		}
	}
	if len(r.Missing) > 0 { // nothing to compare with, and nothing to send
		return r, nil
	}
	dir, err := os.MkdirTemp("", "mailxmppd-smtp-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	drain, err := startSink(sink, dir)
	if err != nil {
		return r, err
	}
	defer drain.daemon.Stop()
	server, err := startDiscarding(p.Sessions)
	if err != nil {
		return r, err
	}
	defer server.stop()
	client := newSMTPSender(p.Sessions)
	defer client.Close()
	legs := []smtpLeg{
		{"smtp-source into smtp-sink", sourceInto(source, drain.addr), drain.cpu},
		{"smtp-source into our server", server.counting(sourceInto(source, server.addr)), func() (time.Duration, error) { return ownCPU(), nil }},
		{"our client into smtp-sink", client.into(drain.addr), drain.cpu},
	}
	stop, err := profileTo(p.profile)
	if err != nil {
		return r, err
	}
	defer stop()
	for _, size := range p.Sizes {
		c := smtpCase{Size: size, Sessions: p.Sessions, Messages: min(mostMessages, max(p.Volume/size, p.Sessions))}
		done, err := inTurns(ctx, c, p.Reps, legs)
		if err != nil {
			return r, fmt.Errorf("%d octets: %w", size, err)
		}
		r.Cases = append(r.Cases, *done)
	}
	return r, nil
}

// inTurns runs the legs one after the other, reps times, after a short round
// that does not count.
func inTurns(ctx context.Context, c smtpCase, reps int, legs []smtpLeg) (*benchCase, error) {
	measured := make([]map[string][]float64, len(legs))
	for i := range reps + 1 {
		of := c
		if i == 0 {
			of.Messages = max(c.Messages/10, c.Sessions)
		}
		for j, l := range legs {
			m, err := l.once(ctx, of)
			switch {
			case err != nil:
				return nil, fmt.Errorf("%s: %w", l.name, err)
			case i == 0:
				measured[j] = map[string][]float64{}
				continue
			}
			for k, v := range m {
				measured[j][k] = append(measured[j][k], v)
			}
			fmt.Fprintf(os.Stderr, "%d octets, %s %d/%d: %.0f msg/s\n", c.Size, l.name, i, reps, m["msgs_per_s"])
		}
	}
	out := &benchCase{Params: c, Ratio: map[string]*float64{}}
	for j, l := range legs {
		run := benchRun{Name: l.name, Reps: reps, Metrics: map[string]spread{}}
		for k, v := range measured[j] {
			run.Metrics[k] = spreadOf(v)
		}
		out.Runs = append(out.Runs, run)
	}
	for _, q := range []struct {
		name, metric string
		leg          int
	}{
		{"server_msgs_per_s", "msgs_per_s", 1}, {"server_cpu_ms_per_msg", "receiver_cpu_ms_per_msg", 1},
		{"client_msgs_per_s", "msgs_per_s", 2}, {"client_cpu_ms_per_msg", "sender_cpu_ms_per_msg", 2},
	} {
		out.Ratio[q.name] = medianRatio(measured[q.leg][q.metric], measured[0][q.metric])
	}
	return out, nil
}

// medianRatio is the median of ours to the peer's, turn by turn.
func medianRatio(ours, peer []float64) *float64 {
	var ratios []float64
	for i := range ours {
		if peer[i] > 0 {
			ratios = append(ratios, ours[i]/peer[i])
		}
	}
	if len(ratios) == 0 {
		return nil
	}
	median := spreadOf(ratios).Median
	return &median
}

// once runs a leg.
func (l smtpLeg) once(ctx context.Context, c smtpCase) (map[string]float64, error) {
	before, err := l.cpu()
	if err != nil {
		return nil, err
	}
	start := time.Now()
	sent, err := l.send(ctx, c)
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	after, err := l.cpu()
	if err != nil {
		return nil, err
	}
	n := float64(c.Messages)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) / n }
	return map[string]float64{
		"msgs_per_s": n / took.Seconds(), "sender_cpu_ms_per_msg": ms(sent), "receiver_cpu_ms_per_msg": ms(after - before),
	}, nil
}

// findPeer finds a program of Postfix's, "" where there is none. Only root has
// /usr/sbin among the folders of its own.
func findPeer(name string) string {
	for _, p := range []string{name, filepath.Join("/usr/sbin", name)} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	return ""
}

// drain is a running smtp-sink.
type drain struct {
	addr   string
	daemon *harness.Daemon
}

func startSink(program, dir string) (*drain, error) {
	addrs, err := harness.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	args := []string{addrs[0], "128"}
	if os.Getuid() == 0 { // which it does not run as
		args = append([]string{"-u", "nobody"}, args...)
	}
	daemon, err := harness.StartDaemon(exec.Command(program, args...), filepath.Join(dir, "sink.log"), addrs[0])
	return &drain{addrs[0], daemon}, err
}

func (d *drain) cpu() (time.Duration, error) { return treeCPU(d.daemon.PID()) }

// sourceInto sends with smtp-source, each session over one connection. The CPU
// time is its own.
func sourceInto(program, addr string) func(context.Context, smtpCase) (time.Duration, error) {
	return func(ctx context.Context, c smtpCase) (time.Duration, error) {
		cmd := exec.CommandContext(ctx, program, "-d", "-s", strconv.Itoa(c.Sessions), "-m", strconv.Itoa(c.Messages), "-l", strconv.Itoa(c.Size),
			"-f", "romeo@capulet.example", "-t", "juliet@montague.example", "inet:"+addr)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("smtp-source: %w\n%s", err, out)
		}
		if cmd.ProcessState == nil {
			return 0, errors.New("smtp-source has no end")
		}
		return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
	}
}

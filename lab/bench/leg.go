package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"mailxmppd/lab/harness"
)

// legParams say what the leg benchmark does.
type legParams struct {
	Sizes    []int // octets of content, a case each
	InFlight int
	VolumeMB int // content per repetition
	Reps     int
	Streams  int // idle ones; 0: that case is left out
	Hold     time.Duration
	LargeMB  int // 0: that case is left out
	profile  string
}

// loadParams say what a case of messages in flight did.
type loadParams struct {
	What     string `json:"what"`
	Size     int    `json:"size"`
	InFlight int    `json:"in_flight"`
	Messages int    `json:"messages"`
}

// benchLeg measures the leg alone: its speed beside bare frames, and its
// memory.
func benchLeg(ctx context.Context, p legParams) (report, error) {
	r := report{Bench: "leg", Version: 1, Env: environment(), Missing: []string{}}
	dir, err := os.MkdirTemp("", "mailxmppd-leg-")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir)
	if err := issueAll(dir, max(p.Streams, 1)); err != nil {
		return r, err
	}
	for _, size := range p.Sizes {
		c, tls, err := benchLoad(ctx, dir, p, size)
		if err != nil {
			return r, fmt.Errorf("%d octets: %w", size, err)
		}
		r.Cases = append(r.Cases, *c)
		r.Env["tls"] = tls
	}
	if p.Streams > 0 {
		c, err := benchIdle(dir, p)
		if err != nil {
			return r, fmt.Errorf("idle streams: %w", err)
		}
		r.Cases = append(r.Cases, *c)
	}
	if p.LargeMB > 0 {
		c, err := benchLarge(dir, p)
		if err != nil {
			return r, fmt.Errorf("large message: %w", err)
		}
		r.Cases = append(r.Cases, *c)
	}
	return r, nil
}

// issueAll makes a certificate for both domains of every pair.
func issueAll(dir string, pairs int) error {
	ca, err := harness.NewCA(dir)
	if err != nil {
		return err
	}
	for i := range pairs {
		for _, domain := range []string{sending(i), receiving(i)} {
			if _, _, err := ca.Issue(domain); err != nil {
				return err
			}
		}
	}
	return nil
}

// benchLoad sends messages of one size over the leg, over bare frames and over
// the floor in turn, so that a change in what else the machine does meets all.
// For the same reason a ratio is the median of those of each turn.
func benchLoad(ctx context.Context, dir string, p legParams, size int) (*benchCase, string, error) {
	load := LegLoad{Messages: max(p.VolumeMB<<20/size, p.InFlight), InFlight: p.InFlight}
	kinds := []string{overStreams, overFrames, overFloor}
	legs := make([]*leg, len(kinds))
	for i, kind := range kinds {
		l, err := startLeg(LegSetup{Kind: kind, Dir: dir, Pairs: 1})
		if err != nil {
			return nil, "", err
		}
		defer l.stop()
		if err := l.connect(); err != nil {
			return nil, "", err
		}
		if err := l.sending.call("Load", size, &struct{}{}); err != nil {
			return nil, "", err
		}
		if legs[i] = l; l.tls != legs[0].tls {
			return nil, "", fmt.Errorf("TLS differs: %s and %s", l.tls, legs[0].tls)
		}
	}
	values := []map[string][]float64{{}, {}, {}}
	for rep := range p.Reps + 1 {
		for i, l := range legs {
			if err := ctx.Err(); err != nil {
				return nil, "", err
			}
			m, err := l.once(load, profileName(p, size, rep))
			if err != nil {
				return nil, "", fmt.Errorf("%s: %w", l.kind, err)
			}
			if rep == 0 {
				continue // for warmth
			}
			fmt.Fprintf(os.Stderr, "%s, %d octets, %d/%d: %.0f msg/s, %.3f ms CPU a message\n",
				l.kind, size, rep, p.Reps, m["msgs_per_s"], m["cpu_ms_per_msg"])
			for k, v := range m {
				values[i][k] = append(values[i][k], v)
			}
		}
	}
	c := &benchCase{Params: loadParams{"messages in flight", size, p.InFlight, load.Messages}, Ratio: map[string]*float64{}}
	for i, l := range legs {
		run := benchRun{l.kind, p.Reps, map[string]spread{}}
		for k, v := range values[i] {
			run.Metrics[k] = spreadOf(v)
		}
		c.Runs = append(c.Runs, run)
	}
	for _, metric := range []string{"msgs_per_s", "cpu_ms_per_msg"} {
		c.Ratio[metric] = turnRatio(values[0][metric], values[1][metric])
		c.Ratio[metric+"_to_floor"] = turnRatio(values[0][metric], values[2][metric])
		c.Ratio[metric+"_of_floor"] = turnRatio(values[2][metric], values[1][metric])
	}
	return c, legs[0].tls, nil
}

// turnRatio is the median of the ratios of each turn, nil where there is none.
func turnRatio(ours, peer []float64) *float64 {
	var all []float64
	for i := range ours {
		if peer[i] > 0 {
			all = append(all, ours[i]/peer[i])
		}
	}
	if len(all) == 0 {
		return nil
	}
	r := spreadOf(all).Median
	return &r
}

// profileName is where the profiles of a repetition go: the first one after
// the warm-up is profiled, if any.
func profileName(p legParams, size, rep int) string {
	if p.profile == "" || rep != 1 {
		return ""
	}
	return filepath.Join(p.profile, fmt.Sprint(size))
}

// once sends one load and tells what it took of both processes. profile is
// the start of the names of CPU profiles, "" for none.
func (l *leg) once(load LegLoad, profile string) (map[string]float64, error) {
	if profile != "" {
		for name, side := range map[string]*legProcess{"sending": l.sending, "receiving": l.receiving} {
			file := fmt.Sprintf("%s-%s-%s.pprof", profile, strings.ReplaceAll(l.kind, " ", "-"), name)
			if err := side.call("Profile", file, &struct{}{}); err != nil {
				return nil, err
			}
			defer side.call("Profile", "", &struct{}{})
		}
	}
	s0, r0, err := l.usage(false)
	if err != nil {
		return nil, err
	}
	var took time.Duration
	if err := l.sending.call("Send", load, &took); err != nil {
		return nil, err
	}
	s1, r1, err := l.usage(false)
	if err != nil {
		return nil, err
	}
	per := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) / float64(load.Messages) }
	return map[string]float64{
		"msgs_per_s":               float64(load.Messages) / took.Seconds(),
		"cpu_ms_per_msg":           per(s1.CPU - s0.CPU + r1.CPU - r0.CPU),
		"sending_cpu_ms_per_msg":   per(s1.CPU - s0.CPU),
		"receiving_cpu_ms_per_msg": per(r1.CPU - r0.CPU),
	}, nil
}

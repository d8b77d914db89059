package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
)

// report is the shape that every benchmark prints.
type report struct {
	Bench   string            `json:"bench"`
	Version int               `json:"version"`
	Env     map[string]string `json:"env"`
	Cases   []benchCase       `json:"cases"`
	Missing []string          `json:"missing"`
}

// benchCase is one set of parameters: ours beside the peer's, and the ratio of
// their medians, nil where the peer is missing.
type benchCase struct {
	Params any                 `json:"params"`
	Runs   []benchRun          `json:"runs"`
	Ratio  map[string]*float64 `json:"ratio"`
}

type benchRun struct {
	Name    string            `json:"name"`
	Reps    int               `json:"reps"`
	Metrics map[string]spread `json:"metrics"`
}

type spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

func spreadOf(values []float64) spread {
	v := slices.Clone(values)
	slices.Sort(v)
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return spread{v[0], mid, v[len(v)-1]}
}

// ratio divides ours by the peer's median.
func ratio(ours benchRun, peer *benchRun, metric string) *float64 {
	if peer == nil || peer.Metrics[metric].Median == 0 {
		return nil
	}
	r := ours.Metrics[metric].Median / peer.Metrics[metric].Median
	return &r
}

func environment() map[string]string {
	env := map[string]string{
		"cpus": fmt.Sprint(runtime.NumCPU()), "go": runtime.Version(), "os": runtime.GOOS + "/" + runtime.GOARCH,
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, ok := strings.CutPrefix(line, "model name"); ok {
				env["cpu"] = strings.Trim(name, "\t: \n")
				break
			}
		}
	}
	return env
}

// output prints the report for people, or as JSON.
func (r report) output(w io.Writer, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", " ")
		return enc.Encode(r)
	}
	r.print(w)
	return nil
}

func (r report) print(w io.Writer) {
	for _, c := range r.Cases {
		fmt.Fprintf(w, "%s %+v\n", r.Bench, c.Params)
		for _, run := range c.Runs {
			fmt.Fprintf(w, "  %-22s", run.Name)
			for _, metric := range slices.Sorted(maps.Keys(run.Metrics)) {
				m := run.Metrics[metric]
				fmt.Fprintf(w, "  %s %.2f (%.2f to %.2f)", metric, m.Median, m.Min, m.Max)
			}
			fmt.Fprintln(w)
		}
		for _, metric := range slices.Sorted(maps.Keys(c.Ratio)) {
			if v := c.Ratio[metric]; v != nil {
				fmt.Fprintf(w, "  ratio %s: %.2f\n", metric, *v)
			}
		}
	}
	if len(r.Missing) > 0 {
		fmt.Fprintln(w, "missing:", strings.Join(r.Missing, ", "))
	}
}

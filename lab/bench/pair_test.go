package main

import (
	"os/exec"
	"slices"
	"testing"
)

// TestPair runs the benchmark in small: both modes, beside Postfix where it is
// installed, and nulls where it is not. It says nothing of speed.
func TestPair(t *testing.T) {
	for _, c := range []struct {
		name string
		path string // "" for the machine's own
	}{{"as installed", ""}, {"without postfix", t.TempDir()}} {
		t.Run(c.name, func(t *testing.T) {
			if c.path != "" {
				compiler, err := exec.LookPath("go")
				if err != nil {
					t.Fatal(err)
				}
				t.Setenv("PATH", c.path)
				t.Setenv("MAILXMPPD_LAB_GO", compiler)
			}
			_, missing := exec.LookPath("postfix")
			r, err := benchPair(t.Context(), pairParams{Sessions: 2, Size: 2 << 10, Messages: 20, Reps: 2, Store: "sqlite"})
			if err != nil {
				t.Fatal(err)
			}
			if r.Bench != "pair" || r.Version != 1 || len(r.Cases) != 2 || r.Cases[0].Params.(pairParams).Mode != "spooled" || r.Cases[1].Params.(pairParams).Mode != "cut-through" {
				t.Fatalf("report %+v", r)
			}
			if slices.Contains(r.Missing, "postfix") != (missing != nil) {
				t.Errorf("missing: %v, looking for it: %v", r.Missing, missing)
			}
			for _, k := range r.Cases {
				m := k.Runs[0].Metrics["msgs_per_s"]
				if k.Runs[0].Reps != 2 || m.Median <= 0 || m.Min > m.Median || m.Median > m.Max {
					t.Errorf("our run: %+v", k.Runs[0])
				}
				if ratio := k.Ratio["msgs_per_s"]; (ratio == nil) != (missing != nil) {
					t.Errorf("ratio %v, postfix: %v", ratio, missing)
				}
			}
		})
	}
}

package main

import (
	"slices"
	"testing"
)

// TestSMTP runs the benchmark in small, beside Postfix's programs where they
// are installed, and with nothing but their names where not. It says nothing of
// speed.
func TestSMTP(t *testing.T) {
	r, err := benchSMTP(t.Context(), smtpParams{Sessions: 3, Sizes: []int{2 << 10, 100 << 10}, Volume: 40 << 10, Reps: 2, profile: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if r.Bench != "smtp" || r.Version != 1 {
		t.Errorf("report %+v", r)
	}
	if findPeer("smtp-source") == "" {
		if len(r.Cases) != 0 || !slices.Contains(r.Missing, "smtp-source") {
			t.Errorf("report %+v", r)
		}
		return
	}
	if len(r.Cases) != 2 || len(r.Missing) != 0 {
		t.Fatalf("%d cases, missing %v", len(r.Cases), r.Missing)
	}
	for i, want := range []smtpCase{{2 << 10, 3, 20}, {100 << 10, 3, 3}} {
		c := r.Cases[i]
		if c.Params != want || len(c.Runs) != 3 {
			t.Fatalf("case %+v", c)
		}
		for _, run := range c.Runs {
			if m := run.Metrics["msgs_per_s"]; run.Reps != 2 || m.Median <= 0 || m.Min > m.Median || m.Median > m.Max {
				t.Errorf("run %+v", run)
			}
		}
		for _, name := range []string{"server_msgs_per_s", "client_msgs_per_s"} {
			if c.Ratio[name] == nil || *c.Ratio[name] <= 0 {
				t.Errorf("ratio %s of %+v", name, c.Ratio)
			}
		}
	}
}

func TestMedianRatio(t *testing.T) {
	if r := medianRatio([]float64{1, 30, 2}, []float64{2, 10, 2}); r == nil || *r != 1 {
		t.Errorf("%v", r)
	}
	if r := medianRatio([]float64{1, 2}, []float64{0, 4}); r == nil || *r != 0.5 {
		t.Errorf("%v", r)
	}
	if r := medianRatio([]float64{1}, []float64{0}); r != nil {
		t.Errorf("%v", *r)
	}
}

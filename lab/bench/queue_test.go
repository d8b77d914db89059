package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// TestQueue runs the benchmark in small and holds the shape of its report and
// its counts. It says nothing of speed.
func TestQueue(t *testing.T) {
	p := quickQueue()
	r, err := benchQueue(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.output(&out, true); err != nil || !json.Valid(out.Bytes()) || r.Bench != "queue" || r.Version != 1 {
		t.Errorf("%v: %s", err, out.String())
	}
	backends := []string{"sqlite", "postgres"}
	if slices.Contains(r.Missing, "postgres") {
		backends = backends[:1]
	}
	var deep, nodes, flushes, relays int
	for _, c := range r.Cases {
		switch params := c.Params.(type) {
		case deepParams:
			checkDeep(t, p, c, params, backends[deep])
			deep++
		case nodesParams:
			nodes++
			if len(c.Runs) != 2 || c.Runs[1].Name != "3 nodes" || c.Ratio["msgs_per_s"] == nil || c.Runs[0].Metrics["postgres_cpu_ms_per_msg"].Median <= 0 {
				t.Errorf("nodes: %+v", c)
			}
		case flushParams:
			flushes++
			// A message alone cannot share a flush: stored and settled, each takes
			// one at least.
			if m := c.Runs[0].Metrics["flushes_per_msg"].Median; m <= 0 || params.Senders == 1 && m < 1 {
				t.Errorf("%s, %d senders: %v flushes a message", params.Store, params.Senders, m)
			}
		case relayParams:
			relays++
			if (len(c.Runs) == 2) == slices.Contains(r.Missing, "postfix") || (c.Ratio["msgs_per_s"] != nil) != (len(c.Runs) == 2) {
				t.Errorf("relay: %+v", c)
			}
		default:
			t.Errorf("case of %T", params)
		}
	}
	counted := 2 * len(backends)
	if slices.Contains(r.Missing, "strace") {
		counted -= 2
	}
	if deep != len(backends) || nodes != 2*(len(backends)-1) || flushes != counted || relays != 1 {
		t.Errorf("%d cases of waiting mail, %d of nodes, %d of flushes, %d of a relay", deep, nodes, flushes, relays)
	}
	out.Reset()
	if err := r.output(&out, false); err != nil || !strings.Contains(out.String(), "full queue, in a storm") {
		t.Errorf("%v: %s", err, out.String())
	}
}

// checkDeep: four runs with all metrics, every probe arrived, and the storm was
// one.
func checkDeep(t *testing.T, p queueParams, c benchCase, got deepParams, backend string) {
	t.Helper()
	n := map[string]int{"sqlite": p.SQLite, "postgres": p.Postgres}[backend]
	// In rounds over all domains, every tenth of which is marked.
	rounds := n/p.Domains + 1
	if got.Store != backend || got.Waiting != n || got.Overdue < int64(n/p.Share-p.Domains) || got.Overdue > int64((rounds/p.Share+1)*p.Domains) {
		t.Errorf("%s: %+v", backend, got)
	}
	if len(c.Runs) != 4 {
		t.Fatalf("%s: %d runs", backend, len(c.Runs))
	}
	for _, run := range c.Runs {
		m := run.Metrics
		if run.Reps != p.Probes || m["late"].Median != 0 || m["latency_ms"].Min <= 0 || m["latency_p99_ms"].Median > m["latency_ms"].Max ||
			m["rss_peak_mb"].Median < 1 || m["rss_mb"].Median < 1 || m["start_s"].Median <= 0 {
			t.Errorf("%s, %s: %d probes, %+v", backend, run.Name, run.Reps, m)
		}
	}
	if left := c.Runs[3].Metrics["overdue_left"]; left.Median >= float64(got.Overdue) {
		t.Errorf("%s: nothing of %d overdue deliveries was tried", backend, got.Overdue)
	}
	for _, name := range []string{"full_latency_ms", "full_latency_p99_ms", "storm_latency_ms", "storm_latency_p99_ms"} {
		if c.Ratio[name] == nil || *c.Ratio[name] <= 0 {
			t.Errorf("%s: ratio %s of %v", backend, name, c.Ratio)
		}
	}
}

func TestPercentile(t *testing.T) {
	var v []float64
	for i := range 500 {
		v = append(v, float64(500-i))
	}
	for p, want := range map[int]float64{50: 250, 99: 495, 100: 500} {
		if got := percentile(v, p); got != want {
			t.Errorf("%d of a hundred: %v, want %v", p, got, want)
		}
	}
	if got := percentile([]float64{3}, 99); got != 3 {
		t.Error(got)
	}
}

// TestTracedFlushes: calls that were interrupted in the log count once, failed
// and unfinished ones not.
func TestTracedFlushes(t *testing.T) {
	for log, want := range map[string]int{
		"":                                 0,
		"7 fdatasync(9) = 0\n":             1,
		"7 fdatasync(9 <unfinished ...>\n": 0,
		"7 fdatasync(9 <unfinished ...>\n8 fsync(3) = 0\n7 <... fdatasync resumed>) = 0\n": 2,
		"7 fsync(9) = -1 EIO (Input/output error)\n":                                       0,
		"7 fsync(9) = 0\n7 fsync(9) = 0":                                                   1,
	} {
		if got := len(flushed.FindAllString(whole(log), -1)); got != want {
			t.Errorf("%q: %d, want %d", log, got, want)
		}
	}
}

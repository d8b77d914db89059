package main

import (
	"bytes"
	"strings"
	"testing"
)

// TestTrust runs the benchmark in small: both sides verify the message, and the
// ratio is printed.
func TestTrust(t *testing.T) {
	r, err := benchTrust(t.Context(), trustParams{Size: 10 << 10, Messages: 3, Reps: 2})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Cases) != 1 || len(r.Cases[0].Runs) != 2 || r.Cases[0].Ratio[wallMetric] == nil {
		t.Errorf("%+v", r)
	}
	var out bytes.Buffer
	if err := r.output(&out, true); err != nil || !strings.Contains(out.String(), `"bench": "trust"`) {
		t.Errorf("%v: %s", err, out.String())
	}
}

// Package crash kills gateways at named points and counts what arrives.
package crash

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/store/storetest"
)

// table is printed when all is over.
var table harness.FaultTable

func TestMain(m *testing.M) {
	// The gateways wait for each other and for flushes rather than for a
	// processor.
	flag.Parse()
	if err := flag.Set("test.parallel", "9"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	if err := table.Print(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// The kills of one pair of gateways, and the rounds that make a thousand of
// them.
const (
	longest    = 14
	longRounds = 6
)

// seed draws the order of the kills, their backends and which passage of their
// points they are at; MAILXMPPD_SEED sets another.
func seed(t *testing.T) uint64 {
	set := os.Getenv("MAILXMPPD_SEED")
	if set == "" {
		return 1
	}
	n, err := strconv.ParseUint(set, 10, 64)
	if err != nil {
		t.Fatalf("MAILXMPPD_SEED: %v", err)
	}
	return n
}

// backend makes the stores of a pair.
type backend struct {
	name string
	side func(dir, domain string) harness.Side
}

func backends(server string) []backend {
	return []backend{
		{"sqlite", func(dir, domain string) harness.Side {
			return harness.Side{Domain: domain, Store: "sqlite://" + filepath.Join(dir, domain+".db")}
		}},
		{"postgres", func(_, domain string) harness.Side {
			schema := fmt.Sprintf("crash_%d_%s", time.Now().UnixNano(), domain[:1])
			return harness.Side{Domain: domain, Store: server, Schema: schema, Node: schema}
		}},
	}
}

// TestKill sends mail through pairs of gateways and kills one of them again
// and again: every message that was acknowledged is once in the receiving
// gateway's store, and in the final mailbox or next MTA once, or once more for
// each attempt that was in flight to it at a kill. The short form has each kill
// on one of the backends, the long one (MAILXMPPD_LONG=1) over a thousand.
func TestKill(t *testing.T) {
	exe, err := harness.Build(t.TempDir(), "faults")
	if err != nil {
		t.Fatal(err)
	}
	draw := rand.New(rand.NewPCG(seed(t), 0))
	rounds := 1
	if os.Getenv("MAILXMPPD_LONG") == "1" {
		rounds = longRounds
	}
	all := backends(storetest.StartPostgres(t))
	for round := range rounds {
		dealt := deal(draw, all, rounds > 1)
		for i, b := range all {
			for _, cut := range []bool{false, true} {
				mine := slices.DeleteFunc(slices.Clone(dealt[i]), func(k kill) bool { return k.cut != cut })
				for part := range slices.Chunk(mine, longest) {
					name := fmt.Sprintf("%d %s cut-through=%v", round, b.name, cut)
					own := rand.New(rand.NewPCG(draw.Uint64(), 0))
					t.Run(name, func(t *testing.T) {
						t.Parallel()
						newCampaign(t, exe, b, cut, own).run(part)
					})
				}
			}
		}
	}
}

// deal gives each kill to one of the backends, or to both, in any order.
func deal(draw *rand.Rand, all []backend, both bool) [][]kill {
	out := make([][]kill, len(all))
	first := draw.IntN(len(all))
	for n, k := range draw.Perm(len(kills)) {
		k := kills[k]
		for i, b := range all {
			if k.backend == b.name || k.backend == "" && (both || (n+first)%len(all) == i) {
				out[i] = append(out[i], k)
			}
		}
	}
	return out
}

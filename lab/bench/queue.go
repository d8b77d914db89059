package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"mailxmppd/lab/harness"
	"mailxmppd/store/storetest"
)

// queueParams say what the queue benchmark does.
type queueParams struct {
	Parts     []string      // of queueParts
	Postgres  int           // deferred deliveries in a full queue there
	SQLite    int           // and there
	Domains   int           // over which they are spread
	Probes    int           // new messages to a live destination, for each state of the queue
	Share     int           // the share of a full queue that becomes due at once is 1 in so many
	Storm     time.Duration // how long that is watched at least
	Drain     int           // messages of a spool that one node drains, and three
	SlowDrain int           // the same, into a sink that takes slowSink for each
	Messages  int           // of the other parts, per repetition
	Reps      int
	profile   string
}

// queueParts are the parts of the benchmark in their order.
func queueParts() []string { return []string{"deep", "nodes", "flushes", "relay"} }

func fullQueue() queueParams {
	return queueParams{Parts: queueParts(), Postgres: 1_000_000, SQLite: 100_000, Domains: 10_000, Probes: 500, Share: 10,
		Storm: time.Minute, Drain: 5000, SlowDrain: 3000, Messages: 2000, Reps: 3}
}

// quickQueue is the benchmark in small: it shows that it works, and no numbers
// worth keeping.
func quickQueue() queueParams {
	return queueParams{Parts: queueParts(), Postgres: 2000, SQLite: 1000, Domains: 100, Probes: 10, Share: 10,
		Storm: time.Second, Drain: 40, SlowDrain: 20, Messages: 32, Reps: 1}
}

func runQueue(ctx context.Context, args []string) error {
	p := fullQueue()
	if slices.Contains(args, "--quick") || slices.Contains(args, "-quick") {
		p = quickQueue()
	}
	flags := flag.NewFlagSet("queue", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "print the report as JSON")
	flags.Bool("quick", false, "everything in small, as a test does it")
	parts := flags.String("parts", strings.Join(p.Parts, ","), "which parts to run")
	flags.IntVar(&p.Postgres, "postgres", p.Postgres, "deferred deliveries on PostgreSQL; 0 to leave that out")
	flags.IntVar(&p.SQLite, "sqlite", p.SQLite, "deferred deliveries on SQLite; 0 to leave that out")
	flags.IntVar(&p.Domains, "domains", p.Domains, "destinations that they are spread over")
	flags.IntVar(&p.Probes, "probes", p.Probes, "new messages for each state of the queue")
	flags.DurationVar(&p.Storm, "storm", p.Storm, "how long to watch a share of the queue that becomes due")
	flags.IntVar(&p.Drain, "drain", p.Drain, "messages that one node and three drain")
	flags.IntVar(&p.SlowDrain, "slow-drain", p.SlowDrain, "messages that they drain into a slow sink")
	flags.IntVar(&p.Messages, "messages", p.Messages, "messages per repetition of the other parts")
	flags.IntVar(&p.Reps, "reps", p.Reps, "repetitions")
	flags.StringVar(&p.profile, "profile", "", "folder for CPU profiles of the gateways in a storm and beside Postfix")
	if err := flags.Parse(args); err != nil {
		return err
	}
	p.Parts = strings.Split(*parts, ",")
	report, err := benchQueue(ctx, p)
	if err != nil {
		return err
	}
	return report.output(os.Stdout, *asJSON)
}

// benchQueue measures the queue: how it bears much that waits, how nodes share
// it, what it flushes, and what the spooled path costs beside one relay.
func benchQueue(ctx context.Context, p queueParams) (r report, err error) {
	r = report{Bench: "queue", Version: 1, Env: environment(), Missing: []string{}}
	q, err := newQueueLab()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, q.close()) }()
	backends := []string{"sqlite", "postgres"}
	if q.server == nil {
		r.Missing, backends = append(r.Missing, "postgres"), backends[:1]
	}
	for _, part := range p.Parts {
		var cases []benchCase
		switch part {
		case "deep":
			cases, err = q.benchDeep(ctx, p, backends)
		case "nodes":
			if q.server != nil {
				cases, err = q.benchNodes(ctx, p)
			}
		case "flushes":
			if _, missing := exec.LookPath("strace"); missing != nil {
				r.Missing, backends = append(r.Missing, "strace"), slices.DeleteFunc(backends, func(b string) bool { return b == "sqlite" })
			}
			cases, err = q.benchFlushes(ctx, p, backends)
		case "relay":
			if _, missing := exec.LookPath("postfix"); missing != nil {
				r.Missing = append(r.Missing, "postfix")
			}
			cases, err = q.benchRelay(ctx, p)
		default:
			err = fmt.Errorf("no such part, want one of %s", strings.Join(queueParts(), ", "))
		}
		if err != nil {
			return r, fmt.Errorf("%s: %w", part, err)
		}
		r.Cases = append(r.Cases, cases...)
	}
	return r, nil
}

// queueLab is what the parts share: an executable, a name server, a database.
type queueLab struct {
	dir, exe string
	ca       *harness.CA
	names    *deadNames
	server   *storetest.Server // nil: none is installed
	made     int               // gateways so far
}

func newQueueLab() (q *queueLab, err error) {
	q = &queueLab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, q.close())
		}
	}()
	if q.dir, err = harness.ShortDir(); err != nil {
		return q, err
	}
	if err := os.Chmod(q.dir, 0o755); err != nil { // Postfix's processes are not root
		return q, err
	}
	if q.ca, err = harness.NewCA(q.dir); err != nil {
		return q, err
	}
	if q.exe, err = harness.Build(q.dir, "profile"); err != nil {
		return q, err
	}
	if q.names, err = serveDeadNames(); err != nil {
		return q, err
	}
	// A million rows arrive at once: not a checkpoint for every few.
	if q.server, err = storetest.Start("", "max_wal_size=4GB", "shared_buffers=512MB"); errors.Is(err, storetest.ErrNoServer) {
		q.server, err = nil, nil
	}
	return q, err
}

func (q *queueLab) close() (err error) {
	if q.server != nil {
		err = q.server.Stop()
	}
	if q.names != nil {
		q.names.stop()
	}
	return errors.Join(err, os.RemoveAll(q.dir))
}

// spool is a new, empty store.
func (q *queueLab) spool(backend string) harness.Side {
	q.made++
	s := harness.Side{Domain: "capulet.example"}
	if backend == "sqlite" {
		s.Store = "sqlite://" + filepath.Join(q.dir, fmt.Sprintf("%d.db", q.made))
	} else {
		s.Store, s.Schema = q.server.URL, fmt.Sprintf("bench_%d", q.made)
	}
	return s
}

// gateway configures a node on a spool: mail to live.example goes to the sink,
// that to all other domains where the name server says. more is for the end of
// the configuration.
func (q *queueLab) gateway(s harness.Side, sink string, more ...string) (*harness.Gateway, error) {
	addrs, err := harness.FreeAddrs(2)
	if err != nil {
		return nil, err
	}
	q.made++
	return harness.NewGateway(harness.Spec{
		Exe: q.exe, Dir: filepath.Join(q.dir, fmt.Sprint("gateway", q.made)), CA: q.ca, Domain: s.Domain, DNS: q.names.addr,
		Store: s.Store, Schema: s.Schema, Node: fmt.Sprint("node", q.made), Deliver: "smtp://" + sink, SMTP: addrs[0], XMPP: addrs[1],
		Peers: map[string]string{},
		Extra: fmt.Sprintf("[[route]]\ndomain = \"live.example\"\nnext = \"smtp://%s\"\ntls = \"none\"\n"+
			"[[peer]]\ndomain = \"live.example\"\npolicy = \"never\"\n[smtp]\nmx_port = %d\n[dkim]\nsign = \"never\"\n%s", sink, q.names.closed, strings.Join(more, "")),
	})
}

// start starts a gateway and tells how long it took to greet.
func (q *queueLab) start(ctx context.Context, g *harness.Gateway, env ...string) (time.Duration, error) {
	began := time.Now()
	err := g.Start(ctx, env...)
	return time.Since(began), err
}

// prepare has a gateway make the tables of a spool.
func (q *queueLab) prepare(ctx context.Context, g *harness.Gateway) error {
	if _, err := q.start(ctx, g); err != nil {
		return err
	}
	return g.Stop()
}

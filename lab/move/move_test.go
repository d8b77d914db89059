// Package move has a gateway's queue go from SQLite to PostgreSQL, with mail
// waiting in it that nothing may happen to.
package move

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mailxmppd/lab/harness"
	"mailxmppd/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestMovedQueue: what waits for a peer that is away is delivered from the new
// store, all of it and each once, and the gateway that is started with the old
// store by mistake delivers nothing.
func TestMovedQueue(t *testing.T) {
	server := storetest.StartPostgres(t)
	dir, err := harness.ShortDir()
	fatal(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := harness.Build(dir)
	fatal(t, err)
	ca, err := harness.NewCA(dir)
	fatal(t, err)
	addrs, err := harness.FreeAddrs(1)
	fatal(t, err)
	sink, err := harness.NewSink(addrs[0], harness.MessageID)
	fatal(t, err)
	t.Cleanup(sink.Close)
	spec := harness.Spec{Exe: exe, Dir: dir, CA: ca, Deliver: "lmtp://" + addrs[0],
		Extra: "[queue]\nretry_first = \"1s\"\nretry_max = \"2s\"\n"}
	old := harness.Side{Domain: "a.example", Store: "sqlite://" + filepath.Join(dir, "a.db")}
	pair, err := harness.NewPair(spec, old, harness.Side{Domain: "b.example", Store: "sqlite://" + filepath.Join(dir, "b.db")})
	fatal(t, err)

	fatal(t, pair.A.Start(t.Context()))
	t.Cleanup(func() { pair.A.Stop() })
	traffic := harness.NewTraffic("juliet@a.example", "move")
	never := make(chan struct{})
	for i := range 24 {
		id, err := traffic.Make("romeo@b.example", []int{1, 100, 8000, 20000}[i%4]) // the last in pieces
		fatal(t, err)
		fatal(t, traffic.Send(pair.A.SMTP, id, never))
	}
	fatal(t, pair.A.Kill()) // with attempts under way

	out, err := exec.Command(exe, "store", "move", "--config", pair.A.Config, "--to", server, "--schema", "moved").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	fatal(t, pair.B.Start(t.Context()))
	t.Cleanup(func() { pair.B.Stop() })
	if err := pair.A.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "was moved to postgres://") {
		t.Fatalf("started with the old store: %v", err)
	}

	config, err := os.ReadFile(pair.A.Config)
	fatal(t, err)
	text := strings.Replace(string(config), `url = "`+old.Store+`"`, `url = "`+server+`"`+"\nschema = \"moved\"", 1)
	if text == string(config) {
		t.Fatal("the configuration names no store")
	}
	fatal(t, os.WriteFile(pair.A.Config, []byte(text), 0o600))
	fatal(t, pair.A.Start(t.Context()))
	for range 4 {
		id, err := traffic.Make("romeo@b.example", 10)
		fatal(t, err)
		fatal(t, traffic.Send(pair.A.SMTP, id, never))
	}
	if lost := traffic.Await(time.Minute, sink); len(lost) > 0 {
		t.Errorf("lost: %v\n%s", lost, pair.A.Log())
	}
	if n := traffic.Twins(sink); n > 0 || sink.Count() != 28 {
		t.Errorf("%d arrived, %d of them twins", sink.Count(), n)
	}
}

// TestKilledBetween: a move that dies between the mark at its source and the end
// of the commit at its target leaves no moment at which a gateway could be started
// on both, nor mail that neither has; the same move finishes it.
func TestKilledBetween(t *testing.T) {
	server := storetest.StartPostgres(t)
	dir, err := harness.ShortDir()
	fatal(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := harness.Build(dir, "faults")
	fatal(t, err)
	ca, err := harness.NewCA(dir)
	fatal(t, err)
	for _, point := range []string{"move.marked", "move.committed"} {
		t.Run(point, func(t *testing.T) {
			addrs, err := harness.FreeAddrs(3)
			fatal(t, err)
			sink, err := harness.NewSink(addrs[0], harness.MessageID)
			fatal(t, err)
			t.Cleanup(sink.Close)
			url, schema := "sqlite://"+filepath.Join(dir, point+".db"), strings.ReplaceAll(point, ".", "_")
			// The queue waits for a next hop that is not there.
			g, err := harness.NewGateway(harness.Spec{Exe: exe, Dir: filepath.Join(dir, point), CA: ca, Domain: "a.example",
				Store: url, Deliver: "smtp://" + addrs[0], SMTP: addrs[1], XMPP: addrs[2], Peers: map[string]string{},
				Extra: "[[route]]\ndomain = \"b.example\"\nnext = \"smtp://127.0.0.1:1\"\ntls = \"none\"\n[[peer]]\ndomain = \"b.example\"\npolicy = \"never\"\n"})
			fatal(t, err)
			fatal(t, g.Start(t.Context()))
			t.Cleanup(func() { g.Stop() })
			traffic := harness.NewTraffic("juliet@a.example", "move")
			for range 5 {
				id, err := traffic.Make("romeo@b.example", 100)
				fatal(t, err)
				fatal(t, traffic.Send(g.SMTP, id, make(chan struct{})))
			}
			fatal(t, g.Stop())

			move := func() *exec.Cmd {
				return exec.Command(exe, "store", "move", "--config", g.Config, "--to", server, "--schema", schema)
			}
			dies := move()
			dies.Env = append(os.Environ(), "MAILXMPPD_STOP_AT="+point+":1")
			said, err := dies.StderrPipe()
			fatal(t, err)
			fatal(t, dies.Start())
			stopped := false
			for lines := bufio.NewScanner(said); !stopped && lines.Scan(); {
				stopped = strings.Contains(lines.Text(), "stopped at "+point)
			}
			dies.Process.Kill()
			dies.Wait()
			if !stopped {
				t.Fatal("the move never came there")
			}

			if err := g.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "run mailxmppd store move to it again") {
				t.Fatalf("the old store is used: %v", err)
			}
			text, err := os.ReadFile(g.Config)
			fatal(t, err)
			fresh := g.Config + ".new"
			changed := strings.Replace(string(text), `url = "`+url+`"`, `url = "`+server+`"`+"\nschema = \""+schema+`"`, 1)
			fatal(t, os.WriteFile(fresh, []byte(changed), 0o600))
			held := func() string {
				out, err := exec.Command(exe, "queue", "totals", "--json", "--config", fresh).CombinedOutput()
				if err != nil {
					return string(out)
				}
				var totals struct{ All struct{ Deliveries int } }
				fatal(t, json.Unmarshal(out, &totals))
				return fmt.Sprint(totals.All.Deliveries)
			}
			before := held()
			if point == "move.marked" && !strings.Contains(before, "has not been finished") || point == "move.committed" && before != "5" {
				t.Fatalf("the new store: %s", before)
			}
			if out, err := exec.Command(exe, "store", "move", "--config", g.Config, "--to", server, "--schema", "elsewhere").CombinedOutput(); err == nil ||
				!strings.Contains(string(out), "finish that move first") {
				t.Fatalf("moved elsewhere: %v %s", err, out)
			}
			if out, err := move().CombinedOutput(); err != nil {
				t.Fatalf("again: %v %s", err, out)
			}
			if after := held(); after != "5" {
				t.Fatalf("the new store holds %s", after)
			}
			if out, err := move().CombinedOutput(); err == nil || !strings.Contains(string(out), "was moved to postgres://") {
				t.Fatalf("moved once more: %v %s", err, out)
			}
		})
	}
}

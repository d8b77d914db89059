// Package move has a gateway's queue go from SQLite to PostgreSQL, with mail
// waiting in it that nothing may happen to.
package move

import (
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

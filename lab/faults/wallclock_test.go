package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"mailxmppd/lab/harness"
)

// clockSource is what package time gets for the gateway whose clock is set: its
// time of day is ahead by the seconds that a file says. Nothing short of that
// sets the clock of one process: Go programs ask the system past the C library.
const clockSource = `package time

import (
	"sync/atomic"
	"syscall"
)

var clockSetBy = watchClock() // seconds

// watchClock reads the file apart from who asks for the time, which the
// scheduler does as well, where no system call may be made.
func watchClock() *atomic.Int64 {
	by := new(atomic.Int64)
	name, _ := syscall.Getenv("` + clockVariable + `")
	read := func() {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return
		}
		var b [32]byte
		n, _ := syscall.Read(fd, b[:])
		syscall.Close(fd)
		if seconds, err := atoi(b[:max(n, 0)]); err == nil {
			by.Store(int64(seconds))
		}
	}
	read()
	go func() {
		for {
			Sleep(20 * Millisecond)
			read()
		}
	}()
	return by
}
`

const clockVariable = "MAILXMPPD_CLOCK_FILE"

// settable is a gateway whose time of day can be set, built once.
var settable = sync.OnceValues(func() (string, error) {
	dir := filepath.Dir(gateway)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	source := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	text, err := os.ReadFile(filepath.Join(source, "time.go"))
	if err != nil {
		return "", err
	}
	const asked = "sec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(text), asked) {
		return "", fmt.Errorf("package time asks for the time in another way: no %q", asked)
	}
	changed := strings.ReplaceAll(string(text), asked, asked+"\tsec += clockSetBy.Load()\n")
	files := map[string]string{
		filepath.Join(source, "time.go"):     filepath.Join(dir, "time.go.changed"),
		filepath.Join(source, "clockset.go"): filepath.Join(dir, "clockset.go.added"),
	}
	overlay, err := json.Marshal(map[string]any{"Replace": files})
	if err != nil {
		return "", err
	}
	for name, content := range map[string]string{
		"time.go.changed": changed, "clockset.go.added": clockSource, "overlay.json": string(overlay),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	exe := filepath.Join(dir, "mailxmppd-settable")
	// With nothing of it in Go's cache this takes minutes, in which the other
	// tests are not to suffer.
	out, err := exec.Command("nice", "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-tags", "faults", "-o", exe, "mailxmppd/cmd/mailxmppd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building a gateway whose clock can be set: %w\n%s", err, out)
	}
	return exe, nil
})

// clock is the time of day of one gateway.
type clock struct {
	*testing.T
	file string
}

// startWithClock starts a gateway whose time of day can be set.
func (s *site) startWithClock(g *harness.Gateway) clock {
	s.Helper()
	exe, err := settable()
	must(s, err)
	c := clock{s.T, filepath.Join(shortDir(s), "clock")}
	c.set(0)
	g.Exe = exe
	must(s, g.Start(s.Context(), append([]string{clockVariable + "=" + c.file}, s.env...)...))
	return c
}

// set sets it, from the true time.
func (c clock) set(by time.Duration) {
	c.Helper()
	next := c.file + ".next"
	must(c, os.WriteFile(next, fmt.Append(nil, int(by.Seconds())), 0o600))
	must(c, os.Rename(next, c.file))
}

// week is longer than mail may wait.
const week = 7 * 24 * time.Hour

// TestWallClock: the time of day of a gateway is set an hour on, and back, while
// mail goes through it: no lease is lost. While mail waits it is set by a week:
// nothing expires, nobody is told of a delay, and the attempts go on. With
// PostgreSQL a second node's clock is right all the while.
func TestWallClock(t *testing.T) {
	for _, backend := range []string{"sqlite", "postgres"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			a, b := sqliteIn(shortDir(t), "a.example"), sqliteIn(shortDir(t), "b.example")
			if backend == "postgres" {
				server := startServer(t)
				makeSchemas(t, server.URL, "wall")
				a, b = postgresAt(server.URL, "a.example", "wall"), postgresAt(server.URL, "b.example", "wall")
			}
			s := newSite(t, backend+": clocks of gateways set", a, b, shortLease)
			clocks := []clock{s.startWithClock(s.pair.B), s.startWithClock(s.pair.A)}
			if backend == "postgres" {
				other := s.another()
				must(t, other.Start(t.Context(), s.env...))
				defer func() { must(t, other.Stop()) }()
			}
			stop := s.load(20)
			defer stop()
			for _, by := range []time.Duration{time.Hour, -time.Hour, 0} {
				for _, c := range clocks {
					s.flows(10)
					s.blow()
					c.set(by)
				}
				s.ahead(by)
			}
			s.flows(10)
			must(t, s.pair.B.Kill())
			s.blow()
			for _, by := range []time.Duration{week, -week, 0} {
				clocks[1].set(by)
				s.ahead(by)
				deferred := strings.Count(s.pair.A.Log(), "msg=deferred")
				s.eventually("attempts go on", func() bool { return strings.Count(s.pair.A.Log(), "msg=deferred") > deferred+5 })
			}
			if log := s.pair.A.Log(); strings.Contains(log, "msg=expired") || strings.Contains(log, `msg="dsn queued"`) {
				t.Error("mail expired, or was delayed, by the clock")
			}
			must(t, s.pair.B.Start(t.Context(), s.env...))
			s.flows(10)
			stop()
			s.judge()
			for _, log := range []string{s.pair.A.Log(), s.pair.B.Log()} {
				if strings.Contains(log, "lease lost") || strings.Contains(log, "settlement refused") {
					t.Error("a lease was lost")
				}
			}
		})
	}
}

// ahead waits until a's log has a line of the time that its clock was set to.
func (s *site) ahead(by time.Duration) {
	s.Helper()
	s.eventually("the log has the time that was set", func() bool {
		lines := strings.Split(strings.TrimSpace(s.pair.A.Log()), "\n")
		_, rest, _ := strings.Cut(lines[len(lines)-1], "time=")
		at, _, _ := strings.Cut(rest, " ")
		logged, err := time.Parse(time.RFC3339, at)
		off := time.Since(logged) + by
		return err == nil && off.Abs() < 10*time.Minute
	})
}

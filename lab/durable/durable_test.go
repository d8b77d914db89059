// Package durable shows by system calls that a positive reply comes after a
// flush of the store, on both backends, and that it would be seen if it did
// not.
package durable

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"mailxmppd/lab/harness"
	"mailxmppd/store/storetest"
)

const messages = 20

// TestFlushBeforeReply traces the gateway, or the database, and compares the
// times of its flushes with that at which the gateway begins to write its 250:
// between the message's start and that, a flush must have ended. With flushing
// switched off in the store (synchronous=OFF, synchronous_commit=off) the same
// look must find replies without one.
func TestFlushBeforeReply(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("MAILXMPPD_LAB") == "optional" {
			t.Skip("strace is not installed")
		}
		t.Fatal("strace is not installed; scripts/deps installs it")
	}
	exe, err := harness.Build(t.TempDir(), "faults")
	if err != nil {
		t.Fatal(err)
	}
	for _, backend := range []string{"sqlite", "postgres"} {
		for _, mode := range []string{"spooled", "cut-through"} {
			t.Run(backend+" "+mode, func(t *testing.T) {
				if n := unflushed(t, exe, backend, mode, true); n != 0 {
					t.Errorf("%d of %d replies without a flush before them", n, messages)
				}
			})
			t.Run(backend+" "+mode+" not flushing", func(t *testing.T) {
				// PostgreSQL's WAL writer flushes every 200 ms all the same.
				if n := unflushed(t, exe, backend, mode, false); n == 0 {
					t.Errorf("none of %d replies without a flush before them, although the store does not wait for any", messages)
				}
			})
		}
	}
}

// unflushed runs messages through a pair and counts the 250 replies that no
// flush of the store responsible came before: of the sending gateway's when
// spooled, of the receiving one's with cut-through.
func unflushed(t *testing.T, exe, backend, mode string, flushing bool) int {
	dir, err := harness.ShortDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	traces := map[string]string{"a": filepath.Join(dir, "a.trace"), "b": filepath.Join(dir, "b.trace")}
	responsible := "a"
	if mode == "cut-through" {
		responsible = "b"
	}
	var env []string
	if !flushing {
		env = append(env, "MAILXMPPD_SYNC=off")
	}
	flushTrace := traces[responsible]
	urls := map[string]string{"a": "sqlite://" + filepath.Join(dir, "a.db"), "b": "sqlite://" + filepath.Join(dir, "b.db")}
	if backend == "postgres" {
		flushTrace = filepath.Join(dir, "postgres.trace")
		urls[responsible] = tracedPostgres(t, flushTrace)
	}
	addr := startPair(t, exe, dir, mode, urls, traces, env)
	sent := exchange(t, addr)
	replies := readReplies(t, traces["a"])
	if len(replies) != len(sent) {
		t.Fatalf("%d replies in the trace of %d messages", len(replies), len(sent))
	}
	flushes := readFlushes(t, flushTrace)
	missing := 0
	for i, from := range sent {
		if !anyWithin(flushes, from, replies[i]) {
			missing++
		}
	}
	return missing
}

// trace is a command to run a program under; -D keeps the program our child.
func trace(file string) []string {
	return []string{"strace", "-D", "-f", "-ttt", "-T", "-s", "40", "-e", "trace=fsync,fdatasync,write", "-o", file}
}

// tracedPostgres starts a server and traces it: what runs already by name, the
// processes that will serve connections because they are its children.
func tracedPostgres(t *testing.T, file string) (url string) {
	server, err := storetest.Start("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	args := []string{"-f", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-o", file, "-p", strconv.Itoa(server.PID)}
	helpers := lastingChildren(t, server.PID)
	for _, pid := range helpers {
		args = append(args, "-p", pid)
	}
	tracer := exec.Command("strace", args...)
	said, err := tracer.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tracer.Process.Signal(os.Interrupt); tracer.Wait() })
	lines := bufio.NewScanner(said)
	for range 1 + len(helpers) { // "Process N attached" for each
		if !lines.Scan() || !strings.Contains(lines.Text(), "attached") {
			t.Fatalf("strace: %q", lines.Text())
		}
	}
	go func() {
		for lines.Scan() {
		}
	}()
	return server.URL
}

// lastingChildren are the server's processes but for those that serve a
// connection and may end any moment.
func lastingChildren(t *testing.T, server int) (pids []string) {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", server, server))
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(children)) {
		title, _ := os.ReadFile("/proc/" + pid + "/cmdline")
		for _, lasting := range []string{"checkpointer", "writer", "launcher"} {
			if strings.Contains(string(title), lasting) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

func startPair(t *testing.T, exe, dir, mode string, urls, traces map[string]string, env []string) (addr string) {
	ca, err := harness.NewCA(dir)
	if err != nil {
		t.Fatal(err)
	}
	sink, err := harness.NewSink("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sink.Close)
	side := func(name string) harness.Side {
		s := harness.Side{Domain: name + ".example", Store: urls[name]}
		if strings.HasPrefix(s.Store, "postgres") {
			s.Schema = "durable"
		}
		return s
	}
	pair, err := harness.NewPair(harness.Spec{
		Exe: exe, Dir: dir, CA: ca, Deliver: "lmtp://" + sink.Addr, Extra: fmt.Sprintf("cut_through = %v\n", mode == "cut-through"),
	}, side("a"), side("b"))
	if err != nil {
		t.Fatal(err)
	}
	pair.A.Wrap, pair.B.Wrap = trace(traces["a"]), trace(traces["b"])
	for _, g := range []*harness.Gateway{pair.B, pair.A} {
		t.Cleanup(func() { g.Kill() })
		if err := g.Start(t.Context(), env...); err != nil {
			t.Fatal(err)
		}
	}
	return pair.A.SMTP
}

// exchange sends the messages one by one, with pauses in which the work that
// follows a reply can end, and returns when each was begun.
func exchange(t *testing.T, addr string) []time.Time {
	c, err := harness.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out []time.Time
	for i := range messages {
		content := fmt.Sprintf("From: x@a.example\r\nMessage-ID: <%d.%d@a.example>\r\n\r\nx\r\n", time.Now().UnixNano(), i)
		out = append(out, time.Now())
		if _, err := c.Send("x@a.example", []string{"y@b.example"}, harness.Stuff([]byte(content))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return out
}

// replied matches the call that writes a final reply: its time is that of its
// start.
var replied = regexp.MustCompile(`^\d+ +(\d+\.\d+) write\(\d+, "250 2\.0\.0 (?:queued|accepted)`)

// readReplies returns when the gateway began to write each final reply.
func readReplies(t *testing.T, file string) []time.Time {
	var out []time.Time
	eachLine(t, file, func(line string) {
		if m := replied.FindStringSubmatch(line); m != nil {
			out = append(out, instant(seconds(m[1])))
		}
	})
	return out
}

// traced matches "PID SECONDS.MICROS fdatasync(3) = 0 <0.000123>", and the
// second half of a call that was interrupted in the log.
var traced = regexp.MustCompile(`^\d+ +(\d+\.\d+) (?:<\.\.\. )?(?:fsync|fdatasync)\b.*= 0 <(\d+\.\d+)>$`)

// readFlushes returns the times at which flushes ended. A resumed line bears
// the time of its end, a whole line that of its start.
func readFlushes(t *testing.T, file string) []time.Time {
	var out []time.Time
	eachLine(t, file, func(line string) {
		m := traced.FindStringSubmatch(line)
		if m == nil {
			return
		}
		at := seconds(m[1])
		if !strings.Contains(line, "resumed") {
			at += seconds(m[2])
		}
		out = append(out, instant(at))
	})
	return out
}

func eachLine(t *testing.T, file string, see func(line string)) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		see(lines.Text())
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

func seconds(s string) float64 {
	v, _ := strconv.ParseFloat(s, 64)
	return v
}

func instant(at float64) time.Time { return time.UnixMicro(int64(at * 1e6)) }

func anyWithin(flushes []time.Time, from, to time.Time) bool {
	for _, f := range flushes {
		if f.After(from) && f.Before(to) {
			return true
		}
	}
	return false
}

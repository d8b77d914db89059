package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServeRefuses: whatever keeps the gateway from starting is one clear line
// and an exit code that is not 0.
func TestServeRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, s *site)
		want string // in the one line
	}{
		{"busy smtp port", func(t *testing.T, s *site) { s.listener = busyPort(t) }, "relay listener: listen tcp"},
		{"busy xmpp port", func(t *testing.T, s *site) { s.xmpp = busyPort(t) }, "xmpp listener: listen tcp"},
		{"unreadable key", func(t *testing.T, s *site) {
			if err := os.Remove(filepath.Join(s.dir, "key.pem")); err != nil {
				t.Fatal(err)
			}
		}, "key.pem: no such file or directory"},
		{"key of another certificate", func(t *testing.T, s *site) {
			other := t.TempDir()
			certificate{names: []string{"capulet.example"}, after: time.Hour}.write(t, other)
			key, err := os.ReadFile(filepath.Join(other, "key.pem"))
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(s.dir, "key.pem"), string(key))
		}, "does not match"},
		{"newer store", func(t *testing.T, s *site) {
			makeStore(t, s)
			setVersion(t, filepath.Join(s.dir, "mail.db"), 999)
		}, "newer version of this program"},
		{"store in a folder that is not there", func(t *testing.T, s *site) { s.store = `url = "sqlite:absent/mail.db"` }, "absent"},
		{"store that is no database", func(t *testing.T, s *site) {
			writeFile(t, filepath.Join(s.dir, "mail.db"), strings.Repeat("this is no database\n", 100))
		}, "mail.db"},
		{"postgres that is not there", func(t *testing.T, s *site) {
			s.store = `url = "postgres://127.0.0.1:1/mail?connect_timeout=1"`
		}, "127.0.0.1:1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			c.make(t, s)
			code, _, stderr := call(t, "serve", "--config", s.write(t))
			var errs []string // what is not log
			for line := range strings.Lines(stderr) {
				if !strings.HasPrefix(line, "time=") {
					errs = append(errs, line)
				}
			}
			if code != 1 || len(errs) != 1 || !strings.Contains(errs[0], c.want) {
				t.Errorf("got %d %q, want one line with %q", code, errs, c.want)
			}
		})
	}
}

func busyPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// TestServeStops: a running gateway tells what it has counted; SIGTERM ends it with
// exit code 0, and its store can be opened again at once.
func TestServeStops(t *testing.T) {
	s := newSite(t)
	file := s.write(t)
	for range 2 {
		cmd := exec.Command(os.Args[0], "serve", "--config", file)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		log := &waiter{want: "msg=started", seen: make(chan struct{})}
		cmd.Stderr = log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-log.seen:
		case <-time.After(20 * time.Second):
			cmd.Process.Kill()
			cmd.Wait()
			t.Fatalf("not started:\n%s", log.text.String())
		}
		code, stdout, stderr := call(t, "counters", "--config", file)
		if code != 0 || !strings.Contains(stdout, "streams ") || !strings.Contains(stdout, "DialbackResults") || !strings.Contains(stdout, "relay 127.0.0.1:0") {
			t.Errorf("counters: %d %q %q", code, stdout, stderr)
		}
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || !strings.Contains(log.text.String(), "msg=stopped") {
			t.Errorf("%v\n%s", err, log.text.String())
		}
	}
}

// waiter tells when a text has been written. One goroutine writes.
type waiter struct {
	want string
	text bytes.Buffer
	seen chan struct{}
	done bool
}

func (w *waiter) Write(p []byte) (int, error) {
	w.text.Write(p)
	if !w.done && strings.Contains(w.text.String(), w.want) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}

package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrNoServer means that no PostgreSQL server is installed.
var ErrNoServer = errors.New("no PostgreSQL server found in /usr/lib/postgresql/*/bin or PATH (scripts/deps installs it)")

// How long a server may take to start or stop: recovery after Kill included.
const (
	serverTimeout = 60 * time.Second
	serverPoll    = 20 * time.Millisecond
)

// Server is a PostgreSQL server of its own for tests and benchmarks, on a free
// port of 127.0.0.1, with a cluster that Stop removes. It flushes as in
// production (fsync is on): what is shown with it holds. The server ends with
// the process that started it.
type Server struct {
	URL string // of the superuser, e.g. "postgres://postgres@127.0.0.1:41234/postgres?sslmode=disable"
	PID int    // of the running server

	bin      string // folder of its programs
	root     string // folder of the cluster
	port     int
	settings []string
	attr     *syscall.SysProcAttr
	cmd      *exec.Cmd
	exited   chan struct{}
}

// StartPostgres starts a server for a test, with settings as for Start, and
// stops it with the test. A missing server fails the test unless
// MAILXMPPD_LAB=optional.
func StartPostgres(t testing.TB, settings ...string) (url string) {
	t.Helper()
	s, err := Start("", settings...)
	if errors.Is(err, ErrNoServer) && os.Getenv("MAILXMPPD_LAB") == "optional" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s.URL
}

// Start makes a cluster in a new folder within dir ("" for the system's
// temporary folder) and starts a server on it. settings are "name=value" as in
// postgresql.conf. The server takes 300 connections at once: each gateway in a
// test may have ten. It refuses to run as root: it then runs as the user
// postgres, for whom dir must be open to pass through.
func Start(dir string, settings ...string) (*Server, error) {
	bin, err := findServer()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: settings, attr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}}
	if s.root, err = os.MkdirTemp(dir, "mailxmppd-postgres-*"); err != nil {
		return nil, err
	}
	if err := s.create(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.root))
	}
	if err := s.Run(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.root))
	}
	return s, nil
}

// Program is the path of a program of PostgreSQL's, of the server's version.
func Program(name string) (path string, err error) {
	bin, err := findServer()
	return filepath.Join(bin, name), err
}

func findServer() (bin string, err error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return majorOf(a) - majorOf(b) })), nil
	}
	// initdb lies beside the real server, not beside a wrapper in PATH.
	path, err := exec.LookPath("initdb")
	if err != nil {
		return "", ErrNoServer
	}
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return "", err
	}
	return filepath.Dir(path), nil
}

// majorOf reads the version from "/usr/lib/postgresql/15/bin/postgres".
func majorOf(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path)))) // 0 for a name that is no version
	return n
}

// create makes the cluster, owned by the user that the server runs as.
func (s *Server) create() error {
	if err := s.folders("data", "run"); err != nil {
		return err
	}
	// --no-sync spares the flush of the empty cluster only.
	out, err := s.command("initdb", "-D", filepath.Join(s.root, "data"), "-U", "postgres", "-A", "trust", "--no-locale", "-E", "UTF8", "--no-sync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("initdb: %w: %s", err, lastLines(out))
	}
	return nil
}

// folders makes folders of the server's own.
func (s *Server) folders(names ...string) error {
	uid, gid, err := s.runAs()
	if err != nil {
		return err
	}
	if err := os.Chmod(s.root, 0o711); err != nil {
		return err
	}
	for _, name := range names {
		path := filepath.Join(s.root, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) runAs() (uid, gid int, err error) {
	if os.Getuid() != 0 {
		return os.Getuid(), os.Getgid(), nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, fmt.Errorf("%w: root needs the user postgres to run it: %w", ErrNoServer, err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, err
	}
	s.attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return uid, gid, nil
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = filepath.Join(s.root, "run")
	cmd.SysProcAttr = s.attr
	cmd.Env = []string{"PATH=" + s.bin + ":/usr/bin:/bin", "LC_ALL=C", "TZ=UTC", "HOME=" + cmd.Dir}
	return cmd
}

// Run starts the server again after Halt or Kill, on the same port. It returns
// when the server takes connections.
func (s *Server) Run() error {
	for try := 0; ; try++ {
		err := s.run()
		// A free port may have been taken meanwhile, by whom we can tell only
		// from the server's refusal to start.
		if err == nil || s.URL != "" || try == 2 {
			return err
		}
		s.port = 0
	}
}

func (s *Server) run() error {
	if s.port == 0 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		s.port = l.Addr().(*net.TCPAddr).Port
		l.Close()
	}
	args := []string{"-D", filepath.Join(s.root, "data")}
	for _, set := range append([]string{"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(s.port), "unix_socket_directories=", "timezone=UTC", "max_connections=300"}, s.settings...) {
		args = append(args, "-c", set)
	}
	log, err := os.Create(filepath.Join(s.root, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	s.cmd = s.command("postgres", args...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.PID = s.cmd.Process.Pid
	s.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)
	url := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", s.port)
	if err := s.await(url); err != nil {
		return errors.Join(err, s.end(syscall.SIGQUIT))
	}
	s.URL = url
	return nil
}

// await waits until the server answers.
func (s *Server) await(url string) error {
	ctx, cancel := context.WithTimeout(context.Background(), serverTimeout)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, url)
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case <-s.exited:
			out, _ := os.ReadFile(filepath.Join(s.root, "log"))
			return fmt.Errorf("postgres did not start: %s", lastLines(out))
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w", err)
		case <-time.After(serverPoll):
		}
	}
}

// Halt ends the server in order and keeps its cluster for Run.
func (s *Server) Halt() error { return s.end(syscall.SIGINT) }

// Kill ends the server as a crash would: at once, with recovery left to Run.
func (s *Server) Kill() error { return s.end(syscall.SIGQUIT) }

// Restart is Halt and Run.
func (s *Server) Restart() error {
	if err := s.Halt(); err != nil {
		return err
	}
	return s.Run()
}

// Stop ends the server and removes its cluster, without writing out first what
// is removed then.
func (s *Server) Stop() error {
	return errors.Join(s.end(syscall.SIGQUIT), os.RemoveAll(s.root))
}

func (s *Server) end(sig syscall.Signal) error {
	select {
	case <-s.exited:
		return nil
	default:
	}
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.exited:
		return nil
	case <-time.After(serverTimeout):
		return errors.Join(fmt.Errorf("postgres, process %d, did not end", s.PID), s.cmd.Process.Kill())
	}
}

// Ended reports whether the server has ended, by itself or by its caller.
func (s *Server) Ended() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// Log is what the server has written since its start.
func (s *Server) Log() (string, error) {
	out, err := os.ReadFile(filepath.Join(s.root, "log"))
	return string(out), err
}

// lastLines is what an error shows of a log.
func lastLines(log []byte) string {
	log = bytes.TrimSpace(log)
	if len(log) > 600 {
		log = log[len(log)-600:]
	}
	return string(log)
}

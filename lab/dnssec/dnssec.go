// Package dnssec starts a private validating resolver with signed zones of its
// own below a root of its own: the zones are signed by ldns and validated by
// Unbound, neither of which shares code with this program.
package dnssec

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	mdns "github.com/miekg/dns"
)

// ErrNotInstalled means that a program is missing on this machine.
var ErrNotInstalled = errors.New("unbound or ldnsutils is not installed; scripts/deps installs them")

// stopTime bounds the wait for an orderly end.
const stopTime = 10 * time.Second

// Zone is a zone directly below "example".
type Zone struct {
	Name    string   // without final dot, e.g. "capulet.example"
	Records []string // in presentation form; "@" and names without final dot are relative
	Signed  bool
	Spoilt  string // the type whose signatures are broken, e.g. "TLSA"; "": none
	Expired bool   // the signatures are of last year
}

// Server is a running resolver.
type Server struct {
	Addr  string
	dir   string
	cmd   *exec.Cmd
	ended chan struct{}
}

// Start signs the zones and serves them at addr, an IP address and port. Stop
// ends it.
func Start(addr string, zones []Zone) (*Server, error) {
	for _, program := range []string{"unbound", "ldns-keygen", "ldns-signzone"} {
		if _, err := exec.LookPath(program); err != nil {
			return nil, ErrNotInstalled
		}
	}
	dir, err := os.MkdirTemp("", "dnssec")
	if err != nil {
		return nil, err
	}
	srv := &Server{Addr: addr, dir: dir}
	if err := srv.start(zones); err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	return srv, nil
}

func (srv *Server) start(zones []Zone) error {
	files, anchor, err := signAll(srv.dir, zones)
	if err != nil {
		return err
	}
	conf, err := settings(srv.Addr, anchor, files)
	if err != nil {
		return err
	}
	file := filepath.Join(srv.dir, "unbound.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(srv.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	srv.cmd = exec.Command("unbound", "-d", "-c", file)
	srv.cmd.Stdout, srv.cmd.Stderr = log, log
	if err := srv.cmd.Start(); err != nil {
		srv.cmd = nil
		return err
	}
	srv.ended = make(chan struct{})
	go func() {
		defer close(srv.ended)
		srv.cmd.Wait()
	}()
	return srv.ready()
}

// ready waits until the resolver answers for its own root.
func (srv *Server) ready() error {
	q := new(mdns.Msg)
	q.SetQuestion(".", mdns.TypeSOA)
	for range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		reply, err := mdns.ExchangeContext(ctx, q, srv.Addr)
		cancel()
		if err == nil && reply.Rcode == mdns.RcodeSuccess {
			return nil
		}
		select {
		case <-srv.ended:
			return fmt.Errorf("unbound has ended:\n%s", srv.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("unbound does not answer:\n%s", srv.Log())
}

// Stop ends the server and removes its folder.
func (srv *Server) Stop() error {
	if srv.cmd != nil {
		srv.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-srv.ended:
		case <-time.After(stopTime):
			srv.cmd.Process.Kill()
			<-srv.ended
		}
	}
	return os.RemoveAll(srv.dir)
}

// Log is what the server has logged so far.
func (srv *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(srv.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// settings makes one Unbound both the authority for the zones and the
// resolver that asks itself for them and validates the answers: for-upstream
// without for-downstream.
func settings(addr, anchor string, files []zoneFile) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, `server:
  chroot: ""
  username: ""
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  num-threads: 1
  interface: %s@%s
  access-control: 127.0.0.0/8 allow
  do-ip6: no
  val-log-level: 2
  trust-anchor-file: "%s"
remote-control:
  control-enable: no
`, host, port, anchor)
	for _, f := range files {
		fmt.Fprintf(&b, "auth-zone:\n  name: %q\n  zonefile: %q\n  for-upstream: yes\n  for-downstream: no\n  fallback-enabled: no\n", f.name, f.path)
	}
	return b.String(), nil
}

// Package exim starts a private Exim. Debian's package conflicts with
// Postfix's, so that it is not installed but run from the folder into which
// scripts/exim unpacks it. It needs root; files of the machine that it wants to
// be otherwise are so in a mount namespace of its own.
package exim

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ErrNotInstalled means that there is no Exim on this machine.
var ErrNotInstalled = errors.New("exim is not there; scripts/exim fetches it")

// Spec says what an Exim is to be.
type Spec struct {
	Program    string // path of exim4
	Listen     string // "127.0.x.y:port"
	Host       string // its name
	Main       string // further lines of the main part
	ACL        string // the part after "begin acl", and so on
	Routers    string
	Transports string
}

// Server is a running Exim.
type Server struct {
	dir   string
	cmd   *exec.Cmd
	out   bytes.Buffer
	ended chan struct{}
}

// Start writes a configuration and runs it; Stop ends it.
func Start(s Spec) (*Server, error) {
	program, err := filepath.Abs(s.Program)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(program); err != nil {
		return nil, ErrNotInstalled
	}
	dir, err := os.MkdirTemp("/tmp", "exim")
	if err != nil {
		return nil, err
	}
	srv := &Server{dir: dir, ended: make(chan struct{})}
	if err := srv.start(s, program); err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	return srv, nil
}

func (srv *Server) start(s Spec, program string) error {
	spool := filepath.Join(srv.dir, "spool")
	if err := errors.Join(os.Chmod(srv.dir, 0o755), os.Mkdir(spool, 0o700), os.Chown(spool, eximID, eximID)); err != nil {
		return err
	}
	ip, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf(`exim_path = %s
spool_directory = %s
log_file_path = %s/log.%%s
pid_file_path = %s/pid
primary_hostname = %s
local_interfaces = %s
daemon_smtp_ports = %s
# What a private one must not do: become root again, ask the client's host about
# its users, look into the environment.
deliver_drop_privilege
rfc1413_query_timeout = 0s
keep_environment =
tls_advertise_hosts =
acl_smtp_rcpt = acl_check_rcpt
%s
begin acl
%s
begin routers
%s
begin transports
%s
begin retry
* * F,1h,2s
`, program, spool, spool, srv.dir, s.Host, ip, port, s.Main, s.ACL, s.Routers, s.Transports)
	files := map[string]string{"conf": conf}
	// Exim does not start without the user that its package would have made.
	for name, line := range map[string]string{"passwd": "Debian-exim:x:%d:%[1]d::/nonexistent:/usr/sbin/nologin\n", "group": "Debian-exim:x:%d:\n"} {
		b, err := os.ReadFile("/etc/" + name)
		if err != nil {
			return err
		}
		files[name] = string(b) + fmt.Sprintf(line, eximID)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(srv.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	srv.cmd = exec.Command("unshare", "-m", "sh", "-c", `mount --bind "$0/passwd" /etc/passwd && mount --bind "$0/group" /etc/group && exec "$1" -C "$0/conf" -bdf -q2s`, srv.dir, program)
	srv.cmd.Stdout, srv.cmd.Stderr = &srv.out, &srv.out
	srv.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := srv.cmd.Start(); err != nil {
		srv.cmd = nil
		return err
	}
	go func() {
		srv.cmd.Wait()
		close(srv.ended)
	}()
	return srv.await(s.Listen)
}

// eximID is a user and group id that nobody has.
const eximID = 64997

func (srv *Server) await(addr string) error {
	for range 200 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			return conn.Close()
		}
		select {
		case <-srv.ended:
			return fmt.Errorf("exim ended:\n%s%s", srv.out.String(), srv.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("exim does not listen:\n%s", srv.Log())
}

// Stop ends the server and removes its folder.
func (srv *Server) Stop() error {
	if srv.cmd != nil {
		srv.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-srv.ended:
		case <-time.After(10 * time.Second):
			srv.cmd.Process.Kill()
			<-srv.ended
		}
	}
	return os.RemoveAll(srv.dir)
}

// Log is what it has logged so far.
func (srv *Server) Log() string {
	var b strings.Builder
	for _, name := range []string{"log.main", "log.reject", "log.panic"} {
		if text, err := os.ReadFile(filepath.Join(srv.dir, "spool", name)); err == nil {
			b.Write(text)
		}
	}
	return b.String()
}

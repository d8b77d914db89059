// Package postfix starts a private Postfix, as one that is the next hop of a
// gateway: it takes mail for a few domains with TLS and hands all of it to a
// sink. It needs root, as Postfix does, and touches nothing outside its folder.
package postfix

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNotInstalled means that there is no Postfix on this machine.
var ErrNotInstalled = errors.New("postfix is not installed; scripts/deps installs it")

// Spec says what a Postfix is to be.
type Spec struct {
	Listen    string   // "127.0.x.y:port"
	Host      string   // its name
	Domains   []string // it takes mail for
	Refuse    []string // recipients that it refuses
	Cert, Key string   // PEM files; "": no TLS. Cert may hold the chain.
	Sink      string   // "ip:port" where all mail goes that Extra sends nowhere else
	Extra     string   // further lines of main.cf
	Services  string   // lines of master.cf in place of the one for Listen
}

// Server is a running Postfix.
type Server struct {
	Addr string
	dir  string
	conf string
}

// Start writes a configuration and runs it; Stop ends it.
func Start(s Spec) (*Server, error) {
	if _, err := exec.LookPath("postfix"); err != nil {
		return nil, ErrNotInstalled
	}
	// Not a test's own folder: the path of its sockets must be short, and
	// readable for the user that Postfix becomes.
	dir, err := os.MkdirTemp("/tmp", "pf")
	if err != nil {
		return nil, err
	}
	srv := &Server{Addr: s.Listen, dir: dir, conf: filepath.Join(dir, "conf")}
	if err := srv.start(s); err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	return srv, nil
}

func (srv *Server) start(s Spec) error {
	if err := os.Chmod(srv.dir, 0o755); err != nil {
		return err
	}
	for _, d := range []string{"conf", "queue", "data"} {
		if err := os.Mkdir(filepath.Join(srv.dir, d), 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("chown", "postfix", filepath.Join(srv.dir, "data")).CombinedOutput(); err != nil {
		return fmt.Errorf("chown: %w: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(srv.conf, "main.cf"), []byte(srv.mainCF(s)), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(srv.conf, "master.cf"), []byte(s.services()+services), 0o644); err != nil {
		return err
	}
	if out, err := exec.Command("postconf", "-c", srv.conf, "-n").CombinedOutput(); err != nil || strings.Contains(string(out), "overriding earlier entry") {
		return fmt.Errorf("main.cf is not right, or sets a parameter twice (see without): %v\n%s", err, out)
	}
	if out, err := exec.Command("postfix", "-c", srv.conf, "start").CombinedOutput(); err != nil {
		return fmt.Errorf("postfix start: %w\n%s", err, out)
	}
	for range 200 {
		if conn, err := net.Dial("tcp", s.Listen); err == nil {
			return conn.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("postfix does not listen:\n%s", srv.Log())
}

// Stop ends the server and removes its folder.
func (srv *Server) Stop() error {
	return errors.Join(srv.end(), os.RemoveAll(srv.dir))
}

// end does what "postfix stop" does, but within bounds: a Postfix that is
// stopped while it starts waits for its own log, which nobody writes any more.
// The master leads a process group of its own, which holds all its services.
func (srv *Server) end() error {
	b, err := os.ReadFile(filepath.Join(srv.dir, "queue", "pid", "master.pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has not started
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("postfix's process id is %q: %w", b, err)
	}
	syscall.Kill(pid, syscall.SIGTERM)
	for tries := 0; tries < 100 && runs(pid); tries++ {
		time.Sleep(50 * time.Millisecond)
	}
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("postfix does not end: %w", err)
	}
	return nil
}

// runs tells a process from one that has ended and was not waited for.
func runs(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, state, _ := strings.Cut(string(b), ") ")
	return err == nil && !strings.HasPrefix(state, "Z")
}

// Log is what it has logged so far.
func (srv *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(srv.dir, "mail.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// services are those that take mail.
func (s Spec) services() string {
	if s.Services != "" {
		return s.Services
	}
	return s.Listen + " inet n - n - - smtpd\n"
}

func (srv *Server) mainCF(s Spec) string {
	host, port, _ := strings.Cut(s.Sink, ":")
	var refuse strings.Builder
	for _, r := range s.Refuse {
		fmt.Fprintf(&refuse, " {%s = REJECT}", r)
	}
	lines := []string{
		"compatibility_level = 3.6",
		"queue_directory = " + srv.dir + "/queue",
		"data_directory = " + srv.dir + "/data",
		"inet_interfaces = all",
		"inet_protocols = ipv4",
		"myhostname = " + s.Host,
		"mydestination =",
		"mynetworks =",
		"relay_domains = " + strings.Join(s.Domains, " "),
		"relay_recipient_maps =",
		"relayhost = [" + host + "]:" + port,
		"disable_dns_lookups = yes",
		// It would add fields for clients on its own addresses, which loopback's are.
		"local_header_rewrite_clients =",
		"smtpd_relay_restrictions = reject_unauth_destination",
		"alias_maps =",
		"maillog_file = " + srv.dir + "/mail.log",
		"maillog_file_prefixes = " + srv.dir,
	}
	if refuse.Len() > 0 {
		lines = append(lines, "smtpd_recipient_restrictions = check_recipient_access inline:{"+refuse.String()+" }")
	}
	if s.Cert != "" {
		lines = append(lines, "smtpd_tls_security_level = may", "smtpd_tls_chain_files = "+s.Key+", "+s.Cert)
	}
	return strings.Join(append(without(lines, s.Extra), s.Extra), "\n") + "\n"
}

// without leaves out the lines whose parameter is among those of extra. A
// parameter set twice is a warning of each process that reads the file, and
// postlogd's own goes into the socket that it alone empties: with that full,
// it waits for itself.
func without(lines []string, extra string) []string {
	again := map[string]bool{}
	for line := range strings.Lines(extra) {
		again[parameter(line)] = true
	}
	return slices.DeleteFunc(lines, func(line string) bool { return again[parameter(line)] })
}

// parameter is the name that a line of main.cf sets.
func parameter(line string) string {
	name, _, _ := strings.Cut(line, "=")
	return strings.TrimSpace(name)
}

// services is the rest of a master.cf with nothing chrooted. The queue manager
// is woken every second: a message that it finds locked goes to a queue that it
// only looks through when something wakes it.
const services = `pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

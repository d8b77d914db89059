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
	"strings"
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
	Sink      string   // "ip:port" where the mail goes
	Extra     string   // further lines of main.cf
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
	if err := os.WriteFile(filepath.Join(srv.conf, "master.cf"), []byte(s.Listen+services), 0o644); err != nil {
		return err
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
	var failed error
	if _, err := os.Stat(filepath.Join(srv.dir, "queue", "pid", "master.pid")); err == nil {
		if out, err := exec.Command("postfix", "-c", srv.conf, "stop").CombinedOutput(); err != nil {
			failed = fmt.Errorf("postfix stop: %w\n%s", err, out)
		}
	}
	return errors.Join(failed, os.RemoveAll(srv.dir))
}

// Log is what it has logged so far.
func (srv *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(srv.dir, "mail.log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
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
	return strings.Join(append(lines, s.Extra), "\n") + "\n"
}

// services is the rest of a master.cf with nothing chrooted.
const services = ` inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
`

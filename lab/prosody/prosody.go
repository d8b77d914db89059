// Package prosody starts a private Prosody on a loopback address of its own,
// as the chat server that other domains run and that a component is connected
// to. It touches nothing outside its folder.
package prosody

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"mailxmppd/lab/harness"
)

// ErrNotInstalled means that there is no Prosody on this machine, or that it
// cannot ask DNS as the lab needs it.
var ErrNotInstalled = errors.New("prosody or lua-unbound is not installed; scripts/deps installs them")

// Host is a domain that the server serves.
type Host struct {
	Name      string
	Cert, Key string // PEM files
	Secret    string // of the component that the domain is; "": the server serves it
}

// Spec says what a Prosody is to be.
type Spec struct {
	Hosts []Host
	CA    string // PEM file of the authorities that it trusts
	DNS   string // "ip:port" that it asks
	// DialbackOnly leaves it without SASL: peers can be known by DNS alone.
	DialbackOnly bool
	Extra        string // further lines of the global section
}

// Server is a running Prosody.
type Server struct {
	IP        string // where it listens
	StartTLS  string // "ip:port" for streams between servers
	Direct    string // the same with direct TLS
	Component string // "ip:port" for components
	dir       string
	daemon    *harness.Daemon
}

// Start writes a configuration and runs it; Stop ends it.
func Start(s Spec) (*Server, error) {
	unbound, _ := filepath.Glob("/usr/lib/*/lua/5.*/lunbound.so")
	if _, err := exec.LookPath("prosody"); err != nil || len(unbound) == 0 {
		return nil, ErrNotInstalled
	}
	ip, err := harness.FreeIP(5269, 5270, 5347)
	if err != nil {
		return nil, err
	}
	dir, err := harness.ShortDir()
	if err != nil {
		return nil, err
	}
	srv := &Server{
		IP: ip, StartTLS: net.JoinHostPort(ip, "5269"), Direct: net.JoinHostPort(ip, "5270"),
		Component: net.JoinHostPort(ip, "5347"), dir: dir,
	}
	conf := filepath.Join(dir, "prosody.cfg.lua")
	if err := os.WriteFile(conf, []byte(srv.config(s)), 0o600); err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	srv.daemon, err = harness.StartDaemon(exec.Command("prosody", "--config", conf), filepath.Join(dir, "log"),
		srv.StartTLS, srv.Direct, srv.Component)
	if err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	return srv, nil
}

// Stop ends the server and removes its folder.
func (srv *Server) Stop() error {
	if srv.daemon != nil {
		srv.daemon.Stop()
	}
	return os.RemoveAll(srv.dir)
}

// Log is the end of what it has logged.
func (srv *Server) Log() string { return srv.daemon.Log() }

// PID is the process id of the server.
func (srv *Server) PID() int { return srv.daemon.PID() }

func (srv *Server) config(s Spec) string {
	modules := []string{"disco", "ping", "version", "tls", "dialback", "s2s", "s2s_bidi", "smacks"}
	if !s.DialbackOnly {
		modules = append(modules, "saslauth", "s2s_auth_certs")
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("daemonize = false")
	line("run_as_root = true")
	line("pidfile = %q", filepath.Join(srv.dir, "pid"))
	line("data_path = %q", filepath.Join(srv.dir, "data"))
	line("certificates = %q", srv.dir)
	line("log = { { levels = { min = \"info\" }, to = \"console\" } }")
	// No "limits": it holds streams between servers to 30 kB/s even without
	// settings of its own.
	line("modules_enabled = { \"%s\" }", strings.Join(modules, `", "`))
	line("modules_disabled = { \"c2s\" }")
	host, port, _ := net.SplitHostPort(s.DNS)
	line("unbound = { resolvconf = false, hoststxt = false, forward = { \"%s@%s\" },", host, port)
	line("  options = { [\"do-not-query-localhost:\"] = \"no\", [\"use-caps-for-id:\"] = \"no\", [\"module-config:\"] = \"iterator\" } }")
	for _, service := range []struct{ name, port string }{{"s2s", "5269"}, {"s2s_direct_tls", "5270"}, {"component", "5347"}} {
		line("%s_interfaces = { %q }\n%s_ports = { %s }", service.name, srv.IP, service.name, service.port)
	}
	line("s2s_require_encryption = true\ns2s_secure_auth = %t", !s.DialbackOnly)
	if len(s.Hosts) > 0 {
		line("%s", tlsOf(s.Hosts[0], s.CA))
	}
	line("%s", s.Extra)
	for _, h := range s.Hosts {
		if h.Secret == "" {
			line("VirtualHost %q", h.Name)
		} else {
			line("Component %q\n  component_secret = %q", h.Name, h.Secret)
		}
		line("  %s", tlsOf(h, s.CA))
	}
	return b.String()
}

func tlsOf(h Host, ca string) string {
	return fmt.Sprintf("ssl = { key = %q, certificate = %q, cafile = %q }", h.Key, h.Cert, ca)
}

// Package ejabberd starts a private ejabberd on a loopback address of its own,
// as the chat server that other domains run and that a component is connected
// to. It touches nothing outside its folder and needs no ejabberdctl.
package ejabberd

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

// ErrNotInstalled means that there is no ejabberd on this machine.
var ErrNotInstalled = errors.New("ejabberd is not installed; scripts/deps installs it")

// Component is a domain that a component serves.
type Component struct{ Name, Secret string }

// Spec says what an ejabberd is to be.
type Spec struct {
	Hosts      []string // domains that it serves
	Components []Component
	Certs      []string // PEM files, each of a key and a certificate
	CA         string   // PEM file of the authorities that it trusts
	DNS        string   // "ip:port" that it asks for SRV; see Start for what SRV names
	// DialbackOnly has it know peers by DNS alone: it takes no certificate for
	// proven, so CA must be one that has issued none of theirs.
	DialbackOnly bool
	Extra        string // further lines of the configuration
}

// Server is a running ejabberd.
type Server struct {
	IP        string // where it listens
	StartTLS  string // "ip:port" for streams between servers
	Direct    string // the same with direct TLS
	Component string // "ip:port" for components
	dir       string
	daemon    *harness.Daemon
}

// library is where Debian has the program's modules, one folder a version.
const library = "/usr/lib/*-linux-gnu/ejabberd-*/ebin/ejabberd.beam"

// Start writes a configuration and runs it; Stop ends it. The server asks its
// DNS for SRV alone, and the system for the hosts that SRV names: those can be
// written as addresses ("127.0.0.1."), which no system looks up.
func Start(s Spec) (*Server, error) {
	beams, _ := filepath.Glob(library)
	if _, err := exec.LookPath("erl"); err != nil || len(beams) == 0 {
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
	if err := srv.start(s, filepath.Dir(filepath.Dir(filepath.Dir(beams[0])))); err != nil {
		return nil, errors.Join(err, srv.Stop())
	}
	return srv, nil
}

func (srv *Server) start(s Spec, libs string) error {
	db := filepath.Join(srv.dir, "db")
	if err := os.Mkdir(db, 0o700); err != nil {
		return err
	}
	conf, names := filepath.Join(srv.dir, "ejabberd.yml"), filepath.Join(srv.dir, "inetrc")
	if err := os.WriteFile(conf, []byte(srv.config(s)), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(names, []byte(resolver(s)), 0o600); err != nil {
		return err
	}
	// Without a node name Erlang starts no daemon beside it.
	cmd := exec.Command("erl", "+K", "true", "-noinput", "-mnesia", "dir", fmt.Sprintf("%q", db), "-s", "ejabberd")
	cmd.Dir = db
	cmd.Env = append(os.Environ(), "HOME="+db, "ERL_LIBS="+libs, "ERL_INETRC="+names, "EJABBERD_CONFIG_PATH="+conf,
		"EJABBERD_LOG_PATH="+filepath.Join(srv.dir, "ejabberd.log"), "CONTRIB_MODULES_CONF_DIR="+filepath.Join(srv.dir, "modules.d"))
	var err error
	srv.daemon, err = harness.StartDaemon(cmd, filepath.Join(srv.dir, "log"), srv.StartTLS, srv.Direct, srv.Component)
	return err
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

// resolver is what Erlang reads from ERL_INETRC.
func resolver(s Spec) string {
	host, port, _ := net.SplitHostPort(s.DNS)
	return fmt.Sprintf("{resolv_conf,\"\"}.\n{hosts_file,\"\"}.\n{lookup,[dns]}.\n{nameserver,{%s},%s}.\n",
		strings.ReplaceAll(host, ".", ","), port)
}

func (srv *Server) config(s Spec) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("hosts: [%s]", quoted(s.Hosts))
	line("loglevel: info")
	line("certfiles: [%s]", quoted(s.Certs))
	line("ca_file: %q\ns2s_cafile: %q", s.CA, s.CA)
	if s.DialbackOnly {
		line("s2s_use_starttls: required")
	} else {
		line("s2s_use_starttls: required_trusted")
	}
	line("s2s_dns_timeout: 3 seconds")
	line("listen:")
	line("  - {port: 5269, ip: %q, module: ejabberd_s2s_in, max_stanza_size: 524288}", srv.IP)
	line("  - {port: 5270, ip: %q, module: ejabberd_s2s_in, tls: true, max_stanza_size: 524288}", srv.IP)
	var parts []string
	for _, c := range s.Components {
		parts = append(parts, fmt.Sprintf("%q: {password: %q}", c.Name, c.Secret))
	}
	line("  - {port: 5347, ip: %q, module: ejabberd_service, access: all, max_stanza_size: 524288, hosts: {%s}}", srv.IP, strings.Join(parts, ", "))
	modules := "mod_disco: {}, mod_ping: {}, mod_stream_mgmt: {}, mod_version: {}"
	if s.DialbackOnly {
		modules += ", mod_s2s_dialback: {}"
	}
	line("modules: {%s}", modules)
	line("acme: {auto: false}")
	line("%s", s.Extra)
	return b.String()
}

func quoted(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = fmt.Sprintf("%q", w)
	}
	return strings.Join(out, ", ")
}

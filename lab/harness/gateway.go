// Package harness runs gateways as processes of their own for the lab: a
// throwaway CA, configurations, next hops that count what arrives, and a load
// generator. It takes real executables, so that killing them is real.
package harness

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Build compiles the gateway with build tags into dir and returns the path.
func Build(dir string, tags ...string) (string, error) {
	exe := filepath.Join(dir, "mailxmppd")
	compiler := "go"
	if set := os.Getenv("MAILXMPPD_LAB_GO"); set != "" {
		compiler = set // for tests that empty PATH
	}
	cmd := exec.Command(compiler, "build", "-tags", strings.Join(tags, ","), "-o", exe, "mailxmppd/cmd/mailxmppd")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the gateway: %w\n%s", err, out)
	}
	return exe, nil
}

// Gateway is one gateway process with its configuration.
type Gateway struct {
	Exe    string
	Domain string
	SMTP   string   // address of the relay listener
	LMTP   string   // address of an LMTP listener, or ""
	XMPP   string   // address for streams
	Config string   // path of the configuration file
	Wrap   []string // a command to run the gateway under, e.g. strace

	mu      sync.Mutex
	cmd     *exec.Cmd
	ended   chan struct{}
	stopped chan struct{} // closed when a stop point was reached
	log     []string
}

// Spec says how a gateway is configured.
type Spec struct {
	Exe, Dir   string
	CA         *CA
	Domain     string
	Service    string            // its name over XMPP, where that is another
	Cert, Key  string            // files; "" for new ones from CA
	DNS        string            // address of the name server; "" for none that answers
	Store      string            // URL
	Schema     string            // Postgres
	Node       string            // Postgres; "" for "lab"
	Deliver    string            // hop URL of the final delivery
	SMTP, XMPP string            // addresses, from FreeAddrs
	LMTP       string            // the same, or "" for no such listener
	Peers      map[string]string // domain -> address of its streams
	Route      string            // hop URL for all other domains, "" for MX
	Extra      string            // further TOML
}

// NewGateway writes the configuration; Start runs it.
func NewGateway(s Spec) (*Gateway, error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	cert, key := s.Cert, s.Key
	if cert == "" {
		var err error
		if cert, key, err = s.CA.Issue(s.Domain); err != nil {
			return nil, err
		}
	}
	if s.DNS == "" {
		s.DNS = "127.0.0.1:9" // discard: answers nothing
	}
	g := &Gateway{Exe: s.Exe, Domain: s.Domain, SMTP: s.SMTP, LMTP: s.LMTP, XMPP: s.XMPP, Config: filepath.Join(s.Dir, "config.toml")}
	return g, os.WriteFile(g.Config, []byte(s.toml(cert, key)), 0o600)
}

func (s Spec) toml(cert, key string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[[domain]]\nname = %q\ncertificate = %q\nkey = %q\ndeliver = %q\nverify = \"none\"\n", s.Domain, cert, key, s.Deliver)
	if s.Service != "" {
		fmt.Fprintf(&b, "service = %q\n", s.Service)
	}
	for kind, addr := range map[string]string{"relay": s.SMTP, "lmtp": s.LMTP} {
		if addr != "" {
			fmt.Fprintf(&b, "[[listener]]\nkind = %q\naddress = %q\ntls = \"none\"\ntrusted = [\"127.0.0.0/8\"]\n", kind, addr)
		}
	}
	fmt.Fprintf(&b, "[store]\nurl = %q\n", s.Store)
	if s.Schema != "" {
		fmt.Fprintf(&b, "schema = %q\nnode = %q\n", s.Schema, cmp.Or(s.Node, "lab"))
	}
	fmt.Fprintf(&b, "[dns]\nservers = [%q]\n[tls]\nroots = %q\n[admin]\nsocket = %q\n", s.DNS, s.CA.File, filepath.Join(s.Dir, "admin.sock"))
	for domain, addr := range s.Peers {
		fmt.Fprintf(&b, "[[peer]]\ndomain = %q\naddress = [%q]\npolicy = \"required\"\n", domain, addr)
	}
	if s.Route != "" {
		fmt.Fprintf(&b, "[[route]]\ndomain = \"*\"\nnext = %q\ntls = \"none\"\n", s.Route)
	}
	fmt.Fprintf(&b, "[xmpp]\nlisten = [%q]\n%s\n", s.XMPP, s.Extra)
	return b.String()
}

// Free ports are looked for below the range that the system hands out for
// outgoing connections, so that a stopped gateway's port stays free.
const (
	lowestPort  = 10240
	portsAtHand = 22000
)

// nextPort walks through the range, from a place of its own in each process.
var nextPort atomic.Int64

// FreeAddrs finds n free loopback addresses, no two calls the same ones.
func FreeAddrs(n int) ([]string, error) {
	nextPort.CompareAndSwap(0, int64(rand.N(portsAtHand))+1)
	var addrs []string
	for tries := 0; len(addrs) < n; tries++ {
		addr := fmt.Sprintf("127.0.0.1:%d", lowestPort+nextPort.Add(1)%portsAtHand)
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			if tries > 1000 {
				return nil, err
			}
			continue
		}
		ln.Close()
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// ShortDir makes a temporary folder whose path leaves room for a Unix socket's
// name (108 octets); the caller removes it.
func ShortDir() (string, error) { return os.MkdirTemp("", "mxlab-") }

// Start runs the gateway, with further environment, and waits until it greets.
func (g *Gateway) Start(ctx context.Context, env ...string) error {
	args := append(append([]string{}, g.Wrap...), g.Exe, "serve", "--config", g.Config)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	g.mu.Lock()
	g.cmd, g.ended, g.stopped, g.log = cmd, make(chan struct{}), make(chan struct{}), nil
	ended, stopped := g.ended, g.stopped
	g.mu.Unlock()
	go func() {
		g.read(bufio.NewScanner(out), stopped)
		cmd.Wait()
		close(ended)
	}()
	return g.awaitGreeting(ctx, ended, stopped)
}

// read keeps the last lines of the log and watches for the stop point.
func (g *Gateway) read(lines *bufio.Scanner, stopped chan struct{}) {
	for reached := false; lines.Scan(); {
		g.mu.Lock()
		if g.log = append(g.log, lines.Text()); len(g.log) > 2000 {
			g.log = g.log[1000:]
		}
		g.mu.Unlock()
		if (strings.HasPrefix(lines.Text(), "stopped at ") || strings.HasPrefix(lines.Text(), "paused at ")) && !reached {
			reached = true
			close(stopped)
		}
	}
}

// awaitGreeting polls the SMTP port for at most 20 s.
func (g *Gateway) awaitGreeting(ctx context.Context, ended, stopped chan struct{}) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		if c, err := net.DialTimeout("tcp", g.SMTP, time.Second); err == nil {
			c.SetDeadline(time.Now().Add(2 * time.Second))
			line, _ := bufio.NewReader(c).ReadString('\n')
			c.Close()
			if strings.HasPrefix(line, "220 ") {
				return nil
			}
		}
		select {
		case <-ended:
			return errors.New("gateway ended:\n" + g.Log())
		case <-stopped:
			return nil
		case <-ctx.Done():
			return errors.New("gateway does not greet:\n" + g.Log())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// PID is the process id of the running gateway (of its wrapper, if any).
func (g *Gateway) PID() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cmd.Process.Pid
}

// AtStopPoint is closed once the gateway has stopped, or paused, where its
// environment says (see mail/faults).
func (g *Gateway) AtStopPoint() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.stopped
}

// Kill ends the gateway by SIGKILL and waits for its end.
func (g *Gateway) Kill() error { return g.end(syscall.SIGKILL, 10*time.Second) }

// Stop ends the gateway by SIGTERM, and by SIGKILL if it takes over a minute.
func (g *Gateway) Stop() error { return g.end(syscall.SIGTERM, time.Minute) }

func (g *Gateway) end(sig syscall.Signal, patience time.Duration) error {
	g.mu.Lock()
	cmd, ended := g.cmd, g.ended
	g.mu.Unlock()
	if cmd == nil {
		return nil
	}
	cmd.Process.Signal(sig)
	select {
	case <-ended:
		return nil
	case <-time.After(patience):
		cmd.Process.Kill()
		<-ended
		return fmt.Errorf("gateway of %s did not end after %s:\n%s", g.Domain, sig, g.Log())
	}
}

// Log returns the last lines that the process wrote on standard error.
func (g *Gateway) Log() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.log, "\n")
}
